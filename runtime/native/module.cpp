// The Python module: every size, level and index is checked here before any arithmetic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unordered_map>

#include "encode.h"
#include "evaluate.h"

namespace py = pybind11;

namespace pi {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

// What this processor can run, fastest first.
std::vector<const Kernels*> instruction_sets() {
    std::vector<const Kernels*> found{ifma_kernels(), avx2_kernels(), portable_kernels()};
    found.erase(std::remove(found.begin(), found.end(), nullptr), found.end());
    return found;
}

const Kernels* choose(const std::string& name, const std::vector<u64>& primes) {
    const u64 largest = *std::max_element(primes.begin(), primes.end());
    bool known = name.empty();
    for (const Kernels* k : instruction_sets()) {
        if (!name.empty() && name != k->name) continue;
        known = true;
        if (!(largest >> k->max_prime_bits)) return k;
    }
    refuse(known ? "a prime is too large for " + name : "no such instruction set: " + name);
}

bool is_prime(u64 n) {
    u64 odd = n - 1;
    int twos = 0;
    for (; odd % 2 == 0; odd /= 2) ++twos;
    for (u64 a : {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37}) {
        if (n % a == 0) return n == a;
        u64 x = pow_mod(a, odd, n);
        bool witness = x != 1 && x != n - 1;
        for (int r = 1; r < twos && witness; ++r) {
            x = mul_mod(x, x, n);
            witness = x != n - 1;
        }
        if (witness) return false;
    }
    return true;
}

void check_ring(int log_n, const std::vector<u64>& primes, int specials, int digit, int threads) {
    if (log_n < 10 || log_n > 17) refuse("log_n must be in 10 .. 17");
    if (specials < 1 || specials > 64) refuse("the number of special primes must be in 1 .. 64");
    if (digit < 1 || digit > 64) refuse("the number of primes in a digit must be in 1 .. 64");
    if (primes.size() > 256 || primes.size() <= static_cast<std::size_t>(specials)) refuse("a chain of 1 .. 255 primes");
    if (threads < 1 || threads > 256) refuse("the number of threads must be in 1 .. 256");
    for (u64 q : primes) {
        if (q >> 60 || q >> (log_n + 1) == 0 || (q - 1) % (u64{2} << log_n) || !is_prime(q))
            refuse(std::to_string(q) + " is not a prime below 2^60 that is 1 modulo 2N");
    }
    if (std::set<u64>(primes.begin(), primes.end()).size() != primes.size()) refuse("the primes are not distinct");
}

// A ring as Python sees it.
class Context {
  public:
    Context(int log_n, const std::vector<u64>& primes, int specials, int threads, const std::string& kernels,
            int digit) {
        if (digit == 0) digit = specials;
        check_ring(log_n, primes, specials, digit, threads);
        const Kernels* k = choose(kernels, primes);
        py::gil_scoped_release release;
        ring_ = std::make_unique<Ring>(log_n, primes, specials, digit, threads, k);
        encoder_ = std::make_unique<Encoder>(*ring_);
    }

    const Ring& ring() const { return *ring_; }
    const Encoder& encoder() const { return *encoder_; }

    void level(int level) const {
        if (level < 0 || level >= ring_->chain) refuse("there is no level " + std::to_string(level));
    }
    void count(int polys) const {
        if (polys < 1 || polys > 1024) refuse("the number of polynomials must be in 1 .. 1024");
    }
    void own(const Polys& p) const {
        level(p.level);
        const int limbs = p.level + 1 + (p.extended ? ring_->specials : 0);
        if (p.n != ring_->n || p.limbs != limbs) refuse("polynomials of another ring");
    }
    void own(const Plain& p) const {
        level(p.level);
        const int limbs = p.level + 1 + (p.extended ? ring_->specials : 0);
        if (p.n << p.log_repeat != ring_->n || p.limbs != limbs) refuse("a constant of another ring");
    }
    void own(const Digits& d) const {
        level(d.level);
        const std::size_t limbs = static_cast<std::size_t>(ring_->digits(d.level)) * d.limbs;
        const std::size_t words = (limbs - d.level - 1) * ring_->n;
        if (d.limbs != d.level + 1 + ring_->specials || d.memory.words() != words) refuse("digits of another ring");
    }
    void writable(const Polys& p) const {
        if (p.memory.lent()) refuse("mapped polynomials are read only");
    }
    void cipher(const Polys& p) const {
        own(p);
        if (p.extended || p.polys < 2 || p.polys > 3) refuse("not a ciphertext");
    }
    void key(const Polys& p, int level) const {
        own(p);
        if (!p.extended || p.level < level || p.polys != 2 * ring_->digits(p.level)) refuse("not a key for this level");
    }
    void poly(const Polys& p, int i) const {
        own(p);
        if (i < 0 || i >= p.polys) refuse("there is no polynomial " + std::to_string(i));
    }
    // Whether `p` has all limbs that something at this level and basis has.
    void covers(const Polys& p, const Polys& z) const {
        if (p.level < z.level || (z.extended && !p.extended)) refuse("a factor has too few limbs");
    }

    const std::vector<u32>& automorphism(u64 galois) {
        if (galois % 2 == 0 || galois >= 2 * ring_->n) refuse("not a Galois element");
        std::lock_guard<std::mutex> lock(mutex_);
        auto found = automorphisms_.find(galois);
        if (found == automorphisms_.end())
            found = automorphisms_.emplace(galois, ring_->automorphism(galois)).first;
        return found->second;
    }

  private:
    std::unique_ptr<Ring> ring_;
    std::unique_ptr<Encoder> encoder_;
    std::mutex mutex_;
    std::unordered_map<u64, std::vector<u32>> automorphisms_;
};

int row(const Polys& p, int level, int i) { return i <= level ? i : i - level + p.level; }

void same(const Context& c, const Polys& a, const Polys& b) {
    c.own(a);
    c.own(b);
    if (a.level != b.level || a.extended != b.extended) refuse("operands at different levels");
}

void same(const Context& c, const Polys& a, const Plain& b) {
    c.own(a);
    c.own(b);
    if (a.level != b.level || (a.extended && !b.extended)) refuse("operands at different levels");
    if (b.late) refuse("a late constant outside a sum of products");
}

// Polynomials of which the first `given` are the content; the rest is zero.
Polys load(const Context& c, int polys, int given, int level, bool extended, const py::buffer& content) {
    c.level(level);
    c.count(polys);
    if (given < 0 || given > polys) refuse("more content than polynomials");
    const py::buffer_info info = content.request();
    Polys p = c.ring().polys(polys, level, extended);
    const std::size_t bytes = static_cast<std::size_t>(given) * p.limbs * p.n * sizeof(u64);
    if (!PyBuffer_IsContiguous(info.view(), 'C') || static_cast<std::size_t>(info.size * info.itemsize) != bytes)
        refuse("the content has the wrong size");
    const void* from = info.ptr;
    bool valid = true;
    {
        py::gil_scoped_release release;
        std::memcpy(p.memory.data(), from, bytes);
        std::memset(reinterpret_cast<char*>(p.memory.data()) + bytes, 0, p.memory.words() * sizeof(u64) - bytes);
        for (int j = 0; j < given; ++j)
            for (int i = 0; i < p.limbs; ++i)
                valid &= c.ring().k->reduced(p.limb(j, i), p.n, c.ring().tables[c.ring().prime(level, i)].m);
    }
    if (!valid) refuse("a value is not below its modulus");
    return p;
}

// Polynomials that stay where they are: in a mapped file. Whether values are below their moduli is `valid`'s to say.
py::object map(const Context& c, int polys, int level, bool extended, const py::buffer& content) {
    c.level(level);
    c.count(polys);
    const py::buffer_info info = content.request();
    Polys p;
    p.polys = polys, p.level = level, p.extended = extended, p.n = c.ring().n;
    p.limbs = level + 1 + (extended ? c.ring().specials : 0);
    const std::size_t words = static_cast<std::size_t>(polys) * p.limbs * p.n;
    if (!PyBuffer_IsContiguous(info.view(), 'C') || static_cast<std::size_t>(info.size * info.itemsize) != words * sizeof(u64))
        refuse("the content has the wrong size");
    if (reinterpret_cast<std::uintptr_t>(info.ptr) % 64) refuse("the content is not aligned");
    p.memory = Memory(static_cast<const u64*>(info.ptr), words);
    py::object made = py::cast(std::move(p));
    py::detail::keep_alive_impl(made, content);
    return made;
}

bool valid(const Context& c, const Polys& p) {
    c.own(p);
    for (int j = 0; j < p.polys; ++j)
        for (int i = 0; i < p.limbs; ++i)
            if (!c.ring().k->reduced(p.limb(j, i), p.n, c.ring().tables[c.ring().prime(p.level, i)].m)) return false;
    return true;
}

Plain encode(const Context& c, const py::array_t<double, py::array::c_style | py::array::forcecast>& values,
             double scale, int level, bool extended, bool late, bool secret) {
    c.level(level);
    const std::size_t period = static_cast<std::size_t>(values.size());
    if (values.ndim() != 1 || period == 0 || period > c.ring().n / 2 || (period & (period - 1)))
        refuse("slot values must be one vector whose length is a power of two and at most N/2");
    if (!(scale > 0 && std::isfinite(scale))) refuse("a scale is positive and finite");
    for (std::size_t i = 0; i < period; ++i)
        if (!std::isfinite(values.data()[i])) refuse("slot values are not finite");
    const double* data = values.data();
    py::gil_scoped_release release;
    return c.encoder().encode(data, period, scale, level, extended, late, secret);
}

py::array_t<double> decode(const Context& c, const Polys& a) {
    c.own(a);
    if (a.polys != 1 || a.extended) refuse("only one polynomial over the chain can be decoded");
    py::array_t<double> slots(static_cast<py::ssize_t>(a.n / 2));
    double* to = slots.mutable_data();
    {
        py::gil_scoped_release release;
        c.encoder().decode(a, to);
    }
    return slots;
}

// ---- For the side that holds the secret: arithmetic on named polynomials ----

Polys small(const Context& c, const py::array_t<double, py::array::c_style | py::array::forcecast>& coefficients,
            int level, bool extended) {
    c.level(level);
    const Ring& ring = c.ring();
    if (coefficients.ndim() != 1 || static_cast<std::size_t>(coefficients.size()) != ring.n)
        refuse("N coefficients are needed");
    for (std::size_t i = 0; i < ring.n; ++i)
        if (!(std::fabs(coefficients.data()[i]) < 1024.0)) refuse("a coefficient is not small");
    Polys p = ring.polys(1, level, extended);
    p.memory.secret = true;
    const double* data = coefficients.data();
    py::gil_scoped_release release;
    ring.threads.loop(p.limbs, [&](std::size_t i) {
        const int prime = ring.prime(level, static_cast<int>(i));
        u64* limb = p.limb(0, static_cast<int>(i));
        ring.k->lift(limb, data, ring.n, ring.tables[prime].m);
        ring.k->ntt(limb, ring.n, ring.tables[prime]);
    });
    return p;
}

// Words of a stream to values below q: those not below the largest multiple of q are skipped.
void uniform(const Context& c, Polys& p, int poly, int limb, const py::bytes& stream) {
    c.poly(p, poly), c.writable(p);
    if (limb < 0 || limb >= p.limbs) refuse("there is no such limb");
    char* bytes;
    py::ssize_t length;
    PYBIND11_BYTES_AS_STRING_AND_SIZE(stream.ptr(), &bytes, &length);
    const std::size_t words = static_cast<std::size_t>(length) / sizeof(u64);
    bool enough;
    {
        py::gil_scoped_release release;
        const Modulus& m = c.ring().tables[c.ring().prime(p.level, limb)].m;
        const u64 rest = (~u64{0} % m.q + 1) % m.q;  // 2^64 mod q
        const u64 last = ~u64{0} - rest;
        u64* to = p.limb(poly, limb);
        std::size_t filled = 0;
        for (std::size_t i = 0; i < words && filled < p.n; ++i) {
            u64 word = 0;
            for (int b = 7; b >= 0; --b) word = word << 8 | static_cast<unsigned char>(bytes[8 * i + b]);
            if (word <= last) to[filled++] = word % m.q;
        }
        enough = filled == p.n;
    }
    if (!enough) refuse("the stream is too short");
}

// z = x y + a on the limbs of z; each operand is (polynomials, index).
void mul_add(const Context& c, Polys& z, int zi, const Polys& x, int xi, const Polys& y, int yi, const Polys& a,
             int ai) {
    c.poly(z, zi), c.poly(x, xi), c.poly(y, yi), c.poly(a, ai);
    c.covers(x, z), c.covers(y, z), c.covers(a, z), c.writable(z);
    py::gil_scoped_release release;
    const Ring& ring = c.ring();
    ring.threads.loop(z.limbs, [&](std::size_t task) {
        const int i = static_cast<int>(task);
        ring.k->mul_add(z.limb(zi, i), x.limb(xi, row(x, z.level, i)), y.limb(yi, row(y, z.level, i)),
                        a.limb(ai, row(a, z.level, i)), ring.n, ring.tables[ring.prime(z.level, i)].m);
    });
}

// z += P x on the limbs of one digit.
void add_gadget(const Context& c, Polys& z, int zi, const Polys& x, int xi, int digit) {
    c.poly(z, zi), c.poly(x, xi);
    c.covers(x, z), c.writable(z);
    const Ring& ring = c.ring();
    if (digit < 0 || digit >= ring.digits(z.level)) refuse("there is no such digit");
    py::gil_scoped_release release;
    const int start = ring.digit_start(digit);
    for (int i = start; i < start + ring.digit_width(digit, z.level); ++i) {
        ring.k->add_scaled(z.limb(zi, i), x.limb(xi, i), ring.special_product(i), ring.n, ring.tables[i].m);
    }
}

Polys permute(Context& c, const Polys& a, u64 galois) {
    c.own(a);
    const std::vector<u32>& from = c.automorphism(galois);
    py::gil_scoped_release release;
    Polys z = c.ring().polys(a.polys, a.level, a.extended);
    z.memory.secret = a.memory.secret;
    for (int p = 0; p < a.polys; ++p)
        for (int i = 0; i < a.limbs; ++i) c.ring().k->permute(z.limb(p, i), a.limb(p, i), from.data(), a.n);
    return z;
}

using Terms = std::vector<std::pair<const Polys*, const Plain*>>;

// Giant steps as (terms, key or null, Galois element).
Polys linear(Context& c, const std::vector<std::tuple<Terms, const Polys*, u64>>& giants, int level) {
    c.level(level);
    if (giants.empty()) refuse("a sum of nothing");
    std::vector<Giant> checked;
    for (const auto& [terms, key, galois] : giants) {
        if (terms.empty()) refuse("a sum of nothing");
        for (const auto& [a, b] : terms) {
            if (!a || !b) refuse("a term is missing");
            c.own(*a), c.own(*b);
            if (b->level != level || (a->extended && !b->extended)) refuse("a constant of another basis");
            if (a->level != level || a->polys != 2) refuse("a term at another level or of another dimension");
        }
        if (key) c.key(*key, level);
        checked.push_back({key, key ? &c.automorphism(galois) : nullptr, terms});
    }
    py::gil_scoped_release release;
    return linear_sum(c.ring(), checked, level);
}

std::vector<Polys> numbers(const Context& c, const std::vector<const Polys*>& inputs,
                           const std::vector<std::vector<const Plain*>>& weights, int level) {
    c.level(level);
    if (inputs.empty() || weights.empty()) refuse("a sum of nothing");
    for (const Polys* a : inputs) {
        if (!a) refuse("a term is missing");
        c.cipher(*a);
        if (a->level != level || a->polys != 2) refuse("a term at another level or of another dimension");
    }
    for (const auto& row : weights) {
        if (row.size() != inputs.size()) refuse("not one weight for each term");
        for (const Plain* plain : row) {
            if (!plain) refuse("a weight is missing");
            c.own(*plain);
            if (plain->level != level || plain->n != 1) refuse("a weight at another level, or no number");
        }
    }
    py::gil_scoped_release release;
    return linear_sums(c.ring(), inputs, weights, level);
}

using Weighted = std::tuple<int, const Polys*, const Polys*, const Plain*>;

Polys products(const Context& c, const std::vector<Weighted>& terms, const Polys& key, int level) {
    c.level(level);
    if (level < 1) refuse("no level is left");
    if (terms.empty()) refuse("a sum of nothing");
    c.key(key, level);
    std::vector<Term> checked;
    for (const auto& [weight, a, b, plain] : terms) {
        if ((!a && !plain) || (b && (!a || plain))) refuse("a term that is no product");
        if (weight == std::numeric_limits<int>::min()) refuse("a weight is too large");
        for (const Polys* x : {a, b}) {
            if (!x) continue;
            c.cipher(*x);
            if (x->level != level) refuse("operands at different levels");
            if (x->polys != 2 && (b || plain)) refuse("a factor is not relinearized");
        }
        if (plain) {
            c.own(*plain);
            if (plain->level != level) refuse("operands at different levels");
            if (plain->late) refuse("a late constant outside a sum of products");
        }
        checked.push_back({weight, a, b, plain});
    }
    py::gil_scoped_release release;
    return product_sum(c.ring(), checked, key, level);
}

// Digits with the ciphertext that they are of: a digit's own limbs are the ciphertext's, so it has to live as
// long. (py::keep_alive crashes where an argument has the wrong type.)
py::object tied(Digits&& digits, const Polys& a) {
    py::object made = py::cast(std::move(digits));
    py::detail::keep_alive_impl(made, py::cast(&a, py::return_value_policy::reference));
    return made;
}

py::buffer_info view(Polys& p) {
    const auto n = static_cast<py::ssize_t>(p.n), word = static_cast<py::ssize_t>(sizeof(u64));
    return py::buffer_info(p.memory.data(), word, py::format_descriptor<u64>::format(), 3, {py::ssize_t{p.polys}, py::ssize_t{p.limbs}, n},
                           {p.limbs * n * word, n * word, word}, true);
}

}  // namespace
}  // namespace pi

PYBIND11_MODULE(_core, m) {
    using namespace pi;
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    m.doc() = "CKKS arithmetic in residues; see pi_compiler.runtime.native.";
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const Kernels* k : instruction_sets()) names.emplace_back(k->name);
        return names;
    });

    py::class_<Polys>(m, "Polys", py::buffer_protocol())
        .def_buffer(&view)
        .def_readonly("polys", &Polys::polys)
        .def_readonly("level", &Polys::level)
        .def_readonly("extended", &Polys::extended)
        .def_property_readonly("nbytes", [](const Polys& p) { return p.memory.words() * sizeof(u64); });
    py::class_<Plain>(m, "Plain")
        .def_readonly("level", &Plain::level)
        .def_readonly("extended", &Plain::extended)
        .def_property_readonly("nbytes", [](const Plain& p) { return p.memory.words() * sizeof(u64); });
    py::class_<Digits>(m, "Digits").def_readonly("level", &Digits::level);

    py::class_<Context>(m, "Ring")
        .def(py::init<int, const std::vector<u64>&, int, int, const std::string&, int>(), py::arg("log_n"),
             py::arg("primes"), py::arg("specials"), py::arg("threads") = 1, py::arg("kernels") = "",
             py::arg("digit") = 0)
        .def_property_readonly("kernels", [](const Context& c) { return c.ring().k->name; })
        .def("digits", [](const Context& c, int level) { return c.level(level), c.ring().digits(level); })
        .def("load", &load)
        .def("map", &map)
        .def("valid", &valid, Unlocked())
        .def("empty",
             [](const Context& c, int polys, int level, bool extended, bool secret) {
                 c.level(level), c.count(polys);
                 Polys p = c.ring().polys(polys, level, extended);
                 std::memset(p.memory.data(), 0, p.memory.words() * sizeof(u64));
                 p.memory.secret = secret;
                 return p;
             },
             py::arg("polys"), py::arg("level"), py::arg("extended"), py::arg("secret") = false)
        .def("encode", &encode, py::arg("values"), py::arg("scale"), py::arg("level"), py::arg("extended") = false,
             py::arg("late") = false, py::arg("secret") = false)
        .def("decode", &decode)
        .def("small", &small)
        .def("uniform", &uniform)
        .def("mul_add", &mul_add)
        .def("add_gadget", &add_gadget)
        .def("permute", &permute)
        .def("ntt", [](const Context& c, Polys& a) {
                c.own(a), c.writable(a);
                for (int p = 0; p < a.polys; ++p)
                    for (int i = 0; i < a.limbs; ++i)
                        c.ring().k->ntt(a.limb(p, i), a.n, c.ring().tables[c.ring().prime(a.level, i)]);
            }, Unlocked())
        .def("intt", [](const Context& c, Polys& a) {
                c.own(a), c.writable(a);
                for (int p = 0; p < a.polys; ++p)
                    for (int i = 0; i < a.limbs; ++i) {
                        const int prime = c.ring().prime(a.level, i);
                        c.ring().k->intt(a.limb(p, i), a.limb(p, i), a.n, c.ring().tables[prime], c.ring().n_inverse(prime));
                    }
            }, Unlocked())
        .def("add", [](const Context& c, const Polys& a, const Polys& b) { return same(c, a, b), add(c.ring(), a, b); },
             Unlocked())
        .def("sub", [](const Context& c, const Polys& a, const Polys& b) { return same(c, a, b), sub(c.ring(), a, b); },
             Unlocked())
        .def("neg", [](const Context& c, const Polys& a) {
                c.own(a);
                Polys z = neg(c.ring(), a);
                z.memory.secret = a.memory.secret;
                return z;
            }, Unlocked())
        .def("mul", [](const Context& c, const Polys& a, const Polys& b) {
                same(c, a, b);
                if (a.polys != 2 || b.polys != 2 || a.extended) refuse("a factor is not relinearized");
                return mul(c.ring(), a, b);
            }, Unlocked())
        .def("add_plain", [](const Context& c, const Polys& a, const Plain& b) {
                return same(c, a, b), add_plain(c.ring(), a, b);
            }, Unlocked())
        .def("mul_plain", [](const Context& c, const Polys& a, const Plain& b) {
                return same(c, a, b), mul_plain(c.ring(), a, b);
            }, Unlocked())
        .def("drop", [](const Context& c, const Polys& a, int level) {
                c.own(a), c.level(level);
                if (level > a.level || a.extended) refuse("levels only go down");
                return drop(c.ring(), a, level);
            }, Unlocked())
        .def("rescale", [](const Context& c, const Polys& a) {
                c.own(a);
                if (a.level < 1 || a.extended) refuse("no level is left");
                return rescale(c.ring(), a);
            }, Unlocked())
        .def("relinearize", [](const Context& c, const Polys& a, const Polys& key) {
                c.cipher(a), c.key(key, a.level);
                if (a.polys != 3) refuse("only dimension 3 can be relinearized");
                return relinearize(c.ring(), a, key);
            }, Unlocked())
        .def("divide_special", [](const Context& c, const Polys& a) {
                c.own(a);
                if (!a.extended) refuse("only the extended basis has special primes to divide by");
                Polys z = divide_special(c.ring(), a, 0);
                z.memory.secret = a.memory.secret;
                return z;
            }, Unlocked())
        .def("decompose", [](const Context& c, const Polys& a) {
                c.cipher(a);
                if (a.polys != 2) refuse("only dimension 2 can be rotated");
                Digits digits;
                {
                    py::gil_scoped_release release;
                    digits = decompose(c.ring(), a, 1);
                }
                return tied(std::move(digits), a);
            })
        .def("rotate_first", [](Context& c, const Polys& a, const Polys& key, u64 galois) {
                c.cipher(a), c.key(key, a.level);
                if (a.polys != 2) refuse("only dimension 2 can be rotated");
                const std::vector<u32>& from = c.automorphism(galois);
                Digits digits;
                Polys z;
                {
                    py::gil_scoped_release release;
                    z = rotate_first(c.ring(), a, digits, key, from);
                }
                return py::make_tuple(std::move(z), tied(std::move(digits), a));
            })
        .def("rotate", [](Context& c, const Polys& a, const Digits& digits, const Polys& key, u64 galois) {
                c.cipher(a), c.own(digits), c.key(key, a.level);
                if (a.polys != 2 || digits.level != a.level) refuse("these are not the digits of that ciphertext");
                return rotate(c.ring(), a, digits, key, c.automorphism(galois));
            }, Unlocked())
        .def("rotate_extended", [](Context& c, const Polys& a, const Digits& digits, const Polys& key, u64 galois) {
                c.cipher(a), c.own(digits), c.key(key, a.level);
                if (a.polys != 2 || digits.level != a.level) refuse("these are not the digits of that ciphertext");
                return rotate_extended(c.ring(), a, digits, key, c.automorphism(galois));
            }, Unlocked())
        .def("linear_sum", &linear)
        .def("linear_sums", &numbers)
        .def("product_sum", &products);
}
