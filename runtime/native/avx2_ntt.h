// Residues modulo primes below 2^50 in AVX2 registers, and the transform. For kernels_avx2.cpp only,
// which includes this where the compiler may use AVX2 and FMA.
//
// AVX2 has no product of 64-bit words, so residues are multiplied as doubles. With h the rounded
// product x w, its rest l = x w - h from a fused product, and c an integer near x w / q, both
// h - c q and the sum (h - c q) + l are integers below 2^53 and therefore exact (van der Hoeven,
// Lecerf and Quintin, "Modular SIMD arithmetic in Mathemagix", 2016). Factors are centered,
// |w| <= q/2. Rounding w/q and the quotient put c off by at most 1/2 + |x| 2^-54, so that for
// |x| <= 3.4 q < 2^51.8 the result is below 0.72 q in magnitude.
//
// Transforms go through the tree of halves like those of kernels_ifma.cpp; between the first load and
// the last store the array holds doubles.
#pragma once

#include <cmath>
#include <cstring>

#include <immintrin.h>

#include "kernels.h"

#define INLINE inline __attribute__((always_inline))

namespace pi {
namespace {

// 1.5 2^52: a sum with it is rounded to an integer, for magnitudes below 2^51.
constexpr double ROUND = 6755399441055744.0;
// 2^52: its sum with an integer in [0, 2^52) has that integer as its low bits.
constexpr double BITS = 4503599627370496.0;
using V = __m256i;
using D = __m256d;

INLINE V set(u64 x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
INLINE D set(double x) { return _mm256_set1_pd(x); }
INLINE V load(const u64* p) { return _mm256_loadu_si256(reinterpret_cast<const V*>(p)); }
INLINE void store(u64* p, V x) { _mm256_storeu_si256(reinterpret_cast<V*>(p), x); }
INLINE D load_real(const u64* p) { return _mm256_castsi256_pd(load(p)); }
INLINE void store_real(u64* p, D x) { store(p, _mm256_castpd_si256(x)); }
// Between integers in [0, 2^52) and doubles.
INLINE D real(V x) { return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(x, _mm256_castpd_si256(set(BITS)))), set(BITS)); }
INLINE V whole(D x) { return _mm256_xor_si256(_mm256_castpd_si256(_mm256_add_pd(x, set(BITS))), _mm256_castpd_si256(set(BITS))); }

// A factor and its quotient by q.
struct Pair {
    D w, ratio;
};

INLINE Pair pair(u64 w, const Modulus& m) {
    const double centered = w > m.q / 2 ? -static_cast<double>(m.q - w) : static_cast<double>(w);
    return {set(centered), set(centered / static_cast<double>(m.q))};
}
INLINE Pair pair(const Factor& node) {
    return {_mm256_broadcast_sd(reinterpret_cast<const double*>(&node.w)),
            _mm256_broadcast_sd(reinterpret_cast<const double*>(&node.shoup))};
}
INLINE Pair pair(const u64* p) { return {load_real(p), load_real(p + 8)}; }

// Constants of one prime in registers.
struct Prime {
    D q, inverse, round;

    INLINE explicit Prime(const Modulus& m) : q(set(static_cast<double>(m.q))), inverse(set(m.inverse)), round(set(ROUND)) {}

    INLINE D nearest(D x, D factor) const { return _mm256_sub_pd(_mm256_fmadd_pd(x, factor, round), round); }
    // x w - c q for the product h of which c is the nearest quotient.
    INLINE D rest(D x, D w, D h, D c) const {
        return _mm256_add_pd(_mm256_fnmadd_pd(c, q, h), _mm256_fmsub_pd(x, w, h));
    }
    INLINE D mul(D x, Pair f) const { return rest(x, f.w, _mm256_mul_pd(x, f.w), nearest(x, f.ratio)); }
    // For two values below 2^50 of which one is below q: in magnitude at most 0.75 q.
    INLINE D mul(D x, D y) const {
        D h = _mm256_mul_pd(x, y);
        return rest(x, y, h, nearest(h, inverse));
    }
    // The same residue in [-q/2, q/2], for magnitudes below 2^53.
    INLINE D center(D x) const { return _mm256_fnmadd_pd(nearest(x, inverse), q, x); }
    // The residue as an integer, of a value above -q and below q.
    INLINE V positive(D x) const {
        D negative = _mm256_cmp_pd(x, _mm256_setzero_pd(), _CMP_LT_OQ);
        return whole(_mm256_add_pd(x, _mm256_and_pd(negative, q)));
    }
    INLINE V full(D x) const { return positive(center(x)); }
};

// ---- Transform ----

// Sums grow by 0.72 q a stage: with x centered first, three stages stay below 2.7 q.
INLINE void forward(D& x, D& y, Pair w, const Prime& p) {
    D v = p.mul(y, w);
    y = _mm256_sub_pd(x, v);
    x = _mm256_add_pd(x, v);
}

// Sums double a stage; from below q, differences of two stages stay below 3.4 q.
INLINE void backward(D& x, D& y, Pair w, const Prime& p) {
    D v = _mm256_sub_pd(x, y);
    x = _mm256_add_pd(x, y);
    y = p.mul(v, w);
}

INLINE void forward8(D* x, const Pair* w, const Prime& p) {
    for (int j = 0; j < 4; ++j) x[j] = p.center(x[j]);
    for (int j = 0; j < 4; ++j) forward(x[j], x[j + 4], w[0], p);
    for (int h = 0; h < 2; ++h)
        for (int j = 0; j < 2; ++j) forward(x[4 * h + j], x[4 * h + j + 2], w[1 + h], p);
    for (int j = 0; j < 4; ++j) forward(x[2 * j], x[2 * j + 1], w[3 + j], p);
}

INLINE void backward8(D* x, const Pair* w, const Prime& p) {
    for (int j = 0; j < 4; ++j) backward(x[2 * j], x[2 * j + 1], w[3 + j], p);
    for (int h = 0; h < 2; ++h)
        for (int j = 0; j < 2; ++j) backward(x[4 * h + j], x[4 * h + j + 2], w[1 + h], p);
    for (int h = 0; h < 2; ++h) x[4 * h] = p.center(x[4 * h]);
    for (int j = 0; j < 4; ++j) backward(x[j], x[j + 4], w[0], p);
}

INLINE void factors8(Pair* w, const Factor* node, std::size_t g) {
    w[0] = pair(node[g]);
    for (int j = 0; j < 2; ++j) w[1 + j] = pair(node[2 * g + j]);
    for (int j = 0; j < 4; ++j) w[3 + j] = pair(node[4 * g + j]);
}

// Factors of the last three stages of the four groups from node g on (a multiple of 4).
INLINE void factors_last(Pair* w, const Twiddles& t, std::size_t g) {
    const u64* node = &t.node[g].w;
    D a = load_real(node), b = load_real(node + 4);
    w[0] = {_mm256_permute4x64_pd(_mm256_unpacklo_pd(a, b), 0xd8), _mm256_permute4x64_pd(_mm256_unpackhi_pd(a, b), 0xd8)};
    const std::size_t block = g / 8 * 8, lane = g % 8;
    for (int j = 0; j < 2; ++j) w[1 + j] = pair(t.pairs + 4 * block + 16 * j + lane);
    for (int j = 0; j < 4; ++j) w[3 + j] = pair(t.quads + 8 * block + 16 * j + lane);
}

INLINE void transpose4(D* x) {
    D a = _mm256_unpacklo_pd(x[0], x[1]), b = _mm256_unpackhi_pd(x[0], x[1]);
    D c = _mm256_unpacklo_pd(x[2], x[3]), d = _mm256_unpackhi_pd(x[2], x[3]);
    x[0] = _mm256_permute2f128_pd(a, c, 0x20);
    x[1] = _mm256_permute2f128_pd(b, d, 0x20);
    x[2] = _mm256_permute2f128_pd(a, c, 0x31);
    x[3] = _mm256_permute2f128_pd(b, d, 0x31);
}

// How many parts a node of so many values is split into: eight, but the rest at the largest.
INLINE int radix(std::size_t n) {
    int stages = __builtin_ctzll(n) - 6;
    return stages % 3 == 0 ? 8 : stages % 3 == 1 ? 2 : 4;
}

// With `first`, the array still holds integers.
template <int R, bool first>
void forward_pass(u64* x, std::size_t n, std::size_t g, const Factor* node, const Prime& p) {
    const std::size_t part = n / R;
    Pair w[7];
    w[0] = pair(node[g]);
    if (R >= 4) w[1] = pair(node[2 * g]), w[2] = pair(node[2 * g + 1]);
    if (R == 8) factors8(w, node, g);
    for (std::size_t j = 0; j < part; j += 4) {
        D v[R];
        for (int k = 0; k < R; ++k) v[k] = first ? real(load(x + k * part + j)) : load_real(x + k * part + j);
        if constexpr (R == 8) {
            forward8(v, w, p);
        } else {
            for (int k = 0; k < R / 2; ++k) v[k] = p.center(v[k]);
            for (int k = 0; k < R / 2; ++k) forward(v[k], v[k + R / 2], w[0], p);
            if constexpr (R == 4) forward(v[0], v[1], w[1], p), forward(v[2], v[3], w[2], p);
        }
        for (int k = 0; k < R; ++k) store_real(x + k * part + j, v[k]);
    }
}

// With `last`, values are multiplied by a factor, reduced, and become integers.
template <int R, bool last>
void backward_pass(u64* x, std::size_t n, std::size_t g, const Factor* node, const Prime& p, Pair scale) {
    const std::size_t part = n / R;
    Pair w[7];
    w[0] = pair(node[g]);
    if (R >= 4) w[1] = pair(node[2 * g]), w[2] = pair(node[2 * g + 1]);
    if (R == 8) factors8(w, node, g);
    for (std::size_t j = 0; j < part; j += 4) {
        D v[R];
        for (int k = 0; k < R; ++k) v[k] = load_real(x + k * part + j);
        if constexpr (R == 8) {
            backward8(v, w, p);
        } else {
            if constexpr (R == 4) backward(v[0], v[1], w[1], p), backward(v[2], v[3], w[2], p);
            for (int k = 0; k < R / 2; ++k) backward(v[k], v[k + R / 2], w[0], p);
        }
        for (int k = 0; k < R; ++k) {
            u64* to = x + k * part + j;
            if (last)
                store(to, p.positive(p.mul(v[k], scale)));
            else
                store_real(to, k < R / 2 ? p.center(v[k]) : v[k]);
        }
    }
}

// The last three stages of four neighboring groups of eight values.
INLINE void forward_leaf(u64* x, std::size_t g, const Twiddles& t, const Prime& p) {
    D v[8];
    Pair w[7];
    for (int k = 0; k < 4; ++k) v[k] = load_real(x + 8 * k), v[k + 4] = load_real(x + 8 * k + 4);
    transpose4(v), transpose4(v + 4);
    factors_last(w, t, g);
    forward8(v, w, p);
    for (int k = 0; k < 8; ++k) v[k] = _mm256_castsi256_pd(p.full(v[k]));
    transpose4(v), transpose4(v + 4);
    for (int k = 0; k < 4; ++k) store_real(x + 8 * k, v[k]), store_real(x + 8 * k + 4, v[k + 4]);
}

INLINE void backward_leaf(u64* z, const u64* x, std::size_t g, const Twiddles& t, const Prime& p) {
    D v[8];
    Pair w[7];
    for (int k = 0; k < 4; ++k) v[k] = load_real(x + 8 * k), v[k + 4] = load_real(x + 8 * k + 4);
    transpose4(v), transpose4(v + 4);
    for (int k = 0; k < 8; ++k) v[k] = real(_mm256_castpd_si256(v[k]));
    factors_last(w, t, g);
    backward8(v, w, p);
    for (int k = 0; k < 4; ++k) v[k] = p.center(v[k]);
    transpose4(v), transpose4(v + 4);
    for (int k = 0; k < 4; ++k) store_real(z + 8 * k, v[k]), store_real(z + 8 * k + 4, v[k + 4]);
}

template <bool first>
void forward_node(u64* x, std::size_t n, std::size_t g, const Twiddles& t, const Prime& p) {
    const int r = n == 64 ? 8 : radix(n);
    if (r == 8)
        forward_pass<8, first>(x, n, g, t.node, p);
    else if (r == 4)
        forward_pass<4, first>(x, n, g, t.node, p);
    else
        forward_pass<2, first>(x, n, g, t.node, p);
    if (n == 64) return forward_leaf(x, 8 * g, t, p), forward_leaf(x + 32, 8 * g + 4, t, p);
    for (int k = 0; k < r; ++k) forward_node<false>(x + k * (n / r), n / r, r * g + k, t, p);
}

template <bool last>
void backward_node(u64* z, const u64* x, std::size_t n, std::size_t g, const Twiddles& t, const Prime& p, Pair scale) {
    const int r = n == 64 ? 8 : radix(n);
    const std::size_t part = n / r;
    if (n == 64)
        backward_leaf(z, x, 8 * g, t, p), backward_leaf(z + 32, x + 32, 8 * g + 4, t, p);
    else
        for (int k = 0; k < r; ++k) backward_node<false>(z + k * part, x + k * part, part, r * g + k, t, p, scale);
    if (r == 8)
        backward_pass<8, last>(z, n, g, t.node, p, scale);
    else if (r == 4)
        backward_pass<4, last>(z, n, g, t.node, p, scale);
    else
        backward_pass<2, last>(z, n, g, t.node, p, scale);
}

// One value at a time, below 64 values.
struct Single {
    double q, inverse;

    double rest(double x, double w, double c) const {
        const double h = x * w;
        return std::fma(-c, q, h) + std::fma(x, w, -h);
    }
    double mul(double x, const Factor& node) const {
        double w, ratio;
        std::memcpy(&w, &node.w, sizeof w);
        std::memcpy(&ratio, &node.shoup, sizeof ratio);
        return rest(x, w, std::fma(x, ratio, ROUND) - ROUND);
    }
    double center(double x) const { return std::fma(-(std::fma(x, inverse, ROUND) - ROUND), q, x); }
    u64 full(double x) const {
        const double r = center(x);
        return static_cast<u64>(r < 0 ? r + q : r);
    }
};

void small_ntt(u64* x, std::size_t n, const Table& t) {
    const Single p{static_cast<double>(t.m.q), t.m.inverse};
    double v[64];
    for (std::size_t j = 0; j < n; ++j) v[j] = static_cast<double>(x[j]);
    for (std::size_t groups = 1, half = n / 2; groups < n; groups *= 2, half /= 2)
        for (std::size_t g = 0; g < groups; ++g)
            for (std::size_t j = 2 * g * half; j < (2 * g + 1) * half; ++j) {
                const double a = p.center(v[j]), b = p.mul(v[j + half], t.forward.node[groups + g]);
                v[j] = a + b;
                v[j + half] = a - b;
            }
    for (std::size_t j = 0; j < n; ++j) x[j] = p.full(v[j]);
}

Factor twiddle(u64 w, const Modulus& m) {
    const double centered = w > m.q / 2 ? -static_cast<double>(m.q - w) : static_cast<double>(w);
    const double ratio = centered / static_cast<double>(m.q);
    Factor f;
    std::memcpy(&f.w, &centered, sizeof centered);
    std::memcpy(&f.shoup, &ratio, sizeof ratio);
    return f;
}

void small_intt(u64* z, const u64* x, std::size_t n, const Table& t, Factor scale) {
    const Single p{static_cast<double>(t.m.q), t.m.inverse};
    const Factor f = twiddle(scale.w, t.m);
    double v[64];
    for (std::size_t j = 0; j < n; ++j) v[j] = static_cast<double>(x[j]);
    for (std::size_t groups = n / 2, half = 1; groups > 0; groups /= 2, half *= 2)
        for (std::size_t g = 0; g < groups; ++g)
            for (std::size_t j = 2 * g * half; j < (2 * g + 1) * half; ++j) {
                const double a = v[j], b = v[j + half];
                v[j] = p.center(a + b);
                v[j + half] = p.mul(a - b, t.inverse.node[groups + g]);
            }
    for (std::size_t j = 0; j < n; ++j) z[j] = p.full(p.mul(v[j], f));
}

void ntt(u64* x, std::size_t n, const Table& t) {
    if (n < 64) return small_ntt(x, n, t);
    forward_node<true>(x, n, 1, t.forward, Prime(t.m));
}

void intt(u64* z, const u64* x, std::size_t n, const Table& t, Factor scale) {
    if (n < 64) return small_intt(z, x, n, t, scale);
    backward_node<true>(z, x, n, 1, t.inverse, Prime(t.m), pair(scale.w, t.m));
}

}  // namespace
}  // namespace pi
