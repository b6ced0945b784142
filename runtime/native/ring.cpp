#include "ring.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pi {

namespace {

// The smallest primitive 2N-th root of unity, so that transformed values are those of SEAL.
u64 smallest_root(u64 q, std::size_t n) {
    const u64 order = 2 * n;
    for (u64 g = 2; g < 1000; ++g) {
        u64 root = pow_mod(g, (q - 1) / order, q);
        if (pow_mod(root, n, q) != q - 1) continue;
        const u64 square = mul_mod(root, root, q);
        u64 best = root;
        for (std::size_t i = 1; i < n; ++i) {
            root = mul_mod(root, square, q);
            if (root < best) best = root;
        }
        return best;
    }
    throw std::invalid_argument(std::to_string(q) + " is not a prime that supports this ring degree");
}

}  // namespace

Ring::Ring(int log_n_, std::vector<u64> primes_, int specials_, int digit, int threads_, const Kernels* kernels)
    : log_n(log_n_),
      n(std::size_t{1} << log_n_),
      primes(std::move(primes_)),
      specials(specials_),
      width(digit),
      chain(static_cast<int>(primes.size()) - specials_),
      k(kernels),
      threads(threads_),
      pool(std::make_shared<Pool>()) {
    tables.resize(primes.size());
    n_inverse_.resize(primes.size());
    held_.resize(primes.size());
    threads.loop(primes.size(), [this](std::size_t i) { make_table(static_cast<int>(i)); });
    for (int j = 0; j < digits(chain - 1); ++j) {
        for (int count = 1; count <= width; ++count) {
            std::vector<int> from;
            for (int i = digit_start(j); i < digit_start(j) + count && i < chain; ++i) from.push_back(i);
            digits_.push_back(conversion(from));
        }
    }
    std::vector<int> from;
    for (int i = chain; i < chain + specials; ++i) from.push_back(i);
    special_ = conversion(from);
    for (int level = 0; level < chain; ++level) last_.push_back(conversion({level}));
    for (int level = 1; level < chain; ++level) {
        from.push_back(level);
        special_and_last_.push_back(conversion(from));
        from.pop_back();
    }
}

Factor Ring::factor(u64 w, int prime) const {
    return {w, static_cast<u64>((static_cast<u128>(w) << k->word) / primes[prime])};
}

int Ring::digit_width(int digit, int level) const {
    const int left = level + 1 - digit_start(digit);
    return left < width ? left : width;
}

void Ring::make_table(int prime) {
    const u64 q = primes[prime];
    Table& t = tables[prime];
    const u128 word = static_cast<u128>(1) << k->word;
    const int bits = 64 - __builtin_clzll(q);
    t.m = {q,
           static_cast<u64>(word / q),
           factor(static_cast<u64>(word % q), prime),
           1.0 / static_cast<double>(q),
           static_cast<u64>((word << bits) / q - word)};
    n_inverse_[prime] = factor(inverse_mod(n % q, q), prime);
    const u64 root = smallest_root(q, n);
    std::vector<Factor> forward(n), inverse(n);
    for (auto* nodes : {&forward, &inverse}) {
        const u64 base = nodes == &inverse ? inverse_mod(root, q) : root;
        u64 power = 1;
        for (std::size_t i = 0; i < n; ++i, power = mul_mod(power, base, q))
            (*nodes)[reverse_bits(static_cast<unsigned>(i), log_n)] =
                k->twiddle ? k->twiddle(power, t.m) : factor(power, prime);
    }
    if (k->make_tail) {
        const std::size_t kept = n / 8, few = 64;
        held_[prime] = take(2 * kept + 2 * few + 7 * n / 4);
        u64* at = held_[prime].data();
        t.forward.tail = at;
        k->make_tail(at, forward.data(), n, t.m);
        t.forward.node = reinterpret_cast<Factor*>(at + 7 * n / 4);
        t.inverse.node = t.forward.node + kept;
        std::copy_n(forward.begin(), kept, t.forward.node);
        std::copy_n(inverse.begin(), few, t.inverse.node);
        return;
    }
    const std::size_t words = 2 * n + n + 2 * n;  // nodes, pairs, quads
    held_[prime] = take(2 * words);
    u64* at = held_[prime].data();
    for (int direction = 0; direction < 2; ++direction, at += words) {
        Twiddles& w = direction ? t.inverse : t.forward;
        w.node = reinterpret_cast<Factor*>(at);
        w.pairs = at + 2 * n;
        w.quads = w.pairs + n;
        std::copy_n((direction ? inverse : forward).begin(), n, w.node);
        for (std::size_t g = 0; g < n / 4; ++g) {
            const std::size_t block = g / 8 * 8, lane = g % 8;
            for (std::size_t j = 0; j < 4; ++j) {
                const Factor f = w.node[4 * g + j];
                u64* quad = w.quads + 8 * block + 16 * j + lane;
                quad[0] = f.w, quad[8] = f.shoup;
                if (j >= 2) continue;
                const Factor h = w.node[2 * g + j];
                u64* pair = w.pairs + 4 * block + 16 * j + lane;
                pair[0] = h.w, pair[8] = h.shoup;
            }
        }
    }
}

Conversion Ring::conversion(std::vector<int> from) const {
    Conversion c;
    const auto product = [&](int modulus, int without) {
        u64 p = 1;
        for (int i : from)
            if (i != without) p = mul_mod(p, primes[i] % primes[modulus], primes[modulus]);
        return p;
    };
    for (int i : from) {
        const u64 q = primes[i];
        c.scale.push_back(factor(mul_mod(inverse_mod(product(i, i), q), n_inverse_[i].w, q), i));
        c.inverse.push_back(1.0 / static_cast<double>(q));
    }
    for (int t = 0; t < static_cast<int>(primes.size()); ++t) {
        std::vector<u64> factors;
        for (int i : from) factors.push_back(product(t, i));
        c.factors.push_back(std::move(factors));
        const u64 d = product(t, -1);
        c.minus_d.push_back(d ? primes[t] - d : 0);
        c.divide.push_back(factor(d ? inverse_mod(d, primes[t]) : 0, t));
    }
    c.from = std::move(from);
    return c;
}

Polys Ring::polys(int count, int level, bool extended) const {
    Polys p;
    p.polys = count;
    p.level = level;
    p.extended = extended;
    p.limbs = level + 1 + (extended ? specials : 0);
    p.n = n;
    p.memory = take(static_cast<std::size_t>(count) * p.limbs * n);
    return p;
}

std::vector<u32> Ring::automorphism(u64 galois) const {
    std::vector<u32> from(n + n / 8);
    const u64 mask = 2 * n - 1;
    for (std::size_t i = 0; i < n; ++i) {
        const u64 power = 2 * reverse_bits(static_cast<unsigned>(i), log_n) + 1;
        from[i] = reverse_bits(static_cast<unsigned>(((power * galois) & mask) >> 1), log_n);
    }
    for (std::size_t i = 0; i < n; i += 8) from[n + from[i] / 8] = static_cast<u32>(i);
    return from;
}

}  // namespace pi
