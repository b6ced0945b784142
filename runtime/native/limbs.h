// Loops over limbs, and the change of basis that rescaling and key switching share.
#pragma once

#include <cstring>
#include <vector>

#include "ring.h"

namespace pi {

// Runs a body for every limb of every polynomial.
template <class Body>
void each_limb(const Ring& ring, int polys, int limbs, const Body& body) {
    ring.threads.loop(static_cast<std::size_t>(polys) * limbs, [&](std::size_t i) {
        body(static_cast<int>(i) / limbs, static_cast<int>(i) % limbs);
    });
}

inline const Modulus& modulus(const Ring& ring, int level, int i) { return ring.tables[ring.prime(level, i)].m; }

inline void copy(u64* to, const u64* from, std::size_t n) { std::memcpy(to, from, n * sizeof(u64)); }

// Residues modulo the primes of a conversion; after `lift`, as coefficients times the conversion's
// factors, and the multiples of the modulus to take off.
struct Source {
    Source(const Ring& ring, const Conversion& c, std::vector<const u64*> limbs);

    const Conversion* conversion;
    std::vector<const u64*> limbs;
    Memory memory;
    std::vector<const u64*> rows;
    u64* quotient;
};

void lift(const Ring& ring, std::vector<Source>& sources);

// The lifted residues modulo another prime, in transformed order.
void lower(const Ring& ring, const Source& s, int prime, u64* z);

// Where the lifted residues of a source are to go.
struct Target {
    int source;
    int prime;
    u64* to;
};

// All targets, as coefficients. A source of many limbs does not fit a cache: part by part it is read once.
void convert(const Ring& ring, const std::vector<Source>& sources, const std::vector<Target>& targets);

}  // namespace pi
