// Blocks of words that are used again, and a few threads that share loops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "arith.h"

namespace pi {

// Blocks cut from chunks of memory on large pages. Blocks given back are the first taken again: they may still be
// in a cache. Before another chunk is asked for, neighbors among them are joined.
class Pool {
  public:
    ~Pool();
    // A block of at least so many words; says how many it has.
    u64* take(std::size_t words, std::size_t& capacity);
    void give(u64* block, std::size_t capacity);

  private:
    u64* cut(std::size_t words);
    void join_recent();
    void free_up(u64* at, std::size_t words);
    void give_up_chunks();

    std::mutex mutex_;
    std::multimap<std::size_t, u64*> recent_;        // as they were given
    std::map<u64*, std::size_t> gaps_;               // what else is free
    std::set<std::pair<std::size_t, u64*>> by_size_;  // the same
    std::map<u64*, std::size_t> chunks_;
    std::size_t held_ = 0;
};

// A block of a pool, given back when it goes; wiped before that if it held a secret. Or words that are
// somebody else's, who keeps them as long; nothing may write into these.
class Memory {
  public:
    Memory() = default;
    Memory(std::shared_ptr<Pool> pool, std::size_t words);
    Memory(const u64* lent, std::size_t words) : words_(words), data_(const_cast<u64*>(lent)) {}
    Memory(Memory&& other) noexcept { *this = std::move(other); }
    Memory& operator=(Memory&& other) noexcept;
    ~Memory() { release(); }

    u64* data() const { return data_; }
    std::size_t words() const { return words_; }
    bool lent() const { return data_ && !pool_; }
    bool secret = false;

  private:
    void release();
    std::shared_ptr<Pool> pool_;
    std::size_t words_ = 0, capacity_ = 0;
    u64* data_ = nullptr;
};

// Runs the iterations of a loop on several threads. One loop at a time: a second caller works alone. Whoever is
// free takes the next iteration, and the caller waits for iterations, not for threads: one that wakes up late
// finds nothing to do. Threads watch for the next loop for a while before they sleep.
class Threads {
  public:
    explicit Threads(int count);
    ~Threads();
    int count() const { return static_cast<int>(workers_.size()) + 1; }

    template <class Body>
    void loop(std::size_t iterations, const Body& body) {
        if (workers_.empty() || iterations < 2) {
            for (std::size_t i = 0; i < iterations; ++i) body(i);
            return;
        }
        run(iterations, [&body](std::size_t i) { body(i); });
    }

  private:
    void run(std::size_t iterations, const std::function<void(std::size_t)>& body);
    void work();
    void drain(u64 round);

    std::vector<std::thread> workers_;
    std::mutex callers_;
    std::mutex mutex_;
    std::condition_variable start_, finish_;
    // The number of the loop and of its next iteration. A thread that takes one by comparison and exchange knows
    // that the loop is not over, so that what it read of the loop is valid.
    std::atomic<u64> next_{0};
    std::atomic<const std::function<void(std::size_t)>*> body_{nullptr};
    std::atomic<u64> iterations_{0}, left_{0};
    std::atomic<int> asleep_{0};
    std::atomic<bool> waiting_{false}, stop_{false};
    std::exception_ptr error_;  // the first, under mutex_
};

}  // namespace pi
