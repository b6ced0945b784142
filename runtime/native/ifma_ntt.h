// The transform with AVX-512-IFMA. Included by kernels_ifma.cpp, which says what the names stand for.
//
// A transform goes depth first through the tree of halves, eight (or sixteen; few at first) parts at a time in
// registers, so that data pass through memory once in three or four stages, and from 4096 values on stay in the
// first-level cache. The last six stages of 64 values are one visit: three between registers, a transposition,
// three more.
//
// The last three stages have a factor for each value: their table is what a transform reads most. It holds the
// factors alone, shifted to 52 bits, of which Shoup's quotients are made as they are needed, and the inverse
// transform reads the same table: the inverse of the factor of node L + i, among the L nodes of a level, is
// minus that of node 2L - 1 - i.
//
// Between its first load and its last store a value is known modulo 2^52 only: products read the low 52 bits of
// their factors, so that nothing has to be cut off. What a butterfly adds is kept in mind as a bound, in
// multiples of q, and a value is reduced where the bound would pass `C`, 2^52 / q at most. For primes below
// 2^45.6 that never happens forward, and seldom backward.
#pragma once

namespace pi {
namespace {

// Bounds for primes below 2^45.6, 2^48.6 and 2^50.
constexpr int ROOMY = 80, CLOSE = 10, TIGHT = 4;

inline int room(u64 q) {
    const u64 multiples = (u64{1} << S) / q;
    return multiples >= ROOMY ? ROOMY : multiples >= CLOSE ? CLOSE : TIGHT;
}

// Between passes. Forward: after the largest transforms, or anything; backward: what a pass leaves.
template <int C>
constexpr int FORWARD_BOUND = C == ROOMY ? ROOMY / 2 : C;
template <int C>
constexpr int BACKWARD_BOUND = C == TIGHT ? 2 : 4;
// Of what comes in.
constexpr int ENTRY_BOUND = 4;

// x f mod q in [0, 2q), modulo 2^52.
INLINE V times(V acc, V x, Pair f, const Prime& p) {
    return low(low(acc, x, f.w), high(p.zero, x, f.shoup), p.minus_q);
}

// In [0, 2q).
INLINE V lower(V x, const Prime& p) { return low(x, high(p.zero, x, p.one), p.minus_q); }

INLINE V reduced(V x, const Prime& p) { return once(_mm512_and_si512(lower(x, p), p.mask), p.q); }

// `P` bounds products.
template <int C, int P>
INLINE void forward(V& x, V& y, int& bx, int& by, Pair w, const Prime& p) {
    if (bx + P > C) x = lower(x, p), bx = 2;
    const V u = x;
    x = times(u, y, w, p);
    y = _mm512_sub_epi64(_mm512_add_epi64(_mm512_add_epi64(u, u), set(P * p.prime)), x);
    by = bx += P;
}

// With minus the inverse of the forward factor.
template <int C, int P>
INLINE void backward(V& x, V& y, int& bx, int& by, Pair w, const Prime& p) {
    if (bx + by > C && bx > 2) x = lower(x, p), bx = 2;
    if (bx + by > C && by > 2) y = lower(y, p), by = 2;
    const V d = _mm512_sub_epi64(_mm512_add_epi64(y, set(static_cast<u64>(bx) * p.prime)), x);
    x = _mm512_add_epi64(x, y);
    y = times(p.zero, d, w, p);
    bx += by, by = P;
}

// The node of a level that has minus the inverse factor of another one.
constexpr int mirrored(int k) {
    int level = 1;
    while (2 * level <= k) level *= 2;
    return 3 * level - 1 - k;
}

// One stage of R registers, and those after it; w(k) is the factor of node k of a tree whose root is node 1.
template <int C, int R, int nodes, class Factors>
INLINE void forward_stages(V* x, int* b, const Factors& w, const Prime& p) {
    constexpr int half = R / nodes / 2;
#pragma GCC unroll 8
    for (int h = 0; h < nodes; ++h)
#pragma GCC unroll 8
        for (int j = 0; j < half; ++j) {
            const int i = 2 * half * h + j;
            forward<C, Factors::template product<C>>(x[i], x[i + half], b[i], b[i + half], w(nodes + h), p);
        }
    if constexpr (half > 1) forward_stages<C, R, 2 * nodes>(x, b, w, p);
}

// w is that of the mirrored node.
template <int C, int R, int nodes, class Factors>
INLINE void backward_stages(V* x, int* b, const Factors& w, const Prime& p) {
    constexpr int half = R / nodes / 2;
#pragma GCC unroll 8
    for (int h = 0; h < nodes; ++h)
#pragma GCC unroll 8
        for (int j = 0; j < half; ++j) {
            const int i = 2 * half * h + j;
            backward<C, Factors::template product<C>>(x[i], x[i + half], b[i], b[i + half], w(mirrored(nodes + h)), p);
        }
    if constexpr (nodes > 1) backward_stages<C, R, nodes / 2>(x, b, w, p);
}

template <int C, int R>
INLINE void settle(V* x, const int* b, const Prime& p) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
        if (b[i] > BACKWARD_BOUND<C>) x[i] = lower(x[i], p);
}

// The factors below node g, the same for all lanes.
struct Below {
    template <int C>
    static constexpr int product = 2;

    const Factor* node;
    std::size_t g;

    INLINE Pair operator()(int k) const {
        const int depth = 31 - __builtin_clz(static_cast<unsigned>(k));
        return pair(node[(g << depth) + static_cast<std::size_t>(k - (1 << depth))]);
    }
};

// The factors of the last three stages of the eight groups below leaf g, one per lane. A quotient that is made
// here is one less than Shoup's at most, and a product of x below 2q + 2q x / 2^52 - q: below 2q if x is below 2^51,
// and always if the quotient is corrected.
template <int C_>
struct Last {
    template <int C>
    static constexpr int product = C == CLOSE ? 3 : 2;

    const u64* tail;
    std::size_t g;
    const Prime& p;

    INLINE Pair operator()(int k) const {
        const V shifted = load(tail + 56 * g + 8 * static_cast<std::size_t>(k - 1));
        V quotient = high(shifted, shifted, p.ratio);
        if (C_ == TIGHT) {
            const V rest = _mm512_and_si512(low(p.zero, quotient, p.minus_q), p.mask);
            quotient = _mm512_mask_add_epi64(quotient, _mm512_cmpge_epu64_mask(rest, p.q), quotient, set(1));
        }
        return {_mm512_srlv_epi64(shifted, p.shift), quotient};
    }
};

INLINE void transpose8(V* x) {
    V a[8], b[8];
    for (int j = 0; j < 4; ++j) {
        a[2 * j] = _mm512_unpacklo_epi64(x[2 * j], x[2 * j + 1]);
        a[2 * j + 1] = _mm512_unpackhi_epi64(x[2 * j], x[2 * j + 1]);
    }
    for (int h = 0; h < 2; ++h)
        for (int j = 0; j < 2; ++j) {
            b[4 * h + j] = _mm512_shuffle_i64x2(a[4 * h + j], a[4 * h + j + 2], 0x88);
            b[4 * h + j + 2] = _mm512_shuffle_i64x2(a[4 * h + j], a[4 * h + j + 2], 0xdd);
        }
    for (int j = 0; j < 4; ++j) {
        x[j] = _mm512_shuffle_i64x2(b[j], b[j + 4], 0x88);
        x[j + 4] = _mm512_shuffle_i64x2(b[j], b[j + 4], 0xdd);
    }
}

// How many parts a node of so many values is split into: stages in fours until the rest is threes.
INLINE int radix(std::size_t n) {
    const int stages = __builtin_ctzll(n) - 6;
    if (stages % 3 == 0) return 8;
    if (stages > 2) return 16;
    return stages == 1 ? 2 : 4;
}

template <int R>
INLINE void fill(int* b, int bound) {
#pragma GCC unroll 16
    for (int k = 0; k < R; ++k) b[k] = bound;
}

template <int C, int R>
void forward_pass(u64* x, std::size_t n, std::size_t g, const Factor* node, const Prime& prime) {
    const std::size_t part = n / R;
    const Prime p = prime;
    const Below w{node, g};
    for (std::size_t j = 0; j < part; j += 8) {
        V v[R];
        int b[R];
        fill<R>(b, FORWARD_BOUND<C>);
#pragma GCC unroll 16
        for (int k = 0; k < R; ++k) v[k] = load(x + k * part + j);
        forward_stages<C, R, 1>(v, b, w, p);
#pragma GCC unroll 16
        for (int k = 0; k < R; ++k) store(x + k * part + j, v[k]);
    }
}

// With `last`, values are multiplied by a factor and reduced.
template <int C, int R, bool last>
void backward_pass(u64* x, std::size_t n, std::size_t g, const Factor* node, const Prime& prime, Factor scale) {
    const std::size_t part = n / R;
    const Prime p = prime;
    const Below w{node, g};
    const Pair f = pair(scale);
    for (std::size_t j = 0; j < part; j += 8) {
        V v[R];
        int b[R];
        fill<R>(b, BACKWARD_BOUND<C>);
#pragma GCC unroll 16
        for (int k = 0; k < R; ++k) v[k] = load(x + k * part + j);
        backward_stages<C, R, R / 2>(v, b, w, p);
        if constexpr (!last) settle<C, R>(v, b, p);
#pragma GCC unroll 16
        for (int k = 0; k < R; ++k)
            store(x + k * part + j, last ? once(_mm512_and_si512(times(p.zero, v[k], f, p), p.mask), p.q) : v[k]);
    }
}

// What is done with a forward transform's values: `take` has eight of them, and their bound.
struct Reduced {
    u64* x;

    template <int C>
    INLINE void take(V v, int, std::size_t at, const Prime& p) const {
        store(x + at, reduced(v, p));
    }
};

struct Subtracted {
    u64* z;
    const u64 *x, *a;
    Pair f;
    const u32 *from, *to;

    template <int C>
    INLINE void take(V y, int bound, std::size_t at, const Prime& p) const {
        if (bound + 1 > C) y = lower(y, p), bound = 2;
        const V shifted = _mm512_add_epi64(load(x + at), set(static_cast<u64>(bound) * p.prime));
        V v = once(p.mul(_mm512_sub_epi64(shifted, y), f), p.q);
        if (a) v = once(_mm512_add_epi64(v, load(a + at)), p.q);
        const std::size_t target = from ? to[at / 8] : at;
        store(z + target, from ? Moved(from, target).of(v) : v);
    }
};

template <int C, class Use>
INLINE void forward_leaf(const u64* x, std::size_t at, std::size_t g, const Twiddles& t, const Prime& p, const Use& use) {
    V v[8];
    int b[8];
    fill<8>(b, FORWARD_BOUND<C>);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) v[k] = load(x + at + 8 * k);
    forward_stages<C, 8, 1>(v, b, Below{t.node, g}, p);
    transpose8(v);
    fill<8>(b, b[0]);
    forward_stages<C, 8, 1>(v, b, Last<C>{t.tail, g, p}, p);
    transpose8(v);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) use.template take<C>(v[k], b[0], at + 8 * k, p);
}

// g is the mirrored node, here and below. Groups in lanes are in reversed order.
template <int C>
INLINE void backward_leaf(u64* z, const u64* x, std::size_t g, const Twiddles& t, const Prime& p) {
    V v[8], u[8];
    int b[8];
    fill<8>(b, ENTRY_BOUND);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) v[7 - k] = load(x + 8 * k);
    transpose8(v);
    backward_stages<C, 8, 4>(v, b, Last<C>{t.tail, g, p}, p);
    settle<C, 8>(v, b, p);
    transpose8(v);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) u[k] = v[7 - k];
    fill<8>(b, BACKWARD_BOUND<C>);
    backward_stages<C, 8, 4>(u, b, Below{t.node, g}, p);
    settle<C, 8>(u, b, p);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) store(z + 8 * k, u[k]);
}

// Of n values from x + at on.
template <int C, class Use>
void forward_node(u64* x, std::size_t at, std::size_t n, std::size_t g, const Twiddles& t, const Prime& p,
                  const Use& use) {
    if (n == 64) return forward_leaf<C>(x, at, g, t, p, use);
    const int r = radix(n);
    if (r == 16)
        forward_pass<C, 16>(x + at, n, g, t.node, p);
    else if (r == 8)
        forward_pass<C, 8>(x + at, n, g, t.node, p);
    else if (r == 4)
        forward_pass<C, 4>(x + at, n, g, t.node, p);
    else
        forward_pass<C, 2>(x + at, n, g, t.node, p);
    for (int k = 0; k < r; ++k) forward_node<C>(x, at + k * (n / r), n / r, r * g + k, t, p, use);
}

template <class Use>
void forward_all(u64* x, std::size_t n, const Table& t, const Use& use) {
    const Prime p(t.m);
    const int c = room(t.m.q);
    if (c == ROOMY)
        forward_node<ROOMY>(x, 0, n, 1, t.forward, p, use);
    else if (c == CLOSE)
        forward_node<CLOSE>(x, 0, n, 1, t.forward, p, use);
    else
        forward_node<TIGHT>(x, 0, n, 1, t.forward, p, use);
}

template <int C, bool last>
void backward_node(u64* z, const u64* x, std::size_t n, std::size_t g, const Twiddles& t, const Prime& p,
                   Factor scale) {
    if (n == 64) return backward_leaf<C>(z, x, g, t, p);
    const int r = radix(n);
    const std::size_t part = n / r;
    for (int k = 0; k < r; ++k) backward_node<C, false>(z + k * part, x + k * part, part, r * g + (r - 1 - k), t, p, scale);
    if (r == 16)
        backward_pass<C, 16, last>(z, n, g, t.node, p, scale);
    else if (r == 8)
        backward_pass<C, 8, last>(z, n, g, t.node, p, scale);
    else if (r == 4)
        backward_pass<C, 4, last>(z, n, g, t.node, p, scale);
    else
        backward_pass<C, 2, last>(z, n, g, t.node, p, scale);
}

void ntt(u64* x, std::size_t n, const Table& t) {
    if (n <= 64) return scalar_ntt<S>(x, n, t);
    forward_all(x, n, t, Reduced{x});
}

void sub_transformed(u64* z, const u64* x, u64* y, const u64* a, Factor f, const u32* from, std::size_t n,
                     const Table& t) {
    forward_all(y, n, t, Subtracted{z, x, a, pair(f), from, from ? from + n : nullptr});
}

void intt(u64* z, const u64* x, std::size_t n, const Table& t, Factor scale) {
    if (n <= 64) return scalar_intt<S>(z, x, n, t, scale);
    const Prime p(t.m);
    const int c = room(t.m.q);
    (c == ROOMY  ? backward_node<ROOMY, true>
     : c == CLOSE ? backward_node<CLOSE, true>
                  : backward_node<TIGHT, true>)(z, x, n, 1, t.forward, p, scale);
}

// For leaf g the factors of nodes 8g + lane, then those of their halves, then of quarters: 56 words.
void make_tail(u64* tail, const Factor* node, std::size_t n, const Modulus& m) {
    const int shift = shift_of(m.q);
    for (std::size_t g = 1; g < n / 32; ++g)
        for (int k = 1; k < 8; ++k)
            for (std::size_t lane = 0; lane < 8; ++lane) {
                const int depth = k >= 4 ? 2 : k >= 2 ? 1 : 0;
                const std::size_t from = ((8 * g + lane) << depth) + static_cast<std::size_t>(k - (1 << depth));
                tail[56 * g + 8 * static_cast<std::size_t>(k - 1) + lane] = node[from].w << shift;
            }
}

}  // namespace
}  // namespace pi
