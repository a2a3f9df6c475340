// shop TRUTH_FILE PERCENT SECONDS [SEED]
// Two functions share one thread's CPU time, in slices of 0.2 to 0.9 s: long ones, so that few samples tell their shares
// well. How much each had is measured by the thread's own clock and written down while it works.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <random>
#include <unistd.h>

namespace {

volatile std::sig_atomic_t stop;
void on_signal(int) { stop = 1; }

std::uint64_t now(clockid_t clock) {
    std::timespec t;
    clock_gettime(clock, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1000000000u + static_cast<std::uint64_t>(t.tv_nsec);
}

volatile std::uint64_t sink;

}  // namespace

namespace shop {

__attribute__((noinline)) void price_cart(std::uint64_t rounds) {
    std::uint64_t value = rounds | 1;
    for (std::uint64_t i = 0; i < rounds; i++) { value = value * 6364136223846793005u + i; asm volatile("" : "+r"(value)); }
    sink += value;
}

__attribute__((noinline)) void rank_offers(std::uint64_t rounds) {
    std::uint64_t value = rounds | 1;
    for (std::uint64_t i = 0; i < rounds; i++) { value = value * 2685821657736338717u + i; asm volatile("" : "+r"(value)); }
    sink += value;
}

}  // namespace shop

int main(int argc, char **argv) {
    if (argc < 4) { std::fprintf(stderr, "usage: shop TRUTH_FILE PERCENT SECONDS [SEED]\n"); return 2; }
    std::signal(SIGTERM, on_signal);
    std::signal(SIGINT, on_signal);
    int truth = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (truth < 0) { std::perror(argv[1]); return 2; }
    std::uint64_t percent = std::strtoull(argv[2], nullptr, 10);
    std::uint64_t end = now(CLOCK_MONOTONIC) + std::strtoull(argv[3], nullptr, 10) * 1000000000u;
    std::mt19937_64 random(argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 7);
    std::uint64_t alpha_ns = 0, beta_ns = 0, next_line = 0;
    while (!stop && now(CLOCK_MONOTONIC) < end) {
        std::uint64_t slice_end = now(CLOCK_THREAD_CPUTIME_ID) + 200000000u + random() % 700000000u;
        bool alpha = random() % 100 < percent;
        std::uint64_t before = now(CLOCK_THREAD_CPUTIME_ID);
        while (!stop && before < slice_end) {
            if (now(CLOCK_MONOTONIC) >= next_line) {
                char line[160];
                int n = std::snprintf(line, sizeof line, "{\"unix_ns\":%llu,\"alpha_ns\":%llu,\"beta_ns\":%llu}\n",
                                      static_cast<unsigned long long>(now(CLOCK_REALTIME)),
                                      static_cast<unsigned long long>(alpha_ns), static_cast<unsigned long long>(beta_ns));
                if (write(truth, line, static_cast<std::size_t>(n)) != n) { std::perror("truth"); return 2; }
                next_line = now(CLOCK_MONOTONIC) + 100000000u;
            }
            if (alpha) shop::price_cart(500000); else shop::rank_offers(500000);
            std::uint64_t after = now(CLOCK_THREAD_CPUTIME_ID);
            (alpha ? alpha_ns : beta_ns) += after - before;
            before = after;
        }
    }
    return 0;
}
