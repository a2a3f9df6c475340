// split TRUTH_FILE PERCENT_ALPHA SECONDS [SEED]
// Two functions share one thread's CPU time in random slices; how much each had is measured by the thread's own clock.
#include "truth.h"

static volatile uint64_t sink;

__attribute__((noinline)) static void work_alpha(uint64_t rounds) { uint64_t s = 0; TRUTH_SPIN(rounds, s); sink += s; }
__attribute__((noinline)) static void work_beta(uint64_t rounds) { uint64_t s = 1; TRUTH_SPIN(rounds, s); sink += s; }

int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: split TRUTH_FILE PERCENT_ALPHA SECONDS [SEED]\n"); return 2; }
    int truth = truth_open(argv[1]);
    uint64_t percent = strtoull(argv[2], NULL, 10);
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + strtoull(argv[3], NULL, 10) * 1000000000u;
    uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 88172645463325252u;
    uint64_t alpha_ns = 0, beta_ns = 0, next_line = 0;
    while (!truth_stop) {
        uint64_t now = truth_clock(CLOCK_MONOTONIC);
        if (now >= end) break;
        if (now >= next_line) { truth_write(truth, alpha_ns, beta_ns); next_line = now + 50000000u; }
        // 0.2 to about 4 ms on a machine of today: never in step with a timer.
        uint64_t rounds = 100000 + truth_random(&seed) % 2000000;
        int alpha = (truth_random(&seed) >> 16) % 100 < percent;
        uint64_t before = truth_clock(CLOCK_THREAD_CPUTIME_ID);
        if (alpha) work_alpha(rounds); else work_beta(rounds);
        uint64_t spent = truth_clock(CLOCK_THREAD_CPUTIME_ID) - before;
        if (alpha) alpha_ns += spent; else beta_ns += spent;
    }
    truth_write(truth, alpha_ns, beta_ns);
    return 0;
}
