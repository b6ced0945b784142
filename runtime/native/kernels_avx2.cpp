// The inner loops with AVX2 and FMA, for primes below 2^50.
// Residues are multiplied as doubles, see avx2_ntt.h.
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cmath>
#include <cstring>

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include "avx2_ntt.h"
#include "fft.h"

namespace pi {
namespace {

// Products below 0.75 q that add up to less than 2^53.
constexpr std::size_t CHUNK = 8;
constexpr std::size_t AHEAD = 256;

// Reads four values of which each repeats 2^log_repeat times.
INLINE V repeated(const u64* p, int r, std::size_t i) {
    if (r == 0) return load(p + i);
    if (r == 1) {
        const __m128i two = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + (i >> 1)));
        return _mm256_permute4x64_epi64(_mm256_castsi128_si256(two), 0x50);
    }
    return set(p[i >> r]);
}

// An automorphism moves blocks of four values as it does those of eight.
INLINE std::size_t block(const u32* from, std::size_t i) { return from[i] & ~u32{3}; }

// Four values of an automorphism, from their block; places of 32-bit halves are read modulo eight.
INLINE V moved(V x, const u32* from, std::size_t i) {
    V at = _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    at = _mm256_slli_epi64(at, 1);
    at = _mm256_or_si256(at, _mm256_slli_epi64(_mm256_or_si256(at, set(u64{1})), 32));
    return _mm256_permutevar8x32_epi32(x, at);
}

// x, or x + q where x is negative; for magnitudes below 2^63.
INLINE V lift(V x, V q) {
    V negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), x);
    return _mm256_add_epi64(x, _mm256_and_si256(negative, q));
}

INLINE V sum(V x, V y, V q) { return lift(_mm256_sub_epi64(_mm256_add_epi64(x, y), q), q); }

void add(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 4) store(z + i, sum(load(x + i), load(y + i), q));
}

void sub(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 4) store(z + i, lift(_mm256_sub_epi64(load(x + i), load(y + i)), q));
}

void add_repeated(u64* z, const u64* x, const u64* y, int r, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 4) store(z + i, sum(load(x + i), repeated(y, r, i), q));
}

void neg(u64* z, const u64* x, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 4) store(z + i, lift(_mm256_sub_epi64(_mm256_setzero_si256(), load(x + i)), q));
}

void sub_transformed(u64* z, const u64* x, u64* y, const u64* a, Factor f, const u32* from, std::size_t n,
                     const Table& t) {
    ntt(y, n, t);
    const Modulus& m = t.m;
    const Prime p(m);
    const Pair w = pair(f.w, m);
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 4) {
        const std::size_t at = from ? block(from, i) : i;
        V v = p.positive(p.mul(_mm256_sub_pd(real(load(x + at)), real(load(y + at))), w));
        if (a) v = sum(v, load(a + at), q);
        store(z + i, from ? moved(v, from, i) : v);
    }
}

void add_scaled(u64* z, const u64* x, Factor f, std::size_t n, const Modulus& m) {
    const Prime p(m);
    const Pair w = pair(f.w, m);
    for (std::size_t i = 0; i < n; i += 4)
        store(z + i, p.full(_mm256_add_pd(real(load(z + i)), p.mul(real(load(x + i)), w))));
}

void mul_add(u64* z, const u64* x, const u64* y, const u64* a, std::size_t n, const Modulus& m) {
    const Prime p(m);
    for (std::size_t i = 0; i < n; i += 4)
        store(z + i, p.full(_mm256_add_pd(p.mul(real(load(x + i)), real(load(y + i))), real(load(a + i)))));
}

void tensor(u64* z0, u64* z1, u64* z2, const u64* x0, const u64* x1, const u64* y0, const u64* y1, std::size_t n,
            const Modulus& m) {
    const Prime p(m);
    for (std::size_t i = 0; i < n; i += 4) {
        D a0 = real(load(x0 + i)), a1 = real(load(x1 + i)), b0 = real(load(y0 + i)), b1 = real(load(y1 + i));
        store(z0 + i, p.positive(p.mul(a0, b0)));
        store(z1 + i, p.full(_mm256_add_pd(p.mul(a0, b1), p.mul(a1, b0))));
        store(z2 + i, p.positive(p.mul(a1, b1)));
    }
}

void dot(u64* z0, u64* z1, const u64* const* f, const int* r, const u64* const* x0, const u64* const* x1,
         std::size_t terms, std::size_t n, const Modulus& m, bool into) {
    const Prime p(m);
    for (std::size_t i = 0; i < n; i += 4) {
        D a = into ? real(load(z0 + i)) : _mm256_setzero_pd(), b = into ? real(load(z1 + i)) : _mm256_setzero_pd();
        for (std::size_t start = 0; start < terms; start += CHUNK) {
            const std::size_t end = start + CHUNK < terms ? start + CHUNK : terms;
            for (std::size_t k = start; k < end; ++k) {
                _mm_prefetch(reinterpret_cast<const char*>(x0[k] + i + AHEAD), _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(x1[k] + i + AHEAD), _MM_HINT_T0);
                D y = real(repeated(f[k], r[k], i));
                a = _mm256_add_pd(a, p.mul(real(load(x0[k] + i)), y));
                b = _mm256_add_pd(b, p.mul(real(load(x1[k] + i)), y));
            }
            a = p.center(a);
            b = p.center(b);
        }
        store(z0 + i, p.positive(a));
        store(z1 + i, p.positive(b));
    }
}

// T outputs at a time.
template <int T>
void combine_some(u64* const* z, const u64* const* x, std::size_t inputs, const u64* w, std::size_t n,
                  const Modulus& m, bool into) {
    const Prime p(m);
    for (std::size_t start = 0; start < inputs; start += CHUNK) {
        const std::size_t terms = start + CHUNK < inputs ? CHUNK : inputs - start;
        const bool more = into || start > 0;
        Pair f[T][CHUNK];
        for (int t = 0; t < T; ++t)
            for (std::size_t k = 0; k < terms; ++k) f[t][k] = pair(w[t * inputs + start + k], m);
        for (std::size_t i = 0; i < n; i += 4) {
            D a[T];
            for (int t = 0; t < T; ++t) a[t] = more ? real(load(z[t] + i)) : _mm256_setzero_pd();
            for (std::size_t k = 0; k < terms; ++k) {
                _mm_prefetch(reinterpret_cast<const char*>(x[start + k] + i + AHEAD), _MM_HINT_T0);
                const D u = real(load(x[start + k] + i));
                for (int t = 0; t < T; ++t) a[t] = _mm256_add_pd(a[t], p.mul(u, f[t][k]));
            }
            for (int t = 0; t < T; ++t) store(z[t] + i, p.full(a[t]));
        }
    }
}

void combine(u64* const* z, std::size_t outputs, const u64* const* x, std::size_t inputs, const u64* w, std::size_t n,
             const Modulus& m, bool into) {
    std::size_t j = 0;
    for (; j + 4 <= outputs; j += 4) combine_some<4>(z + j, x, inputs, w + j * inputs, n, m, into);
    for (; j < outputs; ++j) combine_some<1>(z + j, x, inputs, w + j * inputs, n, m, into);
}

void convert(u64* z, const u64* const* y, const u64* c, std::size_t terms, const u64* v, u64 minus_d, std::size_t n,
             const Modulus& m) {
    constexpr std::size_t MOST = 64;
    const Prime p(m);
    const Pair d = pair(minus_d, m);
    Pair w[MOST];
    for (std::size_t k = 0; k < terms; ++k) w[k] = pair(c[k], m);
    for (std::size_t i = 0; i < n; i += 4) {
        D a = p.mul(real(load(v + i)), d);
        for (std::size_t k = 0; k < terms; ++k) {
            a = _mm256_add_pd(a, p.mul(real(load(y[k] + i)), w[k]));
            if (k % CHUNK == CHUNK - 1) a = p.center(a);
        }
        store(z + i, p.full(a));
    }
}

void quotients(u64* v, const u64* const* y, const double* inverse, std::size_t terms, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 4) {
        D sum = set(0.5);
        for (std::size_t k = 0; k < terms; ++k) sum = _mm256_fmadd_pd(real(load(y[k] + i)), set(inverse[k]), sum);
        store(v + i, whole(_mm256_floor_pd(sum)));
    }
}

void lift(u64* z, const double* x, std::size_t n, const Modulus& m) {
    if (n < 4) {
        const Single p{static_cast<double>(m.q), m.inverse};
        for (std::size_t i = 0; i < n; ++i) z[i] = p.full(x[i]);
        return;
    }
    const Prime p(m);
    for (std::size_t i = 0; i < n; i += 4) store(z + i, p.full(_mm256_loadu_pd(x + i)));
}

void permute(u64* z, const u64* x, const u32* from, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 4) store(z + i, moved(load(x + block(from, i)), from, i));
}

void add_permuted(u64* z, const u64* x, const u32* from, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 4)
        store(z + i, sum(load(z + i), moved(load(x + block(from, i)), from, i), q));
}

void fft(double* re, double* im, std::size_t n, const double* cosine, const double* sine, double sign) {
    fft_stages(re, im, n, cosine, sine, sign);
}

void fft_part(double* re, double* im, std::size_t half, std::size_t from, std::size_t to, const double* cosine,
              const double* sine, double sign) {
    fft_butterflies(re, im, half, from, to, cosine, sine, sign);
}

bool reduced(const u64* x, std::size_t n, const Modulus& m) {
    const V top = set(u64{1} << 63), largest = set((m.q - 1) ^ (u64{1} << 63));
    V bad = _mm256_setzero_si256();
    for (std::size_t i = 0; i < n; i += 4)
        bad = _mm256_or_si256(bad, _mm256_cmpgt_epi64(_mm256_xor_si256(load(x + i), top), largest));
    return _mm256_testz_si256(bad, bad);
}

// At compile time: at load time, this code might use instructions that the processor lacks.
constexpr Kernels table() {
    Kernels k = {
        "avx2",     52,         50,      ntt,    intt, add,     sub,       add_repeated, neg,
        sub_transformed, add_scaled, mul_add, tensor, dot, combine, convert, quotients, lift,         permute, add_permuted, fft, fft_part, reduced,
    };
    k.twiddle = twiddle;
    return k;
}

constexpr Kernels AVX2 = table();

}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels* avx2_kernels() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &AVX2 : nullptr;
}

}  // namespace pi

#else

namespace pi {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace pi

#endif
