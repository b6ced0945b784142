// The inner loops with AVX-512 and its 52-bit products (IFMA), for primes below 2^50.
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cmath>
#include <initializer_list>

#include "scalar_ntt.h"

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512ifma,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512ifma,fma,prefer-vector-width=512")
#endif

#include "fft.h"

#define INLINE inline __attribute__((always_inline))

namespace pi {
namespace {

constexpr int S = 52;
// Products of values below 2^50 whose upper halves add up to less than 2^52.
constexpr std::size_t CHUNK = 16;
// Words between a load and its prefetch: keys come from memory in more streams than hardware follows.
constexpr std::size_t AHEAD = 256;

using V = __m512i;

INLINE V set(u64 x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
INLINE V load(const u64* p) { return _mm512_loadu_si512(p); }
INLINE void store(u64* p, V x) { _mm512_storeu_si512(p, x); }
INLINE V low(V acc, V x, V y) { return _mm512_madd52lo_epu64(acc, x, y); }
INLINE V high(V acc, V x, V y) { return _mm512_madd52hi_epu64(acc, x, y); }
// x - q if that is not negative: as unsigned numbers a negative difference is the larger one.
INLINE V once(V x, V q) { return _mm512_min_epu64(x, _mm512_sub_epi64(x, q)); }

struct Pair {
    V w, shoup;
};

INLINE Pair pair(Factor f) { return {set(f.w), set(f.shoup)}; }
INLINE Pair pair(const u64* p) { return {load(p), load(p + 8)}; }

// What takes a value below q to 52 bits.
inline int shift_of(u64 q) { return S - (64 - __builtin_clzll(q)); }

// Constants of one prime in registers.
struct Prime {
    u64 prime;
    V q, q2, minus_q, mask, zero, one, ratio, shift;

    INLINE explicit Prime(const Modulus& m)
        : prime(m.q),
          q(set(m.q)),
          q2(set(2 * m.q)),
          minus_q(set((u64{1} << S) - m.q)),
          mask(set((u64{1} << S) - 1)),
          zero(_mm512_setzero_si512()),
          one(set(m.one)),
          ratio(set(m.ratio)),
          shift(set(static_cast<u64>(shift_of(m.q)))) {}

    // x f mod q in [0, 2q), for any x below 2^52.
    INLINE V mul(V x, Pair f) const {
        V quotient = high(zero, x, f.shoup);
        V product = low(zero, x, f.w);
        return _mm512_and_si512(low(product, quotient, minus_q), mask);
    }
    INLINE V full(V x) const { return once(once(x, q2), q); }
};

// Reduces sums of 52-bit halves of products.
struct Wide {
    Pair word;
    V one;

    INLINE explicit Wide(const Modulus& m) : word(pair(m.word)), one(set(m.one)) {}

    // In [0, 4q), modulo 2^52. Products take the low 52 bits of their factors; modulo 2^52 the sums are exact.
    INLINE V lazy(V lo, V hi, const Prime& p) const {
        hi = _mm512_add_epi64(hi, _mm512_srli_epi64(lo, S));
        V quotient = high(high(p.zero, hi, word.shoup), lo, one);
        return low(low(lo, hi, word.w), quotient, p.minus_q);
    }
    INLINE V reduce(V lo, V hi, const Prime& p) const { return p.full(_mm512_and_si512(lazy(lo, hi, p), p.mask)); }
};

// Eight values of an automorphism, which come from one block of eight.
class Moved {
  public:
    INLINE Moved(const u32* from, std::size_t i)
        : lane_(_mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)))) {}
    INLINE static std::size_t block(const u32* from, std::size_t i) { return from[i] & ~u32{7}; }
    // Permutations read the low three bits of an index.
    INLINE V of(V x) const { return _mm512_permutexvar_epi64(lane_, x); }

  private:
    V lane_;
};

}  // namespace
}  // namespace pi

#include "ifma_ntt.h"

namespace pi {
namespace {

// ---- Pointwise ----

// Reads eight values of which each repeats 2^log_repeat times.
class Repeated {
  public:
    INLINE explicit Repeated(int log_repeat) : r_(log_repeat) {
        const V lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
        pick_ = _mm512_srli_epi64(lane, static_cast<unsigned>(r_ < 3 ? r_ : 3));
        some_ = static_cast<__mmask8>(r_ < 3 ? 0xff >> (8 - (8 >> r_)) : 1);
    }
    INLINE V at(const u64* p, std::size_t i) const {
        if (r_ == 0) return load(p + i);
        return _mm512_permutexvar_epi64(pick_, _mm512_maskz_loadu_epi64(some_, p + (i >> r_)));
    }

  private:
    int r_;
    V pick_;
    __mmask8 some_;
};

void add(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 8) store(z + i, once(_mm512_add_epi64(load(x + i), load(y + i)), q));
}

void sub(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 8) {
        V d = _mm512_sub_epi64(load(x + i), load(y + i));
        store(z + i, _mm512_min_epu64(d, _mm512_add_epi64(d, q)));
    }
}

void add_repeated(u64* z, const u64* x, const u64* y, int r, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    const Repeated repeated(r);
    for (std::size_t i = 0; i < n; i += 8) store(z + i, once(_mm512_add_epi64(load(x + i), repeated.at(y, i)), q));
}

void neg(u64* z, const u64* x, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 8) {
        V v = load(x + i);
        store(z + i, _mm512_maskz_sub_epi64(_mm512_test_epi64_mask(v, v), q, v));
    }
}

void add_scaled(u64* z, const u64* x, Factor f, std::size_t n, const Modulus& m) {
    const Prime p(m);
    const Pair w = pair(f);
    for (std::size_t i = 0; i < n; i += 8)
        store(z + i, p.full(_mm512_add_epi64(load(z + i), p.mul(load(x + i), w))));
}

void mul_add(u64* z, const u64* x, const u64* y, const u64* a, std::size_t n, const Modulus& m) {
    const Prime p(m);
    const Wide wide(m);
    for (std::size_t i = 0; i < n; i += 8) {
        V u = load(x + i), v = load(y + i);
        store(z + i, wide.reduce(low(load(a + i), u, v), high(p.zero, u, v), p));
    }
}

void tensor(u64* z0, u64* z1, u64* z2, const u64* x0, const u64* x1, const u64* y0, const u64* y1, std::size_t n,
            const Modulus& m) {
    const Prime p(m);
    const Wide wide(m);
    for (std::size_t i = 0; i < n; i += 8) {
        V a0 = load(x0 + i), a1 = load(x1 + i), b0 = load(y0 + i), b1 = load(y1 + i);
        store(z0 + i, wide.reduce(low(p.zero, a0, b0), high(p.zero, a0, b0), p));
        store(z1 + i, wide.reduce(low(low(p.zero, a0, b1), a1, b0), high(high(p.zero, a0, b1), a1, b0), p));
        store(z2 + i, wide.reduce(low(p.zero, a1, b1), high(p.zero, a1, b1), p));
    }
}

void dot(u64* z0, u64* z1, const u64* const* f, const int* r, const u64* const* x0, const u64* const* x1,
         std::size_t terms, std::size_t n, const Modulus& m, bool into) {
    const Prime p(m);
    const Wide wide(m);
    for (std::size_t start = 0; start < terms; start += CHUNK) {
        const std::size_t end = start + CHUNK < terms ? start + CHUNK : terms;
        const bool more = into || start > 0;
        for (std::size_t i = 0; i < n; i += 8) {
            V a = more ? load(z0 + i) : p.zero, c = more ? load(z1 + i) : p.zero, b = p.zero, d = p.zero;
            for (std::size_t k = start; k < end; ++k) {
                _mm_prefetch(reinterpret_cast<const char*>(x0[k] + i + AHEAD), _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(x1[k] + i + AHEAD), _MM_HINT_T0);
                V y = Repeated(r[k]).at(f[k], i), u = load(x0[k] + i), v = load(x1[k] + i);
                a = low(a, y, u), b = high(b, y, u);
                c = low(c, y, v), d = high(d, y, v);
            }
            store(z0 + i, wide.reduce(a, b, p));
            store(z1 + i, wide.reduce(c, d, p));
        }
    }
}

// T outputs at a time, of W vectors each: sums stay in registers.
template <int T, int W>
void combine_some(u64* const* z, const u64* const* x, std::size_t inputs, const u64* w, std::size_t n,
                  const Modulus& m, bool into) {
    const Prime p(m);
    const Wide wide(m);
    for (std::size_t i = 0; i < n; i += 8 * W) {
        V a[T][W], b[T][W];
        for (int t = 0; t < T; ++t)
            for (int v = 0; v < W; ++v) a[t][v] = into ? load(z[t] + i + 8 * v) : p.zero, b[t][v] = p.zero;
        for (std::size_t start = 0; start < inputs; start += CHUNK) {
            const std::size_t end = start + CHUNK < inputs ? start + CHUNK : inputs;
            if (start > 0)
                for (int t = 0; t < T; ++t)
                    for (int v = 0; v < W; ++v) a[t][v] = wide.reduce(a[t][v], b[t][v], p), b[t][v] = p.zero;
            for (std::size_t k = start; k < end; ++k) {
                V u[W];
                for (int v = 0; v < W; ++v) u[v] = load(x[k] + i + 8 * v);
                for (int v = 0; v < W; ++v)
                    _mm_prefetch(reinterpret_cast<const char*>(x[k] + i + 8 * v + AHEAD), _MM_HINT_T0);
                for (int t = 0; t < T; ++t) {
                    const V f = set(w[t * inputs + k]);
                    for (int v = 0; v < W; ++v) a[t][v] = low(a[t][v], u[v], f), b[t][v] = high(b[t][v], u[v], f);
                }
            }
        }
        for (int t = 0; t < T; ++t)
            for (int v = 0; v < W; ++v) store(z[t] + i + 8 * v, wide.reduce(a[t][v], b[t][v], p));
    }
}

void combine(u64* const* z, std::size_t outputs, const u64* const* x, std::size_t inputs, const u64* w, std::size_t n,
             const Modulus& m, bool into) {
    std::size_t j = 0;
    for (; j + 4 <= outputs; j += 4) combine_some<4, 2>(z + j, x, inputs, w + j * inputs, n, m, into);
    for (; j + 2 <= outputs; j += 2) combine_some<2, 4>(z + j, x, inputs, w + j * inputs, n, m, into);
    for (; j < outputs; ++j) combine_some<1, 4>(z + j, x, inputs, w + j * inputs, n, m, into);
}

// Few terms: their factors stay in registers.
template <int terms>
void convert_few(u64* z, const u64* const* y, const u64* c, const u64* v, u64 minus_d, std::size_t n,
                 const Modulus& m) {
    const Prime p(m);
    const Wide wide(m);
    const V d = set(minus_d);
    V w[terms];
    const u64* rows[terms];
    for (int j = 0; j < terms; ++j) w[j] = set(c[j]), rows[j] = y[j];
    for (std::size_t i = 0; i < n; i += 8) {
        V k = load(v + i), a = low(p.zero, k, d), b = high(p.zero, k, d);
#pragma GCC unroll 8
        for (int j = 0; j < terms; ++j) {
            const V x = load(rows[j] + i);
            a = low(a, x, w[j]), b = high(b, x, w[j]);
        }
        store(z + i, wide.lazy(a, b, p));
    }
}

void convert(u64* z, const u64* const* y, const u64* c, std::size_t terms, const u64* v, u64 minus_d, std::size_t n,
             const Modulus& m) {
    switch (terms) {
        case 1: return convert_few<1>(z, y, c, v, minus_d, n, m);
        case 2: return convert_few<2>(z, y, c, v, minus_d, n, m);
        case 3: return convert_few<3>(z, y, c, v, minus_d, n, m);
        case 4: return convert_few<4>(z, y, c, v, minus_d, n, m);
        default: break;
    }
    const Prime p(m);
    const Wide wide(m);
    const V d = set(minus_d);
    for (std::size_t i = 0; i < n; i += 8) {
        V k = load(v + i), a = low(p.zero, k, d), b = high(p.zero, k, d);
        for (std::size_t start = 0; start < terms; start += CHUNK - 1) {
            const std::size_t end = start + CHUNK - 1 < terms ? start + CHUNK - 1 : terms;
            if (start > 0) a = wide.reduce(a, b, p), b = p.zero;
            for (std::size_t j = start; j < end; ++j) {
                V x = load(y[j] + i), w = set(c[j]);
                a = low(a, x, w), b = high(b, x, w);
            }
        }
        store(z + i, wide.lazy(a, b, p));
    }
}

template <int T>
void convert_some(u64* const* z, const u64* const* y, const u64* const* c, std::size_t terms, const u64* v,
                  const u64* minus_d, std::size_t n, const Modulus* const* m) {
    for (std::size_t i = 0; i < n; i += 8) {
        const V k = load(v + i), zero = _mm512_setzero_si512();
        V a[T], b[T];
        for (int t = 0; t < T; ++t) a[t] = low(zero, k, set(minus_d[t])), b[t] = high(zero, k, set(minus_d[t]));
        for (std::size_t start = 0; start < terms; start += CHUNK - 1) {
            const std::size_t end = start + CHUNK - 1 < terms ? start + CHUNK - 1 : terms;
            if (start > 0)
                for (int t = 0; t < T; ++t) a[t] = Wide(*m[t]).reduce(a[t], b[t], Prime(*m[t])), b[t] = zero;
            for (std::size_t j = start; j < end; ++j) {
                const V x = load(y[j] + i);
                for (int t = 0; t < T; ++t) {
                    const V w = set(c[t][j]);
                    a[t] = low(a[t], x, w), b[t] = high(b[t], x, w);
                }
            }
        }
        for (int t = 0; t < T; ++t) store(z[t] + i, Wide(*m[t]).lazy(a[t], b[t], Prime(*m[t])));
    }
}

void convert_many(u64* const* z, std::size_t targets, const u64* const* y, const u64* const* c, std::size_t terms,
                  const u64* v, const u64* minus_d, std::size_t n, const Modulus* const* m) {
    std::size_t t = 0;
    for (; t + 4 <= targets; t += 4) convert_some<4>(z + t, y, c + t, terms, v, minus_d + t, n, m + t);
    for (; t < targets; ++t) convert_some<1>(z + t, y, c + t, terms, v, minus_d + t, n, m + t);
}

void quotients(u64* v, const u64* const* y, const double* inverse, std::size_t terms, std::size_t n) {
    const __m512d half = _mm512_set1_pd(0.5);
    for (std::size_t i = 0; i < n; i += 8) {
        __m512d sum = half;
        for (std::size_t k = 0; k < terms; ++k)
            sum = _mm512_fmadd_pd(_mm512_cvtepu64_pd(load(y[k] + i)), _mm512_set1_pd(inverse[k]), sum);
        store(v + i, _mm512_cvttpd_epu64(sum));
    }
}

void lift(u64* z, const double* x, std::size_t n, const Modulus& m) {
    if (n < 8) {
        for (std::size_t i = 0; i < n; ++i) {
            i64 s = static_cast<i64>(x[i]);
            u64 r = reduce_once(mul_lazy<S>(static_cast<u64>(s < 0 ? -s : s), Factor{1, m.one}, m.q), m.q);
            z[i] = s < 0 && r ? m.q - r : r;
        }
        return;
    }
    const Prime p(m);
    const Pair one{set(1), set(m.one)};
    for (std::size_t i = 0; i < n; i += 8) {
        V s = _mm512_cvttpd_epi64(_mm512_loadu_pd(x + i));
        V r = once(p.mul(_mm512_abs_epi64(s), one), p.q);
        __mmask8 flip = _mm512_movepi64_mask(s) & _mm512_test_epi64_mask(r, r);
        store(z + i, _mm512_mask_sub_epi64(r, flip, p.q, r));
    }
}

void permute(u64* z, const u64* x, const u32* from, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 8) store(z + i, Moved(from, i).of(load(x + Moved::block(from, i))));
}

void add_permuted(u64* z, const u64* x, const u32* from, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    for (std::size_t i = 0; i < n; i += 8) {
        V moved = Moved(from, i).of(load(x + Moved::block(from, i)));
        store(z + i, once(_mm512_add_epi64(load(z + i), moved), q));
    }
}

void fft(double* re, double* im, std::size_t n, const double* cosine, const double* sine, double sign) {
    fft_stages(re, im, n, cosine, sine, sign);
}

void fft_part(double* re, double* im, std::size_t half, std::size_t from, std::size_t to, const double* cosine,
              const double* sine, double sign) {
    fft_butterflies(re, im, half, from, to, cosine, sine, sign);
}

bool reduced(const u64* x, std::size_t n, const Modulus& m) {
    const V q = set(m.q);
    __mmask8 bad = 0;
    for (std::size_t i = 0; i < n; i += 8) bad |= _mm512_cmpge_epu64_mask(load(x + i), q);
    return bad == 0;
}

constexpr Kernels IFMA = {
    "avx512ifma", S,          50,     ntt,     intt,      add,  sub,     add_repeated, neg,
    sub_transformed, add_scaled, mul_add, tensor, dot, combine, convert, quotients, lift, permute, add_permuted, fft, fft_part, reduced,
};

// Constant, so that nothing of this file runs where the processor cannot.
constexpr Kernels with_optional(Kernels k) {
    k.convert_many = convert_many;
    k.make_tail = make_tail;
    return k;
}

constexpr Kernels ALL = with_optional(IFMA);

}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels* ifma_kernels() {
    const bool can = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512ifma");
    return can ? &ALL : nullptr;
}

}  // namespace pi

#else

namespace pi {
const Kernels* ifma_kernels() { return nullptr; }
}  // namespace pi

#endif
