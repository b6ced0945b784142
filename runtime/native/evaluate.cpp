#include "evaluate.h"

#include <algorithm>

#include "limbs.h"

namespace pi {

namespace {

template <class Kernel>
Polys sum(const Ring& ring, const Polys& a, const Polys& b, Kernel kernel, bool negate) {
    Polys z = ring.polys(std::max(a.polys, b.polys), a.level, a.extended);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        const Modulus& m = modulus(ring, z.level, i);
        if (p < a.polys && p < b.polys)
            kernel(z.limb(p, i), a.limb(p, i), b.limb(p, i), ring.n, m);
        else if (p < a.polys)
            copy(z.limb(p, i), a.limb(p, i), ring.n);
        else if (negate)
            ring.k->neg(z.limb(p, i), b.limb(p, i), ring.n, m);
        else
            copy(z.limb(p, i), b.limb(p, i), ring.n);
    });
    return z;
}

}  // namespace

Polys add(const Ring& ring, const Polys& a, const Polys& b) { return sum(ring, a, b, ring.k->add, false); }

Polys sub(const Ring& ring, const Polys& a, const Polys& b) { return sum(ring, a, b, ring.k->sub, true); }

Polys neg(const Ring& ring, const Polys& a) {
    Polys z = ring.polys(a.polys, a.level, a.extended);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        ring.k->neg(z.limb(p, i), a.limb(p, i), ring.n, modulus(ring, z.level, i));
    });
    return z;
}

Polys mul(const Ring& ring, const Polys& a, const Polys& b) {
    Polys z = ring.polys(3, a.level, false);
    each_limb(ring, 1, z.limbs, [&](int, int i) {
        ring.k->tensor(z.limb(0, i), z.limb(1, i), z.limb(2, i), a.limb(0, i), a.limb(1, i), b.limb(0, i),
                       b.limb(1, i), ring.n, modulus(ring, z.level, i));
    });
    return z;
}

Polys add_plain(const Ring& ring, const Polys& a, const Plain& b) {
    Polys z = ring.polys(a.polys, a.level, a.extended);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        if (p > 0) return copy(z.limb(p, i), a.limb(p, i), ring.n);
        ring.k->add_repeated(z.limb(0, i), a.limb(0, i), b.limb(i), b.log_repeat, ring.n, modulus(ring, z.level, i));
    });
    return z;
}

Polys mul_plain(const Ring& ring, const Polys& a, const Plain& b) {
    Polys z = ring.polys(a.polys, a.level, a.extended);
    // The kernel multiplies two polynomials at a time; the third of a product is paired with itself.
    const int pairs = (a.polys + 1) / 2;
    each_limb(ring, pairs, z.limbs, [&](int pair, int i) {
        const int p = 2 * pair, q = std::min(p + 1, a.polys - 1);
        const u64 *f = b.limb(i), *x = a.limb(p, i), *y = a.limb(q, i);
        ring.k->dot(z.limb(p, i), z.limb(q, i), &f, &b.log_repeat, &x, &y, 1, ring.n, modulus(ring, z.level, i),
                    false);
    });
    return z;
}

Polys drop(const Ring& ring, const Polys& a, int level) {
    Polys z = ring.polys(a.polys, level, false);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) { copy(z.limb(p, i), a.limb(p, i), ring.n); });
    return z;
}

Polys rescale(const Ring& ring, const Polys& a) {
    const Conversion& c = ring.last(a.level);
    Polys z = ring.polys(a.polys, a.level - 1, false);
    std::vector<Source> sources;
    for (int p = 0; p < a.polys; ++p) sources.emplace_back(ring, c, std::vector<const u64*>{a.limb(p, a.level)});
    lift(ring, sources);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        u64* to = z.limb(p, i);
        lower(ring, sources[p], i, to);
        ring.k->sub_scale(to, a.limb(p, i), to, nullptr, c.divide[i], ring.n, ring.tables[i].m);
    });
    return z;
}

Digits decompose(const Ring& ring, const Polys& a, int poly) {
    Digits d;
    d.level = a.level;
    d.limbs = a.level + 1 + ring.specials;
    d.count = ring.digits(a.level);
    d.memory = ring.take((static_cast<std::size_t>(d.count) * d.limbs - a.level - 1) * ring.n);
    d.limb.resize(static_cast<std::size_t>(d.count) * d.limbs);
    std::vector<Source> sources;
    for (int digit = 0; digit < d.count; ++digit) {
        const int start = ring.digit_start(digit), width = ring.digit_width(digit, a.level);
        std::vector<const u64*> limbs;
        for (int i = 0; i < width; ++i) limbs.push_back(a.limb(poly, start + i));
        sources.emplace_back(ring, ring.digit(digit, width), limbs);
    }
    lift(ring, sources);
    std::vector<Target> targets;
    u64* to = d.memory.data();
    for (int digit = 0; digit < d.count; ++digit) {
        const int start = ring.digit_start(digit), width = ring.digit_width(digit, a.level);
        for (int i = 0; i < d.limbs; ++i) {
            const bool own = i >= start && i < start + width;
            d.limb[static_cast<std::size_t>(digit) * d.limbs + i] = own ? a.limb(poly, i) : to;
            if (own) continue;
            targets.push_back({digit, ring.prime(a.level, i), to});
            to += ring.n;
        }
    }
    convert(ring, sources, targets);
    ring.threads.loop(targets.size(), [&](std::size_t t) {
        ring.k->ntt(targets[t].to, ring.n, ring.tables[targets[t].prime]);
    });
    return d;
}

void apply_key(const Ring& ring, const Digits& d, const Polys& key, int i, u64* z0, u64* z1) {
    const int row = i <= d.level ? i : i - d.level + key.level;
    std::vector<const u64*> f, x, y;
    for (int j = 0; j < d.count; ++j) {
        f.push_back(d.limb[static_cast<std::size_t>(j) * d.limbs + i]);
        x.push_back(key.limb(j, row));
        y.push_back(key.limb(key.polys / 2 + j, row));
    }
    const std::vector<int> once(d.count, 0);
    ring.k->dot(z0, z1, f.data(), once.data(), x.data(), y.data(), f.size(), ring.n, modulus(ring, d.level, i), false);
}

Polys apply_key(const Ring& ring, const Digits& d, const Polys& key) {
    Polys z = ring.polys(2, d.level, true);
    each_limb(ring, 1, z.limbs, [&](int, int i) { apply_key(ring, d, key, i, z.limb(0, i), z.limb(1, i)); });
    return z;
}

Polys divide_special(const Ring& ring, const Polys& a, int first, const Polys* addend, bool both, const std::vector<u32>* from) {
    const Conversion& c = ring.special();
    Polys z = ring.polys(a.polys - first, a.level, false);
    std::vector<Source> sources;
    for (int p = first; p < a.polys; ++p) {
        std::vector<const u64*> limbs;
        for (int i = 0; i < ring.specials; ++i) limbs.push_back(a.limb(p, a.level + 1 + i));
        sources.emplace_back(ring, c, limbs);
    }
    lift(ring, sources);
    Polys rounded = ring.polys(z.polys, a.level, false);
    rounded.memory.secret = a.memory.secret;
    for (Source& source : sources) source.memory.secret = a.memory.secret;
    std::vector<Target> targets;
    for (int p = 0; p < z.polys; ++p)
        for (int i = 0; i < z.limbs; ++i) targets.push_back({p, i, rounded.limb(p, i)});
    convert(ring, sources, targets);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        u64 *at = rounded.limb(p, i), *to = from ? at : z.limb(p, i);
        ring.k->ntt(at, ring.n, ring.tables[i]);
        const u64* more = addend && (both || p == 0) ? addend->limb(p, i) : nullptr;
        ring.k->sub_scale(to, a.limb(first + p, i), at, more, c.divide[i], ring.n, ring.tables[i].m);
        if (from) ring.k->permute(z.limb(p, i), at, from->data(), ring.n);
    });
    return z;
}

Polys relinearize(const Ring& ring, const Polys& a, const Polys& key) {
    return divide_special(ring, apply_key(ring, decompose(ring, a, 2), key), 0, &a, true, nullptr);
}

Polys rotate(const Ring& ring, const Polys& a, const Digits& digits, const Polys& key, const std::vector<u32>& from) {
    return divide_special(ring, apply_key(ring, digits, key), 0, &a, false, &from);
}

Polys rotate_extended(const Ring& ring, const Polys& a, const Digits& digits, const Polys& key,
                      const std::vector<u32>& from) {
    Polys z = apply_key(ring, digits, key);
    each_limb(ring, 2, z.limbs, [&](int p, int i) {
        if (p == 0 && i <= a.level) ring.k->add_scaled(z.limb(0, i), a.limb(0, i), ring.special_product(i), ring.n, modulus(ring, a.level, i));
        Memory scratch = ring.take(ring.n);
        ring.k->permute(scratch.data(), z.limb(p, i), from.data(), ring.n);
        copy(z.limb(p, i), scratch.data(), ring.n);
    });
    return z;
}

}  // namespace pi
