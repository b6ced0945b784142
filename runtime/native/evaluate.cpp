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
    if (b.n == 1) {
        each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
            u64* to = z.limb(p, i);
            const u64* x = a.limb(p, i);
            ring.k->combine(&to, 1, &x, 1, b.limb(i), ring.n, modulus(ring, z.level, i), false);
        });
        return z;
    }
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
    for (int p = 0; p < a.polys; ++p) sources.emplace_back(ring, c);
    ring.threads.loop(sources.size(), [&](std::size_t p) {
        sources[p].fill(ring, 0, a.limb(static_cast<int>(p), a.level));
    });
    find_quotients(ring, sources);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        u64* to = z.limb(p, i);
        convert(ring, sources[p], i, to);
        ring.k->sub_transformed(to, a.limb(p, i), to, nullptr, c.divide[i], nullptr, ring.n, ring.tables[i]);
    });
    return z;
}

}  // namespace pi
