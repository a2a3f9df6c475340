// shared_one SECONDS, shared_two SECONDS: the same source, built twice, each with a caller of its own name.
#include "truth.h"
void shared_work(uint64_t rounds);
__attribute__((noinline)) static void CALLER(void) { for (int i = 0; i < 16; i++) shared_work(100000); }
int main(int argc, char **argv) {
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000000u;
    while (truth_clock(CLOCK_MONOTONIC) < end) CALLER();
    return 0;
}
