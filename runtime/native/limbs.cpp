#include "limbs.h"

#include <utility>

namespace pi {

namespace {
constexpr std::size_t PARTS = 8;     // of a limb, that threads share
constexpr std::size_t BLOCK = 1024;  // values of all limbs of a source that stay in cache

// One block of a source to all its targets.
void convert_block(const Ring& ring, const Source& s, int source, const std::vector<Target>& targets, std::size_t at) {
    const Conversion& c = *s.conversion;
    std::vector<const u64*> rows, factors;
    std::vector<u64*> z;
    std::vector<u64> minus_d;
    std::vector<const Modulus*> moduli;
    for (const u64* row : s.rows) rows.push_back(row + at);
    for (const Target& t : targets) {
        if (t.source != source) continue;
        z.push_back(t.to + at);
        factors.push_back(c.factors[t.prime].data());
        minus_d.push_back(c.minus_d[t.prime]);
        moduli.push_back(&ring.tables[t.prime].m);
    }
    if (ring.k->convert_many) {
        ring.k->convert_many(z.data(), z.size(), rows.data(), factors.data(), rows.size(), s.quotient + at,
                             minus_d.data(), BLOCK, moduli.data());
        return;
    }
    for (std::size_t t = 0; t < z.size(); ++t)
        ring.k->convert(z[t], rows.data(), factors[t], rows.size(), s.quotient + at, minus_d[t], BLOCK, *moduli[t]);
}

}  // namespace

Source::Source(const Ring& ring, const Conversion& c, std::vector<const u64*> limbs_)
    : conversion(&c), limbs(std::move(limbs_)), memory(ring.take((limbs.size() + 1) * ring.n)) {
    for (std::size_t j = 0; j < limbs.size(); ++j) rows.push_back(memory.data() + j * ring.n);
    quotient = memory.data() + limbs.size() * ring.n;
}

void lift(const Ring& ring, std::vector<Source>& sources) {
    const std::size_t n = ring.n;
    std::vector<std::pair<Source*, std::size_t>> limbs;
    for (Source& s : sources)
        for (std::size_t j = 0; j < s.limbs.size(); ++j) limbs.emplace_back(&s, j);
    ring.threads.loop(limbs.size(), [&](std::size_t task) {
        const auto& [s, j] = limbs[task];
        u64* row = s->memory.data() + j * n;
        copy(row, s->limbs[j], n);
        ring.k->intt(row, n, ring.tables[s->conversion->from[j]], s->conversion->scale[j]);
    });
    ring.threads.loop(sources.size() * PARTS, [&](std::size_t task) {
        const Source& s = sources[task / PARTS];
        const std::size_t at = task % PARTS * (n / PARTS);
        std::vector<const u64*> rows;
        for (const u64* row : s.rows) rows.push_back(row + at);
        ring.k->quotients(s.quotient + at, rows.data(), s.conversion->inverse.data(), rows.size(), n / PARTS);
    });
}

void convert(const Ring& ring, const std::vector<Source>& sources, const std::vector<Target>& targets) {
    const std::size_t blocks = ring.n / BLOCK;
    ring.threads.loop(sources.size() * blocks, [&](std::size_t task) {
        const std::size_t source = task / blocks;
        convert_block(ring, sources[source], static_cast<int>(source), targets, task % blocks * BLOCK);
    });
}

void lower(const Ring& ring, const Source& s, int prime, u64* z) {
    const Conversion& c = *s.conversion;
    ring.k->convert(z, s.rows.data(), c.factors[prime].data(), c.from.size(), s.quotient, c.minus_d[prime], ring.n,
                    ring.tables[prime].m);
    ring.k->ntt(z, ring.n, ring.tables[prime]);
}

}  // namespace pi
