// The inner loops for any 64-bit processor with a 64 x 64 -> 128 bit product.
#include <cmath>

#include "fft.h"
#include "kernels.h"
#include "scalar_ntt.h"

namespace pi {
namespace {

constexpr int S = 64;
// Products of values below 2^60 that a 128-bit sum holds.
constexpr std::size_t CHUNK = 128;

u64 reduce(u128 x, const Modulus& m) {
    u64 low = static_cast<u64>(x);
    u64 a = mul_lazy<S>(static_cast<u64>(x >> 64), m.word, m.q);
    u64 b = mul_lazy<S>(low, Factor{1, m.one}, m.q);
    return reduce_once(reduce_once(a + b, 2 * m.q), m.q);
}

void add(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = add_mod(x[i], y[i], m.q);
}

void sub(u64* z, const u64* x, const u64* y, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = sub_mod(x[i], y[i], m.q);
}

void add_repeated(u64* z, const u64* x, const u64* y, int r, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = add_mod(x[i], y[i >> r], m.q);
}

void neg(u64* z, const u64* x, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = where(x[i] != 0, m.q - x[i]);
}

void sub_transformed(u64* z, const u64* x, u64* y, const u64* a, Factor f, const u32* from, std::size_t n,
                     const Table& t) {
    scalar_ntt<S>(y, n, t);
    const Modulus& m = t.m;
    for (std::size_t i = 0; i < n; ++i) {
        const std::size_t at = from ? from[i] : i;
        u64 v = reduce_once(mul_lazy<S>(x[at] + m.q - y[at], f, m.q), m.q);
        z[i] = a ? add_mod(v, a[at], m.q) : v;
    }
}

void add_scaled(u64* z, const u64* x, Factor f, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = add_mod(z[i], reduce_once(mul_lazy<S>(x[i], f, m.q), m.q), m.q);
}

void mul_add(u64* z, const u64* x, const u64* y, const u64* a, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = reduce(static_cast<u128>(x[i]) * y[i] + a[i], m);
}

void tensor(u64* z0, u64* z1, u64* z2, const u64* x0, const u64* x1, const u64* y0, const u64* y1, std::size_t n,
            const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) {
        u128 a = static_cast<u128>(x0[i]) * y0[i], c = static_cast<u128>(x1[i]) * y1[i];
        u128 b = static_cast<u128>(x0[i]) * y1[i] + static_cast<u128>(x1[i]) * y0[i];
        z0[i] = reduce(a, m);
        z1[i] = reduce(b, m);
        z2[i] = reduce(c, m);
    }
}

void dot(u64* z0, u64* z1, const u64* const* f, const int* r, const u64* const* x0, const u64* const* x1,
         std::size_t terms, std::size_t n, const Modulus& m, bool into) {
    for (std::size_t i = 0; i < n; ++i) {
        u128 a = into ? z0[i] : 0, b = into ? z1[i] : 0;
        for (std::size_t start = 0; start < terms; start += CHUNK) {
            std::size_t end = start + CHUNK < terms ? start + CHUNK : terms;
            for (std::size_t k = start; k < end; ++k) {
                u64 factor = f[k][i >> r[k]];
                a += static_cast<u128>(factor) * x0[k][i];
                b += static_cast<u128>(factor) * x1[k][i];
            }
            a = reduce(a, m);
            b = reduce(b, m);
        }
        z0[i] = static_cast<u64>(a);
        z1[i] = static_cast<u64>(b);
    }
}

void combine(u64* const* z, std::size_t outputs, const u64* const* x, std::size_t inputs, const u64* w, std::size_t n,
             const Modulus& m, bool into) {
    for (std::size_t j = 0; j < outputs; ++j, w += inputs) {
        for (std::size_t i = 0; i < n; ++i) {
            u128 a = into ? z[j][i] : 0;
            for (std::size_t start = 0; start < inputs; start += CHUNK) {
                const std::size_t end = start + CHUNK < inputs ? start + CHUNK : inputs;
                for (std::size_t k = start; k < end; ++k) a += static_cast<u128>(w[k]) * x[k][i];
                a = reduce(a, m);
            }
            z[j][i] = static_cast<u64>(a);
        }
    }
}

void convert(u64* z, const u64* const* y, const u64* c, std::size_t terms, const u64* v, u64 minus_d, std::size_t n,
             const Modulus& m) {
    if (terms == 1 && c[0] == 1) {
        // One source prime, as in rescaling: v is 0 or 1.
        for (std::size_t i = 0; i < n; ++i) {
            u64 x = reduce_once(mul_lazy<S>(y[0][i], Factor{1, m.one}, m.q), m.q);
            z[i] = add_mod(x, where(v[i] != 0, minus_d), m.q);
        }
        return;
    }
    for (std::size_t i = 0; i < n; ++i) {
        u128 a = static_cast<u128>(v[i]) * minus_d;
        for (std::size_t k = 0; k < terms; ++k) a += static_cast<u128>(y[k][i]) * c[k];
        z[i] = reduce(a, m);
    }
}

void quotients(u64* v, const u64* const* y, const double* inverse, std::size_t terms, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        double sum = 0.5;
        for (std::size_t k = 0; k < terms; ++k) sum += static_cast<double>(static_cast<i64>(y[k][i])) * inverse[k];
        v[i] = static_cast<u64>(static_cast<i64>(sum));
    }
}

void lift(u64* z, const double* x, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) {
        i64 s = static_cast<i64>(x[i]);
        u64 r = reduce_once(mul_lazy<S>(static_cast<u64>(s < 0 ? -s : s), Factor{1, m.one}, m.q), m.q);
        z[i] = s < 0 && r ? m.q - r : r;
    }
}

void permute(u64* z, const u64* x, const u32* from, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) z[i] = x[from[i]];
}

void add_permuted(u64* z, const u64* x, const u32* from, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) z[i] = add_mod(z[i], x[from[i]], m.q);
}

void fft(double* re, double* im, std::size_t n, const double* cosine, const double* sine, double sign) {
    fft_stages(re, im, n, cosine, sine, sign);
}

void fft_part(double* re, double* im, std::size_t half, std::size_t from, std::size_t to, const double* cosine,
              const double* sine, double sign) {
    fft_butterflies(re, im, half, from, to, cosine, sine, sign);
}

bool reduced(const u64* x, std::size_t n, const Modulus& m) {
    bool all = true;
    for (std::size_t i = 0; i < n; ++i) all &= x[i] < m.q;
    return all;
}

const Kernels PORTABLE = {
    "portable", S,      60,     scalar_ntt<S>, scalar_intt<S>, add,  sub,     add_repeated, neg,
    sub_transformed, add_scaled, mul_add, tensor, dot, combine, convert,       quotients,      lift, permute, add_permuted, fft, fft_part, reduced,
};

}  // namespace

const Kernels* portable_kernels() { return &PORTABLE; }

}  // namespace pi
