// burn50 [MILLISECONDS]: burns 50 ms of its own CPU time and exits.
#include "truth.h"
static volatile uint64_t sink;
__attribute__((noinline)) static void burn_shortly(void) { uint64_t s = 0; TRUTH_SPIN(20000, s); sink += s; }
int main(int argc, char **argv) {
    uint64_t end = (argc > 1 ? strtoull(argv[1], NULL, 10) : 50) * 1000000u;
    while (truth_clock(CLOCK_PROCESS_CPUTIME_ID) < end) burn_shortly();
    return 0;
}
