// The inner loops, as a table of functions: one table per instruction set, chosen when a ring is made.
//
// All work on one residue polynomial ("limb") of n values below q unless said otherwise. Transforms
// take and give values in the order of Harvey and of SEAL: coefficients in natural order, values
// at psi^(2 bitreverse(i) + 1) at place i.
#pragma once

#include "arith.h"

namespace pi {

// Twiddle factors of one prime and one direction. Node 1 is the whole transform, nodes 2g and 2g+1
// are the halves of node g, so a table serves every smaller transform too. For the last two stages
// the vectorized transform wants the factors of eight neighboring groups of eight values side by
// side: 8 factors, then their 8 quotients. Where kernels make a tail, that stands for the last three
// stages of both directions: then there are nodes 1 .. n/8 - 1, and of the inverse 1 .. 63.
struct Twiddles {
    Factor* node;             // nodes 1 .. n-1
    u64* pairs = nullptr;     // of nodes 2g, 2g+1: 2 vectors of 16 words for each 8 nodes g
    u64* quads = nullptr;     // of nodes 4g ... 4g+3: 4 vectors of 16 words for each 8 nodes g
    u64* tail = nullptr;
};

struct Table {
    Modulus m;
    Twiddles forward;
    Twiddles inverse;
};

struct Kernels {
    const char* name;
    int word;            // S, see arith.h
    int max_prime_bits;

    void (*ntt)(u64* x, std::size_t n, const Table& t);
    // Inverse transform of x, which may be z, times a factor that includes 1/n.
    void (*intt)(u64* z, const u64* x, std::size_t n, const Table& t, Factor scale);

    void (*add)(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m);
    void (*sub)(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m);
    // y has n >> log_repeat values, each standing for 2^log_repeat neighbors.
    void (*add_repeated)(u64* z, const u64* x, const u64* y, int log_repeat, std::size_t n, const Modulus& m);
    void (*neg)(u64* z, const u64* x, std::size_t n, const Modulus& m);
    // z = (x - y) f for the transform of y, whose memory is used up, and plus a where a is not null; where `from`
    // is not null, permuted into another place (where it is null, z may be y).
    void (*sub_transformed)(u64* z, const u64* x, u64* y, const u64* a, Factor f, const u32* from, std::size_t n,
                            const Table& t);
    // z += x f.
    void (*add_scaled)(u64* z, const u64* x, Factor f, std::size_t n, const Modulus& m);
    // z = x y + a.
    void (*mul_add)(u64* z, const u64* x, const u64* y, const u64* a, std::size_t n, const Modulus& m);
    // z0, z1, z2 = x0 y0, x0 y1 + x1 y0, x1 y1.
    void (*tensor)(u64* z0, u64* z1, u64* z2, const u64* x0, const u64* x1, const u64* y0, const u64* y1,
                   std::size_t n, const Modulus& m);
    // z0 = sum f_k x0_k and z1 = sum f_k x1_k; f_k is repeated like y above. With `into`, added to z.
    void (*dot)(u64* z0, u64* z1, const u64* const* f, const int* log_repeat, const u64* const* x0,
                const u64* const* x1, std::size_t terms, std::size_t n, const Modulus& m, bool into);
    // z_j = sum_k w[j inputs + k] x_k for each output j, with numbers w below q; n is a multiple of 64. With `into`,
    // added to z.
    void (*combine)(u64* const* z, std::size_t outputs, const u64* const* x, std::size_t inputs, const u64* w,
                    std::size_t n, const Modulus& m, bool into);
    // z = sum y_k c_k - v d for values y_k of other primes below max_prime_bits; as a transform takes it, which
    // may not be reduced.
    void (*convert)(u64* z, const u64* const* y, const u64* c, std::size_t terms, const u64* v, u64 minus_d,
                    std::size_t n, const Modulus& m);
    // v = nearest integer to sum y_k / q_k.
    void (*quotients)(u64* v, const u64* const* y, const double* inverse, std::size_t terms, std::size_t n);
    // Signed integers, as doubles below 2^51 in magnitude, to residues.
    void (*lift)(u64* z, const double* x, std::size_t n, const Modulus& m);
    // Value i is the one at from[i]: an automorphism's table, which moves blocks of eight values whole and the
    // same way inside all of a block. Behind it is, for each block, where it goes.
    void (*permute)(u64* z, const u64* x, const u32* from, std::size_t n);
    // z += x permuted.
    void (*add_permuted)(u64* z, const u64* x, const u32* from, std::size_t n, const Modulus& m);
    // Complex transform sum_k x_k exp(sign 2 pi i t k / n), input in bit-reversed order.
    void (*fft)(double* re, double* im, std::size_t n, const double* cosine, const double* sine, double sign);
    // Some butterflies of one of its stages.
    void (*fft_part)(double* re, double* im, std::size_t half, std::size_t from, std::size_t to, const double* cosine,
                     const double* sine, double sign);
    // Whether every value is below q.
    bool (*reduced)(const u64* x, std::size_t n, const Modulus& m);
    // `convert` to several primes, which read each y once for four of them; null: one after the other.
    void (*convert_many)(u64* const* z, std::size_t targets, const u64* const* y, const u64* const* c,
                         std::size_t terms, const u64* v, const u64* minus_d, std::size_t n,
                         const Modulus* const* m) = nullptr;
    // Writes 7 n / 4 words from all nodes of the forward direction; where that is not null, n is 1024 at least.
    void (*make_tail)(u64* tail, const Factor* node, std::size_t n, const Modulus& m) = nullptr;
    // A twiddle factor in the form that ntt and intt read; null where that is a Factor.
    Factor (*twiddle)(u64 w, const Modulus& m) = nullptr;
};

const Kernels* portable_kernels();
// Null where the compiler or the processor cannot.
const Kernels* ifma_kernels();
const Kernels* avx2_kernels();

}  // namespace pi
