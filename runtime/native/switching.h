// Key switching in steps of one limb, so that what a step makes is used while it is in a core's cache.
#pragma once

#include <vector>

#include "evaluate.h"
#include "limbs.h"

namespace pi {

// A polynomial's digits while they are made: the lifted residues of each, and its limbs column by column.
class Columns {
  public:
    // With `keep`, limbs stay in the digits' memory.
    Columns(const Ring& ring, const Polys& a, int poly, bool keep);

    // Words that `at` needs.
    std::size_t scratch() const { return held_ ? 0 : digits_.count * ring_.n; }
    // Limb i of every digit, transformed; in memory or, where nothing is held, in scratch.
    std::vector<const u64*> at(int i, u64* scratch) const;
    // When all columns were made.
    Digits take() { return std::move(digits_); }

  private:
    const Ring& ring_;
    Digits digits_;
    std::vector<Source> sources_;
    bool held_, together_;
};

// Limb i of the inner product of digits, of which `f` has that limb, with a key (per digit the polynomial
// with the message, then per digit the uniform one).
void apply_key(const Ring& ring, const std::vector<const u64*>& f, int level, const Polys& key, int i, u64* z0,
               u64* z1);

// Division of polynomials by the special primes, rounded.
class Division {
  public:
    // With `secret`, memory is wiped.
    Division(const Ring& ring, int polys, int level, bool secret);

    // First: the limb of each special prime, in any order.
    void fill(int poly, int special, const u64* values) { sources_[poly].fill(ring_, special, values); }
    // Then this.
    void prepare();
    // Words that `limb` needs.
    std::size_t scratch() const { return together_ ? 0 : ring_.n; }
    // Last: limb i of the result, from that of the polynomial; plus `more`, if that is not null, and the
    // automorphism applied, if `from` is not null.
    void limb(int poly, int i, const u64* values, const u64* more, const u32* from, u64* to, u64* scratch) const;

  private:
    const Ring& ring_;
    int level_;
    std::vector<Source> sources_;
    bool secret_, together_;
    Polys rounded_;
};

}  // namespace pi
