// Matrix products: sums of plaintext products, rotated by giant steps.
#include <algorithm>

#include "evaluate.h"
#include "limbs.h"
#include "switching.h"

namespace pi {

namespace {

// Values of a limb that all giant steps visit before the next ones: their baby steps stay in cache.
constexpr std::size_t BLOCK = 1024;
// Words of the inputs of several sums that stay in a core's second-level cache, and the fewest of one input.
constexpr std::size_t CACHED = std::size_t{1} << 15, LEAST = 64;
// Giant steps whose sums are held at a time, and words of late constants that a limb of them may take.
constexpr std::size_t HELD = 8, LATE_WORDS = std::size_t{1} << 20;

bool over_chain(const Giant& giant) {
    return std::none_of(giant.terms.begin(), giant.terms.end(), [](const auto& term) { return term.first->extended; });
}

std::size_t late_words(const Giant& giant) {
    std::size_t words = 0;
    for (const auto& [a, b] : giant.terms)
        if (b->late) words += b->n;
    return words;
}

// Giant steps from `start` on that are summed together.
std::size_t together(const std::vector<Giant>& giants, std::size_t start) {
    std::size_t count = 0, words = 0;
    while (count < HELD && start + count < giants.size() && (count == 0 || words < LATE_WORDS))
        words += late_words(giants[start + count++]);
    return count;
}

// Limb i of the constants of some giant steps, term by term: late ones are transformed now.
class Constants {
  public:
    Constants(const Ring& ring, const Giant* giants, std::size_t count, int level, int i) {
        std::size_t words = 0;
        for (std::size_t g = 0; g < count; ++g) words += late_words(giants[g]);
        if (words) scratch_ = ring.take(words);
        const Table& t = ring.tables[ring.prime(level, i)];
        u64* to = scratch_.data();
        for (std::size_t g = 0; g < count; ++g) {
            rows_.emplace_back();
            for (const auto& [a, b] : giants[g].terms) {
                rows_.back().push_back(b->late ? to : b->limb(i));
                if (!b->late) continue;
                ring.k->lift(to, b->coefficients(), b->n, t.m);
                ring.k->ntt(to, b->n, t);
                to += b->n;
            }
        }
    }

    const std::vector<const u64*>& of(std::size_t giant) const { return rows_[giant]; }

  private:
    Memory scratch_;
    std::vector<std::vector<const u64*>> rows_;
};

// The plaintext products of one giant step over a block of limb i, of the extended or of the other terms.
bool products(const Ring& ring, const Giant& giant, const std::vector<const u64*>& rows, bool extended, int level,
              int i, std::size_t at, u64* z0, u64* z1) {
    Products found;
    for (std::size_t k = 0; k < giant.terms.size(); ++k) {
        const auto& [a, b] = giant.terms[k];
        if (a->extended == extended) found.add(*b, rows[k], at, a->limb(0, i) + at, a->limb(1, i) + at);
    }
    if (found.empty()) return false;
    found.sum(ring, z0, z1, BLOCK, modulus(ring, level, i), false);
    return true;
}

// One block of a giant step's sum of products; times the special primes where that is extended.
void sum_block(const Ring& ring, const Giant& giant, const std::vector<const u64*>& rows, const Polys& u, int i,
               std::size_t at) {
    u64 *u0 = u.limb(0, i) + at, *u1 = u.limb(1, i) + at;
    if (!u.extended) {
        products(ring, giant, rows, false, u.level, i, at, u0, u1);
        return;
    }
    products(ring, giant, rows, true, u.level, i, at, u0, u1);
    if (i > u.level) return;
    alignas(64) u64 w0[BLOCK], w1[BLOCK];
    if (!products(ring, giant, rows, false, u.level, i, at, w0, w1)) return;
    const Modulus& m = modulus(ring, u.level, i);
    ring.k->add_scaled(u0, w0, ring.special_product(i), BLOCK, m);
    ring.k->add_scaled(u1, w1, ring.special_product(i), BLOCK, m);
}

// The sums of products of some giant steps; a sum is extended where one of its terms is.
std::vector<Polys> sum_products(const Ring& ring, const Giant* giants, std::size_t count, int level) {
    std::vector<Polys> sums;
    int limbs = 0;
    for (std::size_t g = 0; g < count; ++g) {
        sums.push_back(ring.polys(2, level, !over_chain(giants[g])));
        limbs = std::max(limbs, sums.back().limbs);
    }
    each_limb(ring, 1, limbs, [&](int, int i) {
        const Constants constants(ring, giants, count, level, i);
        for (std::size_t at = 0; at < ring.n; at += BLOCK)
            for (std::size_t g = 0; g < count; ++g)
                if (i < sums[g].limbs) sum_block(ring, giants[g], constants.of(g), sums[g], i, at);
    });
    return sums;
}

// total += P u, rotated; u is times P already where it is extended.
void accumulate(const Ring& ring, Polys& total, const Polys& u, const Giant& giant) {
    const auto addend = [&](u64* to, int p, int i) {
        const Modulus& m = modulus(ring, u.level, i);
        if (u.extended)
            ring.k->add(to, to, u.limb(p, i), ring.n, m);
        else if (i <= u.level)
            ring.k->add_scaled(to, u.limb(p, i), ring.special_product(i), ring.n, m);
    };
    if (!giant.key) {
        each_limb(ring, 2, total.limbs, [&](int p, int i) { addend(total.limb(p, i), p, i); });
        return;
    }
    const Polys second = u.extended ? divide_special(ring, u, 1) : Polys();
    const Columns columns(ring, u.extended ? second : u, u.extended ? 0 : 1, false);
    each_limb(ring, 1, total.limbs, [&](int, int i) {
        const Memory scratch = ring.take(2 * ring.n + columns.scratch());
        u64 *z0 = scratch.data(), *z1 = z0 + ring.n;
        apply_key(ring, columns.at(i, z1 + ring.n), u.level, *giant.key, i, z0, z1);
        addend(z0, 0, i);
        for (int p = 0; p < 2; ++p)
            ring.k->add_permuted(total.limb(p, i), p ? z1 : z0, giant.from->data(), ring.n, modulus(ring, u.level, i));
    });
}

}  // namespace

std::vector<Polys> linear_sums(const Ring& ring, const std::vector<const Polys*>& inputs,
                               const std::vector<std::vector<const Plain*>>& weights, int level) {
    const std::size_t outputs = weights.size(), size = outputs * inputs.size();
    std::vector<Polys> sums;
    for (std::size_t j = 0; j < outputs; ++j) sums.push_back(ring.polys(2, level, false));
    std::vector<u64> w;
    w.reserve(size * (level + 1));
    for (int i = 0; i <= level; ++i)
        for (const auto& row : weights)
            for (const Plain* plain : row) w.push_back(*plain->limb(i));
    std::size_t block = BLOCK;
    while (block > LEAST && block * inputs.size() > CACHED) block /= 2;
    ring.threads.loop((level + 1) * (ring.n / block), [&](std::size_t task) {
        const int i = static_cast<int>(task / (ring.n / block));
        const std::size_t at = task % (ring.n / block) * block;
        for (int p = 0; p < 2; ++p) {
            std::vector<const u64*> x;
            std::vector<u64*> z;
            for (const Polys* a : inputs) x.push_back(a->limb(p, i) + at);
            for (const Polys& sum : sums) z.push_back(sum.limb(p, i) + at);
            ring.k->combine(z.data(), outputs, x.data(), x.size(), w.data() + i * size, block, modulus(ring, level, i),
                            false);
        }
    });
    return sums;
}

Polys linear_sum(const Ring& ring, const std::vector<Giant>& giants, int level) {
    if (giants.size() == 1 && !giants[0].key && over_chain(giants[0]))
        return std::move(sum_products(ring, giants.data(), 1, level)[0]);
    Polys total = ring.polys(2, level, true);
    each_limb(ring, 2, total.limbs, [&](int p, int i) { std::memset(total.limb(p, i), 0, ring.n * sizeof(u64)); });
    for (std::size_t start = 0, count; start < giants.size(); start += count) {
        count = together(giants, start);
        const std::vector<Polys> sums = sum_products(ring, &giants[start], count, level);
        for (std::size_t g = 0; g < count; ++g) accumulate(ring, total, sums[g], giants[start + g]);
    }
    return divide_special(ring, total, 0);
}

}  // namespace pi
