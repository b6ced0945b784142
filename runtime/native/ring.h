// A ring Z_Q[X]/(X^N + 1) in residues: primes, transform tables, constants of base conversion.
#pragma once

#include <memory>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace pi {

// Polynomials over q_0 ... q_level, and where extended over the special primes behind them; in
// transformed order, all limbs in one block.
struct Polys {
    int polys = 0;
    int level = 0;
    bool extended = false;
    int limbs = 0;
    std::size_t n = 0;
    Memory memory;

    u64* limb(int poly, int i) const { return memory.data() + (static_cast<std::size_t>(poly) * limbs + i) * n; }
};

// An encoded constant: a polynomial in X^(2^log_repeat), of which each value repeats so many times.
struct Plain {
    int level = 0;
    bool extended = false;
    int limbs = 0;
    int log_repeat = 0;
    bool late = false;  // still coefficients, whole numbers below 2^51, the same for all limbs
    std::size_t n = 0;
    Memory memory;

    u64* limb(int i) const { return memory.data() + static_cast<std::size_t>(i) * n; }
    double* coefficients() const { return reinterpret_cast<double*>(memory.data()); }
};

// Carries residues modulo the product D of some primes to other primes: x = sum y_k D/q_k - v D
// with y_k = x (D/q_k)^-1 mod q_k, and v chosen so that the result is centered (fast base
// conversion after Halevi, Polyakov and Shoup, 2019).
struct Conversion {
    std::vector<int> from;
    std::vector<Factor> scale;    // per source: (D/q_k)^-1 / N, for the inverse transform
    std::vector<double> inverse;  // per source: 1 / q_k
    // Per prime of the ring, where it is not a source:
    std::vector<std::vector<u64>> factors;  // D/q_k
    std::vector<u64> minus_d;               // -D
    std::vector<Factor> divide;             // 1/D
};

class Ring {
  public:
    Ring(int log_n, std::vector<u64> primes, int specials, int digit, int threads, const Kernels* kernels);

    const int log_n;
    const std::size_t n;
    const std::vector<u64> primes;  // the chain, then the special ones
    const int specials;
    const int width;  // primes of the chain in a digit of key switching
    const int chain;
    const Kernels* const k;
    std::vector<Table> tables;
    mutable Threads threads;
    std::shared_ptr<Pool> pool;

    Memory take(std::size_t words) const { return Memory(pool, words); }
    Polys polys(int count, int level, bool extended) const;
    Factor factor(u64 w, int prime) const;
    Factor n_inverse(int prime) const { return n_inverse_[prime]; }
    // Index of the prime of limb i of something at this level.
    int prime(int level, int i) const { return i <= level ? i : chain + i - level - 1; }
    int digits(int level) const { return level / width + 1; }
    int digit_start(int digit) const { return digit * width; }
    int digit_width(int digit, int level) const;
    const Conversion& digit(int digit, int width) const { return digits_[digit * this->width + width - 1]; }
    const Conversion& special() const { return special_; }
    const Conversion& last(int level) const { return last_[level]; }
    // The special primes and the last one of a level above 0.
    const Conversion& special_and_last(int level) const { return special_and_last_[level - 1]; }
    // The special primes' product modulo a prime of the chain.
    Factor special_product(int prime) const {
        const u64 minus = special_.minus_d[prime];
        return factor(minus ? primes[prime] - minus : 0, prime);
    }
    // Where the automorphism X -> X^galois takes its values from, in transformed order, and behind that where
    // each block of eight goes.
    std::vector<u32> automorphism(u64 galois) const;

  private:
    void make_table(int prime);
    Conversion conversion(std::vector<int> from) const;

    std::vector<Factor> n_inverse_;
    std::vector<Conversion> digits_;
    Conversion special_;
    std::vector<Conversion> last_;
    std::vector<Conversion> special_and_last_;
    std::vector<Memory> held_;
};

}  // namespace pi
