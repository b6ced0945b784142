// The transform one butterfly at a time, for both word sizes; the vectorized one uses it below 64 values.
//
// Lazy reduction after Harvey (2014): forward values stay below 4q, inverse ones below 2q. Two stages
// are one pass over memory (radix 4); an odd one comes first, or last in the inverse.
#pragma once

#include <cstring>

#include "kernels.h"

namespace pi {
namespace {

template <int S>
inline void scalar_forward(u64& x, u64& y, Factor w, u64 q) {
    const u64 u = reduce_once(x, 2 * q), v = mul_lazy<S>(y, w, q);
    x = u + v;
    y = u + 2 * q - v;
}

template <int S>
inline void scalar_backward(u64& x, u64& y, Factor w, u64 q) {
    const u64 u = x, v = y;
    x = reduce_once(u + v, 2 * q);
    y = mul_lazy<S>(u + 2 * q - v, w, q);
}

// Two stages on the group of 4 quarter values at x that belongs to node g; with `last`, reduced.
template <int S, bool last>
inline void scalar_forward4(u64* x, std::size_t quarter, std::size_t g, const Factor* node, u64 q) {
    const Factor w = node[g], w0 = node[2 * g], w1 = node[2 * g + 1];
    u64 *a = x, *b = a + quarter, *c = b + quarter, *d = c + quarter;
    for (std::size_t j = 0; j < quarter; ++j) {
        u64 v[4] = {a[j], b[j], c[j], d[j]};
        scalar_forward<S>(v[0], v[2], w, q), scalar_forward<S>(v[1], v[3], w, q);
        scalar_forward<S>(v[0], v[1], w0, q), scalar_forward<S>(v[2], v[3], w1, q);
        if (last)
            for (u64& z : v) z = reduce_once(reduce_once(z, 2 * q), q);
        a[j] = v[0], b[j] = v[1], c[j] = v[2], d[j] = v[3];
    }
}

// With `last`, times a factor and reduced.
template <int S, bool last>
inline void scalar_backward4(u64* x, std::size_t quarter, std::size_t g, const Factor* node, u64 q, Factor scale) {
    const Factor w = node[g], w0 = node[2 * g], w1 = node[2 * g + 1];
    u64 *a = x, *b = a + quarter, *c = b + quarter, *d = c + quarter;
    for (std::size_t j = 0; j < quarter; ++j) {
        u64 v[4] = {a[j], b[j], c[j], d[j]};
        scalar_backward<S>(v[0], v[1], w0, q), scalar_backward<S>(v[2], v[3], w1, q);
        scalar_backward<S>(v[0], v[2], w, q), scalar_backward<S>(v[1], v[3], w, q);
        if (last)
            for (u64& z : v) z = reduce_once(mul_lazy<S>(z, scale, q), q);
        a[j] = v[0], b[j] = v[1], c[j] = v[2], d[j] = v[3];
    }
}

inline bool odd_stages(std::size_t n) { return n & 0xaaaaaaaaaaaaaaaau; }

template <int S>
void scalar_ntt(u64* x, std::size_t n, const Table& t) {
    const u64 q = t.m.q;
    const Factor* node = t.forward.node;
    std::size_t groups = 1;
    if (odd_stages(n)) {
        for (std::size_t j = 0; j < n / 2; ++j) scalar_forward<S>(x[j], x[j + n / 2], node[1], q);
        groups = 2;
        if (n == 2)
            for (std::size_t j = 0; j < n; ++j) x[j] = reduce_once(reduce_once(x[j], 2 * q), q);
    }
    for (; groups * 4 < n; groups *= 4)
        for (std::size_t g = 0; g < groups; ++g)
            scalar_forward4<S, false>(x + g * (n / groups), n / groups / 4, groups + g, node, q);
    if (groups * 4 == n)
        for (std::size_t g = 0; g < groups; ++g) scalar_forward4<S, true>(x + 4 * g, 1, groups + g, node, q);
}

template <int S>
void scalar_intt(u64* x, const u64* from, std::size_t n, const Table& t, Factor scale) {
    const u64 q = t.m.q;
    if (x != from) std::memcpy(x, from, n * sizeof(u64));
    const Factor* node = t.inverse.node;
    const std::size_t top = odd_stages(n) ? 2 : 1;
    std::size_t groups = n / 4;
    for (; groups > 1 || (groups == 1 && top == 2); groups /= 4)
        for (std::size_t g = 0; g < groups; ++g)
            scalar_backward4<S, false>(x + g * (n / groups), n / groups / 4, groups + g, node, q, scale);
    if (top == 1 && n > 1) return scalar_backward4<S, true>(x, n / 4, 1, node, q, scale);
    if (top == 2)
        for (std::size_t j = 0; j < n / 2; ++j) scalar_backward<S>(x[j], x[j + n / 2], node[1], q);
    for (std::size_t j = 0; j < n; ++j) x[j] = reduce_once(mul_lazy<S>(x[j], scale, q), q);
}

}  // namespace
}  // namespace pi
