// vdso SECONDS: nearly all of its time is in the vDSO, always under the same two callers.
#include "truth.h"
static volatile uint64_t sink;
__attribute__((noinline)) static uint64_t vdso_inner(clockid_t clock) { uint64_t s = 0; for (int i = 0; i < 64; i++) s += truth_clock(clock); return s; }
__attribute__((noinline)) static void vdso_outer(void) {
    uint64_t s = 0;
    for (int i = 0; i < 256; i++) s ^= vdso_inner(i & 1 ? CLOCK_MONOTONIC : CLOCK_REALTIME);
    sink += s;
}
int main(int argc, char **argv) {
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000000u;
    while (truth_clock(CLOCK_MONOTONIC) < end) vdso_outer();
    return 0;
}
