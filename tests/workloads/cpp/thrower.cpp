// thrower SECONDS: exceptions through many frames with destructors on the way, while a timer's signals interrupt whatever runs.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <stdexcept>
#include <string>
#include <sys/time.h>

static volatile std::uint64_t sink;
static volatile std::uint64_t ticks;

static void spin(std::uint64_t rounds) {
    std::uint64_t value = rounds | 1;
    for (std::uint64_t i = 0; i < rounds; i++) {
        value = value * 6364136223846793005u + i;
        __asm__ volatile("" : "+r"(value));
    }
    sink = sink + value;
}

extern "C" __attribute__((noinline)) void on_tick(int) {
    ticks = ticks + 1;
    spin(100000);
}

struct Guard {
    explicit Guard(unsigned depth) : text(40, static_cast<char>('a' + depth % 26)) {}
    ~Guard() { sink = sink + text.size(); }
    std::string text;
};

__attribute__((noinline)) static unsigned descend(unsigned depth) {
    Guard guard(depth);
    if (depth == 0) {
        spin(5000);
        throw std::runtime_error("the bottom");
    }
    unsigned below = descend(depth - 1);
    return below + static_cast<unsigned>(guard.text.size());
}

__attribute__((noinline)) static void attempt(unsigned depth) {
    try {
        sink = sink + descend(depth);
    } catch (const std::runtime_error &error) {
        sink = sink + static_cast<std::uint64_t>(error.what()[0]);
    }
}

int main(int argc, char **argv) {
    struct sigaction action {};
    action.sa_handler = on_tick;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    // In step with no sampler's timer.
    itimerval timer{{0, 1370}, {0, 1370}};
    setitimer(ITIMER_REAL, &timer, nullptr);
    std::time_t end = std::time(nullptr) + (argc > 1 ? std::atol(argv[1]) : 10);
    for (unsigned i = 0; std::time(nullptr) < end; i++) attempt(5 + i % 20);
    std::printf("%llu ticks\n", static_cast<unsigned long long>(ticks));
    return 0;
}
