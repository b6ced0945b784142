// What an evaluator does with ciphertexts; nothing here knows a secret.
//
// Key switching is hybrid (Han and Ki, "Better bootstrapping for approximate homomorphic
// encryption", 2020): the chain's primes in digits of as many primes as there are special ones. A
// rotation key encrypts s under the secret's inverse automorphism, so that the automorphism is
// applied once, to the result (as Lattigo does), and digits can be shared by many rotations.
#pragma once

#include <utility>
#include <vector>

#include "ring.h"

namespace pi {

Polys add(const Ring& ring, const Polys& a, const Polys& b);
Polys sub(const Ring& ring, const Polys& a, const Polys& b);
Polys neg(const Ring& ring, const Polys& a);
Polys mul(const Ring& ring, const Polys& a, const Polys& b);
Polys add_plain(const Ring& ring, const Polys& a, const Plain& b);
Polys mul_plain(const Ring& ring, const Polys& a, const Plain& b);
Polys drop(const Ring& ring, const Polys& a, int level);
Polys rescale(const Ring& ring, const Polys& a);

// One polynomial's digits, each carried to all primes of its level and the special ones.
struct Digits {
    int level;
    int limbs;
    int count;
    Memory memory;
    std::vector<const u64*> limb;  // [digit * limbs + i]; a digit's own limbs are the source's, which must stay
};

Digits decompose(const Ring& ring, const Polys& a, int poly);
// Divides the polynomials from `first` on by the special primes and rounds.
Polys divide_special(const Ring& ring, const Polys& a, int first);

Polys relinearize(const Ring& ring, const Polys& a, const Polys& key);
Polys rotate(const Ring& ring, const Polys& a, const Digits& digits, const Polys& key, const std::vector<u32>& from);
// The same for a ciphertext without digits, which it makes and leaves for further rotations.
Polys rotate_first(const Ring& ring, const Polys& a, Digits& digits, const Polys& key, const std::vector<u32>& from);

// The rotation times the special primes, over the extended basis: a baby step of `linear_sum`.
Polys rotate_extended(const Ring& ring, const Polys& a, const Digits& digits, const Polys& key,
                      const std::vector<u32>& from);

// One giant step: a sum of plaintext products, and the rotation that it gets (none where key is null).
struct Giant {
    const Polys* key;
    const std::vector<u32>* from;
    std::vector<std::pair<const Polys*, const Plain*>> terms;
};

// The sum of the giant steps. Late constants are transformed limb by limb as they are needed. Where terms
// are over the extended basis, that is double hoisting (Bossuat, Mouchet, Troncoso-Pastoriza and Hubaux,
// EUROCRYPT 2021): products and sums stay over that basis; the special primes are divided out once for each
// giant step's second polynomial and once at the end.
Polys linear_sum(const Ring& ring, const std::vector<Giant>& giants, int level);

// Several sums over the same ciphertexts, whose weights are numbers: [sum][input]. Each input is read once.
std::vector<Polys> linear_sums(const Ring& ring, const std::vector<const Polys*>& inputs,
                               const std::vector<std::vector<const Plain*>>& weights, int level);

// A weight times: a b; or a plain; or a alone, of two or three polynomials; or plain alone.
struct Term {
    int weight;
    const Polys* a;
    const Polys* b;
    const Plain* plain;
};

// The sum, relinearized and rescaled: the result is one level below.
Polys product_sum(const Ring& ring, const std::vector<Term>& terms, const Polys& key, int level);

}  // namespace pi
