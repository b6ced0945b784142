// Radix-2 transform in double precision, written so that compilers vectorize the inner loop.
#pragma once

#include <cstddef>

namespace pi {
namespace {

// Butterflies `from` to `to` of one stage's first group: halves of so many values. cosine and sine hold cos, sin
// of 2 pi j / size for the stage of that size at offset size/2: one contiguous run per stage.
inline void fft_butterflies(double* __restrict re, double* __restrict im, std::size_t half, std::size_t from,
                            std::size_t to, const double* cosine, const double* sine, double sign) {
    const double* c = cosine + half;
    const double* s = sine + half;
    double *br = re + half, *bi = im + half;
#pragma GCC ivdep
    for (std::size_t j = from; j < to; ++j) {
        double wr = c[j], wi = sign * s[j];
        double tr = br[j] * wr - bi[j] * wi, ti = br[j] * wi + bi[j] * wr;
        br[j] = re[j] - tr;
        bi[j] = im[j] - ti;
        re[j] += tr;
        im[j] += ti;
    }
}

// The whole transform, input in bit-reversed order.
inline void fft_stages(double* re, double* im, std::size_t n, const double* cosine, const double* sine, double sign) {
    for (std::size_t half = 1; half < n; half *= 2)
        for (std::size_t at = 0; at < n; at += 2 * half)
            fft_butterflies(re + at, im + at, half, 0, half, cosine, sine, sign);
}

}  // namespace
}  // namespace pi
