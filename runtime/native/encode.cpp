#include "encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace pi {

namespace {
constexpr double PI = 3.14159265358979323846264338327950288;
// Below this magnitude the vectorized conversion to residues is exact.
constexpr double SMALL = 2251799813685248.0;  // 2^51
// Complex values that stay in a first-level cache.
constexpr std::size_t PART = 2048;
}  // namespace

Encoder::Encoder(const Ring& ring) : ring_(ring) {
    const std::size_t half = ring.n / 2;
    cosine_.resize(half);
    sine_.resize(half);
    for (std::size_t size = 1; size < half; size *= 2) {
        for (std::size_t j = 0; j < size; ++j) {
            cosine_[size + j] = std::cos(PI * static_cast<double>(j) / static_cast<double>(size));
            sine_[size + j] = std::sin(PI * static_cast<double>(j) / static_cast<double>(size));
        }
    }
    twist_re_.resize(half);
    twist_im_.resize(half);
    for (std::size_t k = 0; k < half; ++k) {
        twist_re_[k] = std::cos(PI * static_cast<double>(k) / static_cast<double>(ring.n));
        twist_im_[k] = std::sin(PI * static_cast<double>(k) / static_cast<double>(ring.n));
    }
    for (int log_p = 0; log_p < ring.log_n; ++log_p) {
        const u64 order = u64{4} << log_p;
        std::vector<u32> slots(std::size_t{1} << log_p);
        u64 power = 1;
        for (u32 j = 0; j < slots.size(); ++j) {
            const u64 root = power % 4 == 1 ? power : order - power;
            slots[reverse_bits(static_cast<unsigned>((root - 1) / 4), log_p)] = j;
            power = 3 * power % order;
        }
        slot_.push_back(std::move(slots));
    }
}

void Encoder::transform(double* re, double* im, std::size_t n, double sign) const {
    const std::size_t part = n < PART ? n : PART, parts = n / part;
    ring_.threads.loop(parts, [&](std::size_t p) {
        ring_.k->fft(re + p * part, im + p * part, part, cosine_.data(), sine_.data(), sign);
    });
    for (std::size_t half = part; half < n; half *= 2)
        ring_.threads.loop(parts / 2, [&](std::size_t p) {
            const std::size_t at = p * part / half * 2 * half, from = p * part % half;
            ring_.k->fft_part(re + at, im + at, half, from, from + part, cosine_.data(), sine_.data(), sign);
        });
}

double Encoder::coefficients(const double* values, std::size_t period, double scale, double* x) const {
    if (period == 1) {
        x[0] = std::rint(values[0] * scale);
        return std::fabs(x[0]);
    }
    double *re = x + 2 * period, *im = re + period;
    const std::vector<u32>& slot = slot_[__builtin_ctzll(period)];
    const std::size_t part = period < PART ? period : PART, parts = period / part, stride = ring_.n / 2 / period;
    ring_.threads.loop(parts, [&](std::size_t p) {
        for (std::size_t k = p * part; k < (p + 1) * part; ++k) re[k] = values[slot[k]];
        std::memset(im + p * part, 0, part * sizeof(double));
    });
    transform(re, im, period, -1.0);
    const double factor = scale / static_cast<double>(period);
    std::vector<double> largest(parts);
    ring_.threads.loop(parts, [&](std::size_t p) {
        double most = 0;
        bool numbers = true;  // a maximum passes over NaN
        for (std::size_t k = p * part; k < (p + 1) * part; ++k) {
            const double c = twist_re_[k * stride] * factor, s = twist_im_[k * stride] * factor;
            x[k] = std::rint(re[k] * c + im[k] * s);
            x[k + period] = std::rint(im[k] * c - re[k] * s);
            const double larger = std::max(std::fabs(x[k]), std::fabs(x[k + period]));
            most = std::max(most, larger);
            numbers &= x[k] == x[k] && x[k + period] == x[k + period];
        }
        largest[p] = numbers ? most : HUGE_VAL;
    });
    return *std::max_element(largest.begin(), largest.end());
}

Plain Encoder::encode(const double* values, std::size_t period, double scale, int level, bool extended, bool late,
                      bool secret) const {
    const std::size_t size = period == 1 ? 1 : 2 * period;
    Memory memory = ring_.take(4 * period);
    memory.secret = secret;
    double* x = reinterpret_cast<double*>(memory.data());
    const double largest = coefficients(values, period, scale, x);
    double room = 0;
    for (int i = 0; i <= level; ++i) room += std::log2(static_cast<double>(ring_.primes[i]));
    const bool fit = largest < std::exp2(std::fmin(room, 1000) - 1);  // false for NaN too
    if (!fit) throw std::out_of_range("coefficients outgrow the modulus");

    Plain plain;
    plain.level = level;
    plain.extended = extended;
    plain.limbs = level + 1 + (extended ? ring_.specials : 0);
    plain.log_repeat = ring_.log_n - __builtin_ctzll(size);
    plain.n = size;
    plain.late = late && size > 1 && largest < SMALL;
    if (plain.late) {
        plain.memory = ring_.take(size);
        plain.memory.secret = secret;
        std::memcpy(plain.memory.data(), x, size * sizeof(double));
        return plain;
    }
    plain.memory = ring_.take(plain.limbs * size);
    plain.memory.secret = secret;
    ring_.threads.loop(size < 1024 ? 1 : plain.limbs, [&](std::size_t task) {
        const int first = static_cast<int>(task), end = size < 1024 ? plain.limbs : first + 1;
        for (int i = first; i < end; ++i) {
            const int prime = ring_.prime(level, i);
            residues(plain.limb(i), x, size, largest, prime);
            ring_.k->ntt(plain.limb(i), size, ring_.tables[prime]);
        }
    });
    return plain;
}

void Encoder::residues(u64* z, const double* x, std::size_t count, double largest, int prime) const {
    const Modulus& m = ring_.tables[prime].m;
    if (largest < SMALL) return ring_.k->lift(z, x, count, m);
    std::vector<u64> power(1100, 1 % m.q);
    for (std::size_t e = 1; e < power.size(); ++e) power[e] = add_mod(power[e - 1], power[e - 1], m.q);
    for (std::size_t i = 0; i < count; ++i) {
        int e;
        const double mantissa = std::frexp(std::fabs(x[i]), &e);
        u64 r;
        if (e <= 62)
            r = static_cast<u64>(std::fabs(x[i])) % m.q;
        else
            r = mul_mod(static_cast<u64>(std::ldexp(mantissa, 53)) % m.q, power[e - 53], m.q);
        z[i] = x[i] < 0 && r ? m.q - r : r;
    }
}

void Encoder::decode(const Polys& a, double* slots) const {
    const std::size_t n = ring_.n, half = n / 2;
    const int limbs = a.level + 1;
    Memory memory = ring_.take(static_cast<std::size_t>(limbs) * n), work = ring_.take(2 * n);
    memory.secret = work.secret = true;
    double *values = reinterpret_cast<double*>(work.data()), *re = values + n, *im = re + half;
    const auto row = [&](int i) { return memory.data() + static_cast<std::size_t>(i) * n; };
    ring_.threads.loop(limbs, [&](std::size_t task) {
        const int i = static_cast<int>(task);
        ring_.k->intt(row(i), a.limb(0, i), n, ring_.tables[i], ring_.n_inverse(i));
    });
    // Mixed radix (Garner): x = d_0 + q_0 (d_1 + q_1 (d_2 + ...)), exact however large the modulus.
    std::vector<std::vector<Factor>> inverse(limbs);
    for (int i = 0; i < limbs; ++i)
        for (int j = 0; j < i; ++j)
            inverse[i].push_back(ring_.factor(inverse_mod(ring_.primes[j] % ring_.primes[i], ring_.primes[i]), i));
    constexpr std::size_t BLOCK = 256;
    ring_.threads.loop(n / BLOCK, [&](std::size_t block) {
        std::vector<u64> digit(limbs);
        for (std::size_t k = block * BLOCK; k < (block + 1) * BLOCK; ++k) {
            for (int i = 0; i < limbs; ++i) {
                const u64 q = ring_.primes[i];
                u64 d = row(i)[k];
                for (int j = 0; j < i; ++j) d = mul_mod(sub_mod(d, digit[j] % q, q), inverse[i][j].w, q);
                digit[i] = d;
            }
            const bool negative = digit[limbs - 1] > ring_.primes[limbs - 1] / 2;
            double x = 0;
            for (int i = limbs - 1; i >= 0; --i) {
                const u64 d = negative ? ring_.primes[i] - 1 - digit[i] : digit[i];
                x = x * static_cast<double>(ring_.primes[i]) + static_cast<double>(d);
            }
            values[k] = negative ? -x - 1 : x;
        }
    });
    for (std::size_t k = 0; k < half; ++k) {
        const std::size_t to = reverse_bits(static_cast<unsigned>(k), ring_.log_n - 1);
        const double c = twist_re_[k], s = twist_im_[k];
        re[to] = values[k] * c - values[k + half] * s;
        im[to] = values[k] * s + values[k + half] * c;
    }
    transform(re, im, half, 1.0);
    const std::vector<u32>& slot = slot_[ring_.log_n - 1];
    for (std::size_t k = 0; k < half; ++k) slots[slot[k]] = re[reverse_bits(static_cast<unsigned>(k), ring_.log_n - 1)];
}

}  // namespace pi
