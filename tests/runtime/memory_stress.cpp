// Blocks of a pool never overlap and keep what is written; loops on threads run every iteration once. Prints what is wrong.
#include <chrono>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "memory.h"

using pi::u64;

namespace {

struct Block {
    u64* at;
    std::size_t words, capacity;
    u64 tag;
};

bool intact(const Block& b) {
    for (std::size_t i = 0; i < b.words; i += 97)
        if (b.at[i] != b.tag) return false;
    return b.at[b.words - 1] == b.tag;
}

// Sizes as ciphertexts of falling level have them, and a few over a chunk.
int blocks(unsigned seed) {
    pi::Pool pool;
    std::mt19937_64 random(seed);
    std::vector<Block> held;
    for (u64 step = 0; step < 6000; ++step) {
        if (held.empty() || (random() % 100 < 55 && held.size() < 60)) {
            const std::size_t words = random() % 200 ? (1 + random() % 40) * 4096 : (std::size_t{5} << 20) + random() % 999;
            Block b{nullptr, words, 0, step};
            b.at = pool.take(words, b.capacity);
            if (b.capacity < words) return std::puts("a block is smaller than asked"), 1;
            for (std::size_t i = 0; i < words; i += 97) b.at[i] = b.tag;
            b.at[words - 1] = b.tag;
            held.push_back(b);
        } else {
            std::swap(held[random() % held.size()], held.back());
            if (!intact(held.back())) return std::puts("a block was written by another"), 1;
            pool.give(held.back().at, held.back().capacity);
            held.pop_back();
        }
    }
    for (const Block& b : held) {
        if (!intact(b)) return std::puts("a block was written by another"), 1;
        pool.give(b.at, b.capacity);
    }
    return 0;
}

int loops(int threads) {
    pi::Threads team(threads);
    std::mt19937_64 random(1);
    for (int round = 0; round < 3000; ++round) {
        std::vector<int> done(2 + random() % 40, 0);
        const bool fails = random() % 16 == 0;
        bool told = false;
        try {
            team.loop(done.size(), [&](std::size_t i) {
                ++done[i];
                if (fails && i == 1) throw std::runtime_error("meant");
            });
        } catch (const std::runtime_error&) {
            told = true;
        }
        if (told != fails) return std::puts("an exception was lost"), 1;
        for (const int times : done)
            if (times != 1) return std::puts("an iteration ran twice or never"), 1;
        // Longer than threads watch: they sleep now and then.
        if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    return 0;
}

// Two callers at once: one of them works alone.
int callers() {
    pi::Threads team(2);
    int wrong = 0;
    std::vector<std::thread> both;
    std::vector<std::vector<int>> done(2, std::vector<int>(64, 0));
    for (int c = 0; c < 2; ++c)
        both.emplace_back([&, c] {
            for (int round = 0; round < 500; ++round) team.loop(64, [&](std::size_t i) { ++done[c][i]; });
        });
    for (auto& one : both) one.join();
    for (const auto& list : done)
        for (const int times : list) wrong += times != 500;
    if (wrong) std::puts("loops of two callers were mixed");
    return wrong;
}

}  // namespace

int main() { return blocks(1) || blocks(2) || loops(2) || loops(4) || callers(); }
