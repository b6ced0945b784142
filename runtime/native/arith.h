// Arithmetic modulo primes on 64-bit words, one value at a time.
//
// Products with a known factor w use Shoup's method: with w' = floor(w 2^S / q) the quotient of x w
// by q is off by at most one, so that x w - floor(x w' / 2^S) q lies in [0, 2q) (Harvey, "Faster
// arithmetic for number-theoretic transforms", 2014). S is 64 for general words, for primes below
// 2^60, and 52 where the processor multiplies 52-bit words (AVX-512-IFMA), for primes below 2^50.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pi {

using u64 = std::uint64_t;
using u32 = std::uint32_t;
using i64 = std::int64_t;
using u128 = unsigned __int128;

// A constant factor with its Shoup quotient.
struct Factor {
    u64 w;
    u64 shoup;
};

// A prime with what reducing modulo it needs, for one word size S.
struct Modulus {
    u64 q;
    u64 one;      // floor(2^S / q)
    Factor word;  // 2^S mod q
    double inverse;
    u64 ratio;    // floor(2^(S + bits) / q) - 2^S for q of so many bits
};

// y where the condition holds, else 0: without a branch, which random residues would mispredict.
inline u64 where(bool condition, u64 y) { return y & (u64{0} - static_cast<u64>(condition)); }

// x - q if that is not negative: as unsigned numbers a negative difference is the larger one.
inline u64 reduce_once(u64 x, u64 q) { return x < x - q ? x : x - q; }

inline u64 add_mod(u64 x, u64 y, u64 q) { return reduce_once(x + y, q); }

inline u64 sub_mod(u64 x, u64 y, u64 q) { return x - y + where(x < y, q); }

inline u64 mul_mod(u64 x, u64 y, u64 q) { return static_cast<u64>(static_cast<u128>(x) * y % q); }

inline u64 pow_mod(u64 x, u64 e, u64 q) {
    u64 z = 1;
    for (; e; e >>= 1, x = mul_mod(x, x, q))
        if (e & 1) z = mul_mod(z, x, q);
    return z;
}

inline u64 inverse_mod(u64 x, u64 q) { return pow_mod(x, q - 2, q); }

// For x of one word: x w mod q, in [0, 2q).
template <int S>
inline u64 mul_lazy(u64 x, Factor f, u64 q) {
    u64 quotient = static_cast<u64>((static_cast<u128>(x) * f.shoup) >> S);
    return x * f.w - quotient * q;
}

inline unsigned reverse_bits(unsigned x, int bits) {
    unsigned r = 0;
    for (int i = 0; i < bits; ++i) r |= ((x >> i) & 1u) << (bits - 1 - i);
    return r;
}

}  // namespace pi
