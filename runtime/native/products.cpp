// Sums of products of ciphertexts: three polynomials are summed, relinearized once, and divided once by the
// special primes and the level's own.
#include <cstring>

#include "evaluate.h"
#include "limbs.h"
#include "switching.h"

namespace pi {

namespace {

// Values of a limb whose partial sums stay in cache.
constexpr std::size_t BLOCK = 1024;

// z = sum of the ciphertext products.
void tensors(const Ring& ring, const std::vector<const Term*>& terms, u64* const* z, int i, std::size_t at,
             const Modulus& m) {
    if (terms.empty()) {
        for (int p = 0; p < 3; ++p) std::memset(z[p], 0, BLOCK * sizeof(u64));
        return;
    }
    if (terms.size() == 1) {
        const Polys &a = *terms[0]->a, &b = *terms[0]->b;
        ring.k->tensor(z[0], z[1], z[2], a.limb(0, i) + at, a.limb(1, i) + at, b.limb(0, i) + at, b.limb(1, i) + at,
                       BLOCK, m);
        return;
    }
    alignas(64) u64 cross[BLOCK];
    Products low, high;
    for (const Term* t : terms) {
        const u64 *b0 = t->b->limb(0, i) + at, *b1 = t->b->limb(1, i) + at;
        low.add(t->a->limb(0, i) + at, 0, b0, b1);
        high.add(t->a->limb(1, i) + at, 0, b0, b1);
    }
    low.sum(ring, z[0], z[1], BLOCK, m, false);
    high.sum(ring, cross, z[2], BLOCK, m, false);
    ring.k->add(z[1], z[1], cross, BLOCK, m);
}

// z += weight times a term of any kind.
void weighted(const Ring& ring, const Term& t, u64* const* z, int i, std::size_t at, const Modulus& m) {
    alignas(64) u64 w[3][BLOCK];
    u64* const own[3] = {w[0], w[1], w[2]};
    const u64* x[3] = {w[0], w[1], w[2]};
    int polys = 0;
    if (t.b) {
        tensors(ring, {&t}, own, i, at, m);
        polys = 3;
    } else if (t.a && t.plain) {
        Products product;
        product.add(*t.plain, t.plain->limb(i), at, t.a->limb(0, i) + at, t.a->limb(1, i) + at);
        product.sum(ring, w[0], w[1], BLOCK, m, false);
        polys = 2;
    } else if (t.a) {
        for (; polys < t.a->polys; ++polys) x[polys] = t.a->limb(polys, i) + at;
    } else {
        std::memset(w[0], 0, sizeof w[0]);
        ring.k->add_repeated(w[0], w[0], t.plain->limb(i) + (at >> t.plain->log_repeat), t.plain->log_repeat, BLOCK, m);
        polys = 1;
    }
    const u64 size = static_cast<u64>(t.weight < 0 ? -t.weight : t.weight) % m.q;
    const Factor f = ring.factor(t.weight < 0 && size ? m.q - size : size, i);
    for (int p = 0; p < polys; ++p) {
        if (t.weight == 1)
            ring.k->add(z[p], z[p], x[p], BLOCK, m);
        else
            ring.k->add_scaled(z[p], x[p], f, BLOCK, m);
    }
}

// Three polynomials over the chain.
Polys sum_terms(const Ring& ring, const std::vector<Term>& terms, int level) {
    std::vector<const Term*> products, plain, others;
    for (const Term& t : terms) {
        const bool once = t.weight == 1;
        (once && t.b ? products : once && t.a && t.plain ? plain : others).push_back(&t);
    }
    Polys z = ring.polys(3, level, false);
    each_limb(ring, 1, z.limbs, [&](int, int i) {
        const Modulus& m = modulus(ring, level, i);
        for (std::size_t at = 0; at < ring.n; at += BLOCK) {
            u64* const to[3] = {z.limb(0, i) + at, z.limb(1, i) + at, z.limb(2, i) + at};
            tensors(ring, products, to, i, at, m);
            Products scaled;
            for (const Term* t : plain)
                scaled.add(*t->plain, t->plain->limb(i), at, t->a->limb(0, i) + at, t->a->limb(1, i) + at);
            scaled.sum(ring, to[0], to[1], BLOCK, m, true);
            for (const Term* t : others) weighted(ring, *t, to, i, at, m);
        }
    });
    return z;
}

// Divides by the special primes and the last one of the chain in one change of basis, and rounds once.
Polys divide_special_and_last(const Ring& ring, const Polys& a) {
    const Conversion& c = ring.special_and_last(a.level);
    Polys z = ring.polys(a.polys, a.level - 1, false), rounded = ring.polys(a.polys, a.level - 1, false);
    std::vector<Source> sources;
    for (int p = 0; p < a.polys; ++p) sources.emplace_back(ring, c);
    each_limb(ring, a.polys, ring.specials + 1, [&](int p, int i) {
        sources[p].fill(ring, i, a.limb(p, i < ring.specials ? a.level + 1 + i : a.level));
    });
    find_quotients(ring, sources);
    std::vector<Target> targets;
    for (int p = 0; p < z.polys; ++p)
        for (int i = 0; i < z.limbs; ++i) targets.push_back({p, i, rounded.limb(p, i)});
    convert(ring, sources, targets);
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        ring.k->sub_transformed(z.limb(p, i), a.limb(p, i), rounded.limb(p, i), nullptr, c.divide[i], nullptr, ring.n,
                                ring.tables[i]);
    });
    return z;
}

}  // namespace

Polys product_sum(const Ring& ring, const std::vector<Term>& terms, const Polys& key, int level) {
    const Polys sum = sum_terms(ring, terms, level);
    const Columns columns(ring, sum, 2, false);
    Polys switched = ring.polys(2, level, true);
    each_limb(ring, 1, switched.limbs, [&](int, int i) {
        const Memory scratch = ring.take(columns.scratch());
        apply_key(ring, columns.at(i, scratch.data()), level, key, i, switched.limb(0, i), switched.limb(1, i));
        if (i > level) return;
        for (int p = 0; p < 2; ++p)
            ring.k->add_scaled(switched.limb(p, i), sum.limb(p, i), ring.special_product(i), ring.n,
                               modulus(ring, level, i));
    });
    return divide_special_and_last(ring, switched);
}

}  // namespace pi
