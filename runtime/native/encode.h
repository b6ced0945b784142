// Real slot vectors to polynomials and back: the canonical embedding (Cheon, Kim, Kim and Song, 2017).
//
// Slot j belongs to the root exp(i pi 3^j / N). A real polynomial a of degree N is a complex one of
// half the degree, c_k = a_k + i a_(k + N/2), whose values at the roots that are 1 mod 4 are one
// twisted transform of length N/2; the other roots are their conjugates. A vector of period p is a
// polynomial in X^(N / 2p): it takes transforms of 2p values only.
#pragma once

#include <vector>

#include "ring.h"

namespace pi {

class Encoder {
  public:
    explicit Encoder(const Ring& ring);

    // One period of values; throws std::out_of_range where a coefficient does not fit the modulus. Late
    // ones stay coefficients if these are below 2^51 and more than one. With `secret`, all memory that held them is wiped.
    Plain encode(const double* values, std::size_t period, double scale, int level, bool extended, bool late,
                 bool secret) const;
    // The N/2 values times their scale of a polynomial in transformed order; working memory is wiped.
    void decode(const Polys& a, double* slots) const;

  private:
    // The transform of a polynomial's n complex values, input in bit-reversed order. The first stages part by part:
    // a part stays in a first-level cache, and threads share them.
    void transform(double* re, double* im, std::size_t n, double sign) const;
    // Coefficients (2 period) of values, and the largest magnitude. x has room for 4 period.
    double coefficients(const double* values, std::size_t period, double scale, double* x) const;
    void residues(u64* z, const double* x, std::size_t count, double largest, int prime) const;

    const Ring& ring_;
    std::vector<double> cosine_, sine_;              // per stage, see fft.h
    std::vector<double> twist_re_, twist_im_;        // exp(i pi k / N)
    std::vector<std::vector<u32>> slot_;             // [log2 period][place]: the slot that the transform wants there
};

}  // namespace pi
