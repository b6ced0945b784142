#include "limbs.h"

namespace pi {

namespace {
constexpr std::size_t PARTS = 8;     // of a limb, that threads share
constexpr std::size_t BLOCK = 1024;  // values of all limbs of a source that stay in cache
// Words of sources that stay in a core's second-level cache beside the limbs that are made of them.
constexpr std::size_t CACHED = std::size_t{1} << 16;

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

void Products::add(const u64* factor, int log_repeat, const u64* x0, const u64* x1) {
    f_.push_back(factor), x_.push_back(x0), y_.push_back(x1);
    repeat_.push_back(log_repeat);
}

void Products::add(const Plain& plain, const u64* row, std::size_t at, const u64* x0, const u64* x1) {
    if (plain.n > 1) return add(row + (at >> plain.log_repeat), plain.log_repeat, x0, x1);
    w_.push_back(*row);
    of_x_.push_back(x0), of_y_.push_back(x1);
}

void Products::sum(const Ring& ring, u64* z0, u64* z1, std::size_t n, const Modulus& m, bool into) const {
    if (!w_.empty()) {
        ring.k->combine(&z0, 1, of_x_.data(), w_.size(), w_.data(), n, m, into);
        ring.k->combine(&z1, 1, of_y_.data(), w_.size(), w_.data(), n, m, into);
        into = true;
    }
    if (!f_.empty()) ring.k->dot(z0, z1, f_.data(), repeat_.data(), x_.data(), y_.data(), f_.size(), n, m, into);
}

Source::Source(const Ring& ring, const Conversion& c)
    : conversion(&c), memory(ring.take((c.from.size() + 1) * ring.n)) {
    for (std::size_t j = 0; j < c.from.size(); ++j) rows.push_back(memory.data() + j * ring.n);
    quotient = memory.data() + c.from.size() * ring.n;
}

void Source::fill(const Ring& ring, std::size_t j, const u64* values) {
    ring.k->intt(memory.data() + j * ring.n, values, ring.n, ring.tables[conversion->from[j]], conversion->scale[j]);
}

void find_quotients(const Ring& ring, const std::vector<Source>& sources) {
    const std::size_t n = ring.n;
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

void convert(const Ring& ring, const Source& s, int prime, u64* z) {
    const Conversion& c = *s.conversion;
    ring.k->convert(z, s.rows.data(), c.factors[prime].data(), c.from.size(), s.quotient, c.minus_d[prime], ring.n,
                    ring.tables[prime].m);
}

bool outgrow_cache(const Ring& ring, const std::vector<Source>& sources) {
    std::size_t words = 0;
    for (const Source& s : sources) words += s.rows.size() * ring.n;
    return words > CACHED;
}

}  // namespace pi
