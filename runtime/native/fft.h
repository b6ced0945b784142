// Radix-2 transform in double precision, written so that compilers vectorize the inner loop.
#pragma once

#include <cstddef>

namespace pi {
namespace {

// Input in bit-reversed order. cosine and sine hold cos, sin of 2 pi j / size for the stage of
// that size at offset size/2: one contiguous run per stage.
inline void fft_stages(double* __restrict re, double* __restrict im, std::size_t n, const double* cosine,
                       const double* sine, double sign) {
    for (std::size_t half = 1; half < n; half *= 2) {
        const double* c = cosine + half;
        const double* s = sine + half;
        for (std::size_t at = 0; at < n; at += 2 * half) {
            double *ar = re + at, *ai = im + at, *br = ar + half, *bi = ai + half;
#pragma GCC ivdep
            for (std::size_t j = 0; j < half; ++j) {
                double wr = c[j], wi = sign * s[j];
                double tr = br[j] * wr - bi[j] * wi, ti = br[j] * wi + bi[j] * wr;
                br[j] = ar[j] - tr;
                bi[j] = ai[j] - ti;
                ar[j] += tr;
                ai[j] += ti;
            }
        }
    }
}

}  // namespace
}  // namespace pi
