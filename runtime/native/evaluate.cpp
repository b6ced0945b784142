#include "evaluate.h"

#include <algorithm>
#include <cstring>

namespace pi {

namespace {

// Runs a body for every limb of every polynomial.
template <class Body>
void each_limb(const Ring& ring, int polys, int limbs, const Body& body) {
    ring.threads.loop(static_cast<std::size_t>(polys) * limbs, [&](std::size_t i) {
        body(static_cast<int>(i) / limbs, static_cast<int>(i) % limbs);
    });
}

const Modulus& modulus(const Ring& ring, int level, int i) { return ring.tables[ring.prime(level, i)].m; }

void copy(u64* to, const u64* from, std::size_t n) { std::memcpy(to, from, n * sizeof(u64)); }

// Residues modulo the primes of a conversion, as coefficients times the conversion's factors, and
// the multiples of the modulus to take off.
struct Source {
    Memory memory;
    std::vector<const u64*> rows;
    const u64* quotient;
};

Source lift_source(const Ring& ring, const Conversion& c, const std::vector<const u64*>& limbs) {
    const std::size_t n = ring.n, terms = c.from.size();
    Source s;
    s.memory = ring.take((terms + 1) * n);
    for (std::size_t j = 0; j < terms; ++j) {
        u64* row = s.memory.data() + j * n;
        copy(row, limbs[j], n);
        ring.k->intt(row, n, ring.tables[c.from[j]], c.scale[j]);
        s.rows.push_back(row);
    }
    u64* v = s.memory.data() + terms * n;
    ring.k->quotients(v, s.rows.data(), c.inverse.data(), terms, n);
    s.quotient = v;
    return s;
}

// The lifted residues modulo another prime, in transformed order.
void lower(const Ring& ring, const Conversion& c, const Source& s, int prime, u64* z) {
    ring.k->convert(z, s.rows.data(), c.factors[prime].data(), c.from.size(), s.quotient, c.minus_d[prime], ring.n,
                    ring.tables[prime].m);
    ring.k->ntt(z, ring.n, ring.tables[prime]);
}

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
    std::vector<Source> sources(a.polys);
    ring.threads.loop(a.polys, [&](std::size_t p) {
        sources[p] = lift_source(ring, c, {a.limb(static_cast<int>(p), a.level)});
    });
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        u64* to = z.limb(p, i);
        lower(ring, c, sources[p], i, to);
        ring.k->sub_scale(to, a.limb(p, i), to, nullptr, c.divide[i], ring.n, ring.tables[i].m);
    });
    return z;
}

Digits decompose(const Ring& ring, const Polys& a, int poly) {
    Digits d;
    d.level = a.level;
    d.limbs = a.level + 1 + ring.specials;
    d.count = ring.digits(a.level);
    d.memory = ring.take(static_cast<std::size_t>(d.count) * d.limbs * ring.n);
    d.limb.resize(static_cast<std::size_t>(d.count) * d.limbs);
    std::vector<Source> sources(d.count);
    ring.threads.loop(d.count, [&](std::size_t j) {
        const int digit = static_cast<int>(j), start = ring.digit_start(digit);
        std::vector<const u64*> limbs;
        for (int i = 0; i < ring.digit_width(digit, a.level); ++i) limbs.push_back(a.limb(poly, start + i));
        sources[j] = lift_source(ring, ring.digit(digit, ring.digit_width(digit, a.level)), limbs);
    });
    each_limb(ring, d.count, d.limbs, [&](int digit, int i) {
        const std::size_t at = static_cast<std::size_t>(digit) * d.limbs + i;
        const int start = ring.digit_start(digit), width = ring.digit_width(digit, a.level);
        u64* to = d.memory.data() + at * ring.n;
        if (i >= start && i < start + width)
            copy(to, a.limb(poly, i), ring.n);
        else
            lower(ring, ring.digit(digit, width), sources[digit], ring.prime(a.level, i), to);
        d.limb[at] = to;
    });
    return d;
}

Polys apply_key(const Ring& ring, const Digits& d, const Polys& key) {
    Polys z = ring.polys(2, d.level, true);
    each_limb(ring, 1, z.limbs, [&](int, int i) {
        const int row = i <= d.level ? i : i - d.level + key.level;
        std::vector<const u64*> f, x, y;
        for (int j = 0; j < d.count; ++j) {
            f.push_back(d.limb[static_cast<std::size_t>(j) * d.limbs + i]);
            x.push_back(key.limb(j, row));
            y.push_back(key.limb(key.polys / 2 + j, row));
        }
        const std::vector<int> once(d.count, 0);
        ring.k->dot(z.limb(0, i), z.limb(1, i), f.data(), once.data(), x.data(), y.data(), f.size(), ring.n,
                    modulus(ring, d.level, i), false);
    });
    return z;
}

Polys divide_special(const Ring& ring, const Polys& a, int first, const Polys* addend, bool both, const std::vector<u32>* from) {
    const Conversion& c = ring.special();
    Polys z = ring.polys(a.polys - first, a.level, false);
    std::vector<Source> sources(z.polys);
    ring.threads.loop(z.polys, [&](std::size_t p) {
        std::vector<const u64*> limbs;
        for (int i = 0; i < ring.specials; ++i) limbs.push_back(a.limb(first + static_cast<int>(p), a.level + 1 + i));
        sources[p] = lift_source(ring, c, limbs);
        sources[p].memory.secret = a.memory.secret;
    });
    each_limb(ring, z.polys, z.limbs, [&](int p, int i) {
        u64* to = z.limb(p, i);
        Memory scratch = from ? ring.take(ring.n) : Memory();
        u64* at = from ? scratch.data() : to;
        lower(ring, c, sources[p], i, at);
        const u64* more = addend && (both || p == 0) ? addend->limb(p, i) : nullptr;
        ring.k->sub_scale(at, a.limb(first + p, i), at, more, c.divide[i], ring.n, ring.tables[i].m);
        if (from) ring.k->permute(to, at, from->data(), ring.n);
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

namespace {

// Whether the terms are all over the chain's primes alone.
bool plain_basis(const Giant& giant) {
    return std::none_of(giant.terms.begin(), giant.terms.end(), [](const auto& term) { return term.first->extended; });
}

// Values of a limb that all giant steps visit before the next ones: their baby steps stay in cache.
constexpr std::size_t BLOCK = 1024;
// Giant steps whose sums are held at a time.
constexpr std::size_t HELD = 8;

// The plaintext products of one giant step over a block of limb i, of the extended or of the other terms.
bool products(const Ring& ring, const Giant& giant, bool extended, int level, int i, std::size_t at, u64* z0,
              u64* z1) {
    std::vector<const u64*> f, x, y;
    std::vector<int> repeat;
    for (const auto& [a, b] : giant.terms) {
        if (a->extended != extended) continue;
        f.push_back(b->limb(i) + (at >> b->log_repeat));
        repeat.push_back(b->log_repeat);
        x.push_back(a->limb(0, i) + at);
        y.push_back(a->limb(1, i) + at);
    }
    if (f.empty()) return false;
    ring.k->dot(z0, z1, f.data(), repeat.data(), x.data(), y.data(), f.size(), BLOCK, modulus(ring, level, i), false);
    return true;
}

// One block of a giant step's sum of products times the special primes.
void sum_block(const Ring& ring, const Giant& giant, const Polys& u, int i, std::size_t at) {
    u64 *u0 = u.limb(0, i) + at, *u1 = u.limb(1, i) + at;
    if (!products(ring, giant, true, u.level, i, at, u0, u1)) {
        std::memset(u0, 0, BLOCK * sizeof(u64));
        std::memset(u1, 0, BLOCK * sizeof(u64));
    }
    if (i > u.level) return;
    alignas(64) u64 w0[BLOCK], w1[BLOCK];
    if (!products(ring, giant, false, u.level, i, at, w0, w1)) return;
    const Modulus& m = modulus(ring, u.level, i);
    ring.k->add_scaled(u0, w0, ring.special_product(i), BLOCK, m);
    ring.k->add_scaled(u1, w1, ring.special_product(i), BLOCK, m);
}

// The sums of products of some giant steps, times the special primes.
std::vector<Polys> sum_products(const Ring& ring, const Giant* giants, std::size_t count, int level) {
    std::vector<Polys> sums;
    for (std::size_t g = 0; g < count; ++g) sums.push_back(ring.polys(2, level, true));
    each_limb(ring, 1, sums[0].limbs, [&](int, int i) {
        for (std::size_t at = 0; at < ring.n; at += BLOCK)
            for (std::size_t g = 0; g < count; ++g) sum_block(ring, giants[g], sums[g], i, at);
    });
    return sums;
}

// u rotated, still times the special primes.
Polys rotate_sum(const Ring& ring, const Polys& u, const Giant& giant) {
    const Polys second = divide_special(ring, u, 1, nullptr, false, nullptr);
    Polys z = apply_key(ring, decompose(ring, second, 0), *giant.key);
    each_limb(ring, 2, z.limbs, [&](int p, int i) {
        u64* to = z.limb(p, i);
        if (p == 0) ring.k->add(to, to, u.limb(0, i), ring.n, modulus(ring, u.level, i));
        Memory scratch = ring.take(ring.n);
        ring.k->permute(scratch.data(), to, giant.from->data(), ring.n);
        copy(to, scratch.data(), ring.n);
    });
    return z;
}

}  // namespace

Polys linear_sum(const Ring& ring, const std::vector<Giant>& giants, int level) {
    if (giants.size() == 1 && !giants[0].key && plain_basis(giants[0])) {
        Polys z = ring.polys(2, level, false);
        each_limb(ring, 1, z.limbs, [&](int, int i) {
            for (std::size_t at = 0; at < ring.n; at += BLOCK)
                products(ring, giants[0], false, level, i, at, z.limb(0, i) + at, z.limb(1, i) + at);
        });
        return z;
    }
    Polys total;
    for (std::size_t start = 0; start < giants.size(); start += HELD) {
        const std::size_t count = std::min(HELD, giants.size() - start);
        std::vector<Polys> sums = sum_products(ring, &giants[start], count, level);
        for (std::size_t g = 0; g < count; ++g) {
            Polys u = std::move(sums[g]);
            if (giants[start + g].key) u = rotate_sum(ring, u, giants[start + g]);
            total = total.polys ? add(ring, total, u) : std::move(u);
        }
    }
    return divide_special(ring, total, 0, nullptr, false, nullptr);
}

}  // namespace pi
