#include "limbs.h"

#include <utility>

namespace pi {

namespace {
constexpr std::size_t PARTS = 8;  // of a limb, that threads share
}

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

void lower(const Ring& ring, const Source& s, int prime, u64* z) {
    const Conversion& c = *s.conversion;
    ring.k->convert(z, s.rows.data(), c.factors[prime].data(), c.from.size(), s.quotient, c.minus_d[prime], ring.n,
                    ring.tables[prime].m);
    ring.k->ntt(z, ring.n, ring.tables[prime]);
}

}  // namespace pi
