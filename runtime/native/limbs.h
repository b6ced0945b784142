// Loops over limbs, and the change of basis that rescaling and key switching share.
#pragma once

#include <cstring>
#include <vector>

#include "ring.h"

namespace pi {

// Runs a body for every limb of every polynomial; those of one prime follow each other, so that its twiddle
// factors stay in cache.
template <class Body>
void each_limb(const Ring& ring, int polys, int limbs, const Body& body) {
    ring.threads.loop(static_cast<std::size_t>(polys) * limbs, [&](std::size_t i) {
        body(static_cast<int>(i) % polys, static_cast<int>(i) / polys);
    });
}

inline const Modulus& modulus(const Ring& ring, int level, int i) { return ring.tables[ring.prime(level, i)].m; }

inline void copy(u64* to, const u64* from, std::size_t n) { std::memcpy(to, from, n * sizeof(u64)); }

// Products of constants and ciphertexts on a block of a limb, to be summed: constants of a polynomial's values, and
// numbers.
class Products {
  public:
    // Values of which each repeats 2^log_repeat times.
    void add(const u64* factor, int log_repeat, const u64* x0, const u64* x1);
    // A constant of which the limb is at `row`; the block begins at its value `at`.
    void add(const Plain& plain, const u64* row, std::size_t at, const u64* x0, const u64* x1);
    bool empty() const { return f_.empty() && w_.empty(); }
    // z0, z1 = the sums of both polynomials, n values; with `into`, added.
    void sum(const Ring& ring, u64* z0, u64* z1, std::size_t n, const Modulus& m, bool into) const;

  private:
    std::vector<const u64*> f_, x_, y_;
    std::vector<int> repeat_;
    std::vector<u64> w_;
    std::vector<const u64*> of_x_, of_y_;  // what the numbers multiply
};

// Residues modulo the primes of a conversion, as coefficients times the conversion's factors, and the
// multiples of the modulus to take off.
struct Source {
    Source(const Ring& ring, const Conversion& c);

    // Row j from values in transformed order.
    void fill(const Ring& ring, std::size_t j, const u64* values);

    const Conversion* conversion;
    Memory memory;
    std::vector<const u64*> rows;
    u64* quotient;
};

// The multiples of the modulus, when all rows are there.
void find_quotients(const Ring& ring, const std::vector<Source>& sources);

// A source modulo another prime, as coefficients.
void convert(const Ring& ring, const Source& s, int prime, u64* z);

// Where a source is to go.
struct Target {
    int source;
    int prime;
    u64* to;
};

// The same for many targets. Sources of many limbs do not fit a cache: part by part they are read once.
void convert(const Ring& ring, const std::vector<Source>& sources, const std::vector<Target>& targets);

// Whether sources are so large that they should be converted to all targets together.
bool outgrow_cache(const Ring& ring, const std::vector<Source>& sources);

}  // namespace pi
