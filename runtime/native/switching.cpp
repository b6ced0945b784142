#include "switching.h"

#include <algorithm>
#include <utility>

namespace pi {

Columns::Columns(const Ring& ring, const Polys& a, int poly, bool keep) : ring_(ring) {
    Digits& d = digits_;
    d.level = a.level;
    d.limbs = a.level + 1 + ring.specials;
    d.count = ring.digits(a.level);
    for (int j = 0; j < d.count; ++j) sources_.emplace_back(ring, ring.digit(j, ring.digit_width(j, a.level)));
    ring.threads.loop(a.level + 1, [&](std::size_t i) {
        const int digit = static_cast<int>(i) / ring.width, limb = static_cast<int>(i);
        sources_[digit].fill(ring, i - ring.digit_start(digit), a.limb(poly, limb));
    });
    find_quotients(ring, sources_);
    together_ = outgrow_cache(ring, sources_);
    held_ = keep || together_;
    if (held_) d.memory = ring.take((static_cast<std::size_t>(d.count) * d.limbs - a.level - 1) * ring.n);
    std::vector<Target> targets;
    u64* to = d.memory.data();
    for (int digit = 0; digit < d.count; ++digit) {
        const int start = ring.digit_start(digit), end = start + ring.digit_width(digit, a.level);
        for (int i = 0; i < d.limbs; ++i) {
            const bool own = i >= start && i < end;
            d.limb.push_back(own ? a.limb(poly, i) : to);
            if (own || !held_) continue;
            targets.push_back({digit, ring.prime(a.level, i), to});
            to += ring.n;
        }
    }
    if (together_) convert(ring, sources_, targets);
}

std::vector<const u64*> Columns::at(int i, u64* scratch) const {
    const Digits& d = digits_;
    const int prime = ring_.prime(d.level, i);
    std::vector<const u64*> found;
    for (int digit = 0; digit < d.count; ++digit) {
        const u64* limb = d.limb[static_cast<std::size_t>(digit) * d.limbs + i];
        found.push_back(limb);
        if (i <= d.level && i / ring_.width == digit) continue;
        u64* to = held_ ? const_cast<u64*>(limb) : scratch + digit * ring_.n;
        if (!together_) convert(ring_, sources_[digit], prime, to);
        ring_.k->ntt(to, ring_.n, ring_.tables[prime]);
        found.back() = to;
    }
    return found;
}

void apply_key(const Ring& ring, const std::vector<const u64*>& f, int level, const Polys& key, int i, u64* z0,
               u64* z1) {
    const int row = i <= level ? i : i - level + key.level, count = static_cast<int>(f.size());
    std::vector<const u64*> x, y;
    for (int j = 0; j < count; ++j) {
        x.push_back(key.limb(j, row));
        y.push_back(key.limb(key.polys / 2 + j, row));
    }
    const std::vector<int> once(f.size(), 0);
    ring.k->dot(z0, z1, f.data(), once.data(), x.data(), y.data(), f.size(), ring.n, modulus(ring, level, i), false);
}

Division::Division(const Ring& ring, int polys, int level, bool secret)
    : ring_(ring), level_(level), secret_(secret) {
    for (int p = 0; p < polys; ++p) {
        sources_.emplace_back(ring, ring.special());
        sources_.back().memory.secret = secret;
    }
    together_ = outgrow_cache(ring, sources_);
}

void Division::prepare() {
    find_quotients(ring_, sources_);
    if (!together_) return;
    const int polys = static_cast<int>(sources_.size());
    rounded_ = ring_.polys(polys, level_, false);
    rounded_.memory.secret = secret_;
    std::vector<Target> targets;
    for (int p = 0; p < polys; ++p)
        for (int i = 0; i <= level_; ++i) targets.push_back({p, i, rounded_.limb(p, i)});
    convert(ring_, sources_, targets);
}

void Division::limb(int poly, int i, const u64* values, const u64* more, const u32* from, u64* to,
                    u64* scratch) const {
    u64* at = together_ ? rounded_.limb(poly, i) : scratch;
    if (!together_) convert(ring_, sources_[poly], i, at);
    ring_.k->sub_transformed(to, values, at, more, ring_.special().divide[i], from, ring_.n, ring_.tables[i]);
}

namespace {

// The switched polynomial, times the special primes divided out again, plus `a`: polynomial 0 alone, or `both`.
// `column` gives limb i of all digits.
template <class Column>
Polys switched(const Ring& ring, const Polys& a, const Column& column, std::size_t words, const Polys& key, bool both,
               const u32* from) {
    const int limbs = a.level + 1;
    Polys z = ring.polys(2, a.level, false);
    Division division(ring, 2, a.level, false);
    const std::size_t needed = 2 * ring.n + std::max(words, division.scratch());
    ring.threads.loop(ring.specials, [&](std::size_t special) {
        const int j = static_cast<int>(special);
        const Memory scratch = ring.take(needed);
        u64 *z0 = scratch.data(), *z1 = z0 + ring.n;
        apply_key(ring, column(limbs + j, z1 + ring.n), a.level, key, limbs + j, z0, z1);
        division.fill(0, j, z0);
        division.fill(1, j, z1);
    });
    division.prepare();
    ring.threads.loop(limbs, [&](std::size_t limb) {
        const int i = static_cast<int>(limb);
        const Memory scratch = ring.take(needed);
        u64 *z0 = scratch.data(), *z1 = z0 + ring.n, *rest = z1 + ring.n;
        apply_key(ring, column(i, rest), a.level, key, i, z0, z1);
        for (int p = 0; p < 2; ++p)
            division.limb(p, i, p ? z1 : z0, both || p == 0 ? a.limb(p, i) : nullptr, from, z.limb(p, i), rest);
    });
    return z;
}

std::vector<const u64*> column(const Digits& digits, int i) {
    std::vector<const u64*> found;
    for (int digit = 0; digit < digits.count; ++digit)
        found.push_back(digits.limb[static_cast<std::size_t>(digit) * digits.limbs + i]);
    return found;
}

}  // namespace

Digits decompose(const Ring& ring, const Polys& a, int poly) {
    Columns columns(ring, a, poly, true);
    ring.threads.loop(a.level + 1 + ring.specials, [&](std::size_t i) { columns.at(static_cast<int>(i), nullptr); });
    return columns.take();
}

Polys divide_special(const Ring& ring, const Polys& a, int first) {
    const int polys = a.polys - first;
    Division division(ring, polys, a.level, a.memory.secret);
    each_limb(ring, polys, ring.specials,
              [&](int p, int j) { division.fill(p, j, a.limb(first + p, a.level + 1 + j)); });
    division.prepare();
    Polys z = ring.polys(polys, a.level, false);
    each_limb(ring, polys, z.limbs, [&](int p, int i) {
        Memory scratch = ring.take(division.scratch());
        scratch.secret = a.memory.secret;
        division.limb(p, i, a.limb(first + p, i), nullptr, nullptr, z.limb(p, i), scratch.data());
    });
    return z;
}

Polys relinearize(const Ring& ring, const Polys& a, const Polys& key) {
    const Columns columns(ring, a, 2, false);
    const auto column = [&](int i, u64* scratch) { return columns.at(i, scratch); };
    return switched(ring, a, column, columns.scratch(), key, true, nullptr);
}

Polys rotate(const Ring& ring, const Polys& a, const Digits& digits, const Polys& key, const std::vector<u32>& from) {
    return switched(ring, a, [&](int i, u64*) { return column(digits, i); }, 0, key, false, from.data());
}

Polys rotate_first(const Ring& ring, const Polys& a, Digits& digits, const Polys& key, const std::vector<u32>& from) {
    Columns columns(ring, a, 1, true);
    const auto column = [&](int i, u64* scratch) { return columns.at(i, scratch); };
    Polys z = switched(ring, a, column, columns.scratch(), key, false, from.data());
    digits = columns.take();
    return z;
}

Polys rotate_extended(const Ring& ring, const Polys& a, const Digits& digits, const Polys& key,
                      const std::vector<u32>& from) {
    Polys z = ring.polys(2, a.level, true);
    each_limb(ring, 1, z.limbs, [&](int, int i) {
        const Memory scratch = ring.take(2 * ring.n);
        u64 *z0 = scratch.data(), *z1 = z0 + ring.n;
        apply_key(ring, column(digits, i), a.level, key, i, z0, z1);
        const Modulus& m = modulus(ring, a.level, i);
        if (i <= a.level) ring.k->add_scaled(z0, a.limb(0, i), ring.special_product(i), ring.n, m);
        for (int p = 0; p < 2; ++p) ring.k->permute(z.limb(p, i), p ? z1 : z0, from.data(), ring.n);
    });
    return z;
}

}  // namespace pi
