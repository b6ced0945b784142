#include "memory.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pi {

namespace {
constexpr std::size_t LINE = 64;
// Free words that are kept: values shrink with their level, and what no longer fits must not pile up.
constexpr std::size_t KEPT = std::size_t{192} << 20;
#if defined(__SANITIZE_ADDRESS__)
// Every block by itself: the sanitizer guards its ends.
constexpr std::size_t LARGE = LINE, CHUNK = 0;
#else
// Bytes of a large page, and of a chunk at least.
constexpr std::size_t LARGE = std::size_t{2} << 20, CHUNK = std::size_t{32} << 20;
#endif

std::size_t up(std::size_t count, std::size_t unit) { return (count + unit - 1) / unit * unit; }

// Chunks are mapped, and aligned to large pages: transforms stride through whole limbs; with small pages they wait
// for address translation.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
u64* allocate(std::size_t bytes) {
    const std::size_t mapped = bytes + LARGE;
    void* found = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    char* const first = static_cast<char*>(found);
    char* const block = reinterpret_cast<char*>(up(reinterpret_cast<std::uintptr_t>(first), LARGE));
    if (block > first) munmap(first, static_cast<std::size_t>(block - first));
    if (block + bytes < first + mapped) munmap(block + bytes, static_cast<std::size_t>(first + mapped - block) - bytes);
    madvise(block, bytes, MADV_HUGEPAGE);
    return reinterpret_cast<u64*>(block);
}

void deallocate(u64* block, std::size_t bytes) { munmap(block, bytes); }
#else
u64* allocate(std::size_t bytes) {
    void* block = std::aligned_alloc(LARGE, bytes);
    if (!block) throw std::bad_alloc();
    return static_cast<u64*>(block);
}

void deallocate(u64* block, std::size_t) { std::free(block); }
#endif

// A loop's number stands above that of its next iteration.
constexpr int ROUND = 32;
constexpr u64 LAST = (u64{1} << (ROUND - 1)) - 1;
// How long a thread watches before it sleeps: longer than Python takes between two calls.
constexpr auto WATCHED = std::chrono::microseconds(60);

void pause() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_ia32_pause();
#endif
}

// Whether it comes true in that time.
template <class Condition>
bool watch(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + WATCHED;
    for (;;) {
        for (int i = 0; i < 50; ++i, pause())
            if (condition()) return true;
        if (std::chrono::steady_clock::now() > end) return false;
    }
}

}  // namespace

Pool::~Pool() {
    for (auto& [chunk, words] : chunks_) deallocate(chunk, words * sizeof(u64));
}

u64* Pool::take(std::size_t words, std::size_t& capacity) {
    words = up(words, LINE / sizeof(u64));
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = recent_.lower_bound(words);
    if (found != recent_.end() && found->first <= words + words / 4) {
        u64* block = found->second;
        capacity = found->first;
        held_ -= capacity;
        recent_.erase(found);
        return block;
    }
    capacity = words;
    u64* block = cut(words);
    if (!block && !recent_.empty()) {
        join_recent();
        block = cut(words);
    }
    if (!block) {
        const std::size_t size = up(std::max(words * sizeof(u64), CHUNK), LARGE) / sizeof(u64);
        u64* chunk = allocate(size * sizeof(u64));
        chunks_[chunk] = size;
        free_up(chunk, size);
        held_ += size;
        block = cut(words);
    }
    return block;
}

void Pool::give(u64* block, std::size_t capacity) {
    std::lock_guard<std::mutex> lock(mutex_);
    // Before its equals, so that it is the next taken.
    recent_.emplace_hint(recent_.lower_bound(capacity), capacity, block);
    held_ += capacity;
    if (held_ > KEPT) give_up_chunks();
}

// From the smallest gap that is large enough; null where there is none.
u64* Pool::cut(std::size_t words) {
    const auto found = by_size_.lower_bound({words, nullptr});
    if (found == by_size_.end()) return nullptr;
    const auto [size, at] = *found;
    by_size_.erase(found);
    gaps_.erase(at);
    held_ -= size;
    if (size > words) {
        gaps_[at + words] = size - words;
        by_size_.insert({size - words, at + words});
        held_ += size - words;
    }
    return at;
}

void Pool::join_recent() {
    for (const auto& [words, block] : recent_) free_up(block, words);
    recent_.clear();
}

// Makes a gap, joined with its neighbors in the same chunk.
void Pool::free_up(u64* at, std::size_t words) {
    const auto absorb = [&](std::map<u64*, std::size_t>::iterator gap) {
        by_size_.erase({gap->second, gap->first});
        words += gap->second;
        gaps_.erase(gap);
    };
    auto next = gaps_.lower_bound(at);
    if (next != gaps_.end() && next->first == at + words && !chunks_.count(next->first)) {
        const auto after = std::next(next);
        absorb(next);
        next = after;
    }
    if (next != gaps_.begin() && !chunks_.count(at)) {
        const auto before = std::prev(next);
        if (before->first + before->second == at) {
            at = before->first;
            absorb(before);
        }
    }
    gaps_[at] = words;
    by_size_.insert({words, at});
}

// Chunks of which nothing is used, largest first.
void Pool::give_up_chunks() {
    join_recent();
    for (auto gap = by_size_.end(); held_ > KEPT && gap != by_size_.begin();) {
        --gap;
        const auto [words, at] = *gap;
        if (words * sizeof(u64) < CHUNK) break;
        const auto chunk = chunks_.find(at);
        if (chunk == chunks_.end() || chunk->second != words) continue;
        gap = by_size_.erase(gap);
        gaps_.erase(at);
        chunks_.erase(chunk);
        held_ -= words;
        deallocate(at, words * sizeof(u64));
    }
}

Memory::Memory(std::shared_ptr<Pool> pool, std::size_t words)
    : pool_(std::move(pool)), words_(words), data_(words ? pool_->take(words, capacity_) : nullptr) {}

Memory& Memory::operator=(Memory&& other) noexcept {
    if (this == &other) return *this;
    release();
    pool_ = std::move(other.pool_);
    data_ = std::exchange(other.data_, nullptr);
    words_ = std::exchange(other.words_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    secret = std::exchange(other.secret, false);
    return *this;
}

void Memory::release() {
    if (lent()) data_ = nullptr;
    if (!data_) return;
    if (secret) {
        // Volatile, so that the compiler does not drop writes that nobody reads.
        volatile u64* p = data_;
        for (std::size_t i = 0; i < words_; ++i) p[i] = 0;
    }
    pool_->give(data_, capacity_);
    data_ = nullptr;
}

Threads::Threads(int count) {
    for (int i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
}

Threads::~Threads() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    start_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Threads::drain(u64 round) {
    for (u64 next = next_;;) {
        const auto* const body = body_.load();
        const u64 i = next & LAST;
        if (next >> ROUND != round || i >= iterations_) return;
        if (!next_.compare_exchange_weak(next, next + 1)) continue;
        try {
            (*body)(i);
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
        if (left_.fetch_sub(1) == 1 && waiting_) {
            std::lock_guard<std::mutex> lock(mutex_);
            finish_.notify_one();
        }
        next = next_;
    }
}

void Threads::work() {
    u64 seen = 0;
    const auto called = [&] { return stop_ || next_ >> ROUND != seen; };
    for (;;) {
        if (!watch(called)) {
            std::unique_lock<std::mutex> lock(mutex_);
            ++asleep_;
            start_.wait(lock, called);
            --asleep_;
        }
        if (stop_) return;
        seen = next_ >> ROUND;
        drain(seen);
    }
}

void Threads::run(std::size_t iterations, const std::function<void(std::size_t)>& body) {
    std::unique_lock<std::mutex> turn(callers_, std::try_to_lock);
    if (!turn.owns_lock() || iterations >= LAST) {
        for (std::size_t i = 0; i < iterations; ++i) body(i);
        return;
    }
    const u64 round = (next_ >> ROUND) + 1;
    // Closes the loop before: nobody takes an iteration of that with what is said now.
    next_ = ((round - 1) << ROUND) | LAST;
    body_ = &body;
    iterations_ = iterations;
    left_ = iterations;
    next_ = round << ROUND;
    if (asleep_ > 0) {
        { std::lock_guard<std::mutex> lock(mutex_); }
        start_.notify_all();
    }
    drain(round);
    const auto done = [&] { return left_ == 0; };
    if (!watch(done)) {
        std::unique_lock<std::mutex> lock(mutex_);
        waiting_ = true;
        finish_.wait(lock, done);
        waiting_ = false;
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace pi
