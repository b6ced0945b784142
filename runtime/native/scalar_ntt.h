// The transform one butterfly at a time, for both word sizes; the vectorized one uses it below 64 values.
//
// Lazy reduction after Harvey (2014): forward values stay below 4q, inverse ones below 2q.
#pragma once

#include "kernels.h"

namespace pi {
namespace {

template <int S>
void scalar_ntt(u64* x, std::size_t n, const Table& t) {
    const u64 q = t.m.q, q2 = 2 * q;
    std::size_t half = n / 2;
    for (std::size_t groups = 1; groups < n; groups *= 2, half /= 2) {
        for (std::size_t g = 0; g < groups; ++g) {
            const Factor w = t.forward.node[groups + g];
            u64 *a = x + 2 * g * half, *b = a + half;
            for (std::size_t j = 0; j < half; ++j) {
                u64 u = reduce_once(a[j], q2), v = mul_lazy<S>(b[j], w, q);
                a[j] = u + v;
                b[j] = u + q2 - v;
            }
        }
    }
    for (std::size_t j = 0; j < n; ++j) x[j] = reduce_once(reduce_once(x[j], q2), q);
}

template <int S>
void scalar_intt(u64* x, std::size_t n, const Table& t, Factor scale) {
    const u64 q = t.m.q, q2 = 2 * q;
    std::size_t half = 1;
    for (std::size_t groups = n / 2; groups > 0; groups /= 2, half *= 2) {
        for (std::size_t g = 0; g < groups; ++g) {
            const Factor w = t.inverse.node[groups + g];
            u64 *a = x + 2 * g * half, *b = a + half;
            for (std::size_t j = 0; j < half; ++j) {
                u64 u = a[j], v = b[j];
                a[j] = reduce_once(u + v, q2);
                b[j] = mul_lazy<S>(u + q2 - v, w, q);
            }
        }
    }
    for (std::size_t j = 0; j < n; ++j) x[j] = reduce_once(mul_lazy<S>(x[j], scale, q), q);
}

}  // namespace
}  // namespace pi
