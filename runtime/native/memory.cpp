#include "memory.h"

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
constexpr std::size_t LINE = 64, HUGE_PAGE = std::size_t{2} << 20;
// Free words that are kept: values shrink with their level, and what no longer fits must not pile up.
constexpr std::size_t KEPT = std::size_t{192} << 20;

std::size_t up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

#if defined(__linux__)
// Large blocks are mapped one by one: an allocator would leave holes around their alignment. Transforms
// stride through whole limbs; with small pages they wait for address translation.
void* map_block(std::size_t bytes) {
    const std::size_t size = up(bytes, HUGE_PAGE), mapped = size + HUGE_PAGE;
    void* found = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return nullptr;
    char* const first = static_cast<char*>(found);
    char* const block = reinterpret_cast<char*>(up(reinterpret_cast<std::uintptr_t>(first), HUGE_PAGE));
    if (block > first) munmap(first, static_cast<std::size_t>(block - first));
    if (block + size < first + mapped) munmap(block + size, static_cast<std::size_t>(first + mapped - block) - size);
    madvise(block, size, MADV_HUGEPAGE);
    return block;
}
#endif

u64* allocate(std::size_t bytes) {
#if defined(__linux__)
    void* block = bytes >= HUGE_PAGE ? map_block(bytes) : std::aligned_alloc(LINE, up(bytes, LINE));
#else
    void* block = std::aligned_alloc(LINE, up(bytes, LINE));
#endif
    if (!block) throw std::bad_alloc();
    return static_cast<u64*>(block);
}

void deallocate(u64* block, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
    if (bytes >= HUGE_PAGE) {
        munmap(block, up(bytes, HUGE_PAGE));
        return;
    }
#endif
    std::free(block);
}

}  // namespace

Pool::~Pool() {
    for (auto& [words, block] : free_) deallocate(block, words * sizeof(u64));
}

u64* Pool::take(std::size_t words, std::size_t& capacity) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        auto found = free_.lower_bound(words);
        if (found != free_.end() && found->first <= words + words / 4) {
            u64* block = found->second;
            capacity = found->first;
            held_ -= capacity;
            free_.erase(found);
            return block;
        }
    }
    capacity = words;
    return allocate(words * sizeof(u64));
}

void Pool::give(u64* block, std::size_t capacity) {
    std::lock_guard<std::mutex> lock(mutex_);
    // Before its equals, so that it is the next taken: it may still be in a cache.
    free_.emplace_hint(free_.lower_bound(capacity), capacity, block);
    held_ += capacity;
    while (held_ > KEPT) {
        const auto largest = std::prev(free_.end());
        held_ -= largest->first;
        deallocate(largest->second, largest->first * sizeof(u64));
        free_.erase(largest);
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

void Threads::drain() {
    for (std::size_t i; (i = next_.fetch_add(1)) < iterations_;) (*body_)(i);
}

void Threads::work() {
    u64 seen = 0;
    for (;;) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            start_.wait(lock, [&] { return stop_ || round_ != seen; });
            if (stop_) return;
            seen = round_;
        }
        drain();
        std::lock_guard<std::mutex> lock(mutex_);
        if (--busy_ == 0) done_.notify_one();
    }
}

void Threads::run(std::size_t iterations, const std::function<void(std::size_t)>& body) {
    std::unique_lock<std::mutex> turn(callers_, std::try_to_lock);
    if (!turn.owns_lock()) {
        for (std::size_t i = 0; i < iterations; ++i) body(i);
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        body_ = &body;
        iterations_ = iterations;
        next_ = 0;
        busy_ = workers_.size();
        ++round_;
    }
    start_.notify_all();
    drain();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return busy_ == 0; });
}

}  // namespace pi
