// execs_left OTHER SECONDS MILLISECONDS, execs_right the same: burns some milliseconds, then executes the other one in the same process,
// until the time is over. Built twice, without position independence: the same addresses, other functions.
#include "truth.h"
#define GLUE(a, b) a##b
#define NAME(side, rest) GLUE(side, rest)
#define INNER NAME(SIDE, _exec_inner)
#define OUTER NAME(SIDE, _exec_outer)
static volatile uint64_t sink;
__attribute__((noinline)) static uint64_t INNER(unsigned depth, uint64_t value) {
    volatile uint64_t locals[WORDS];
    locals[depth % WORDS] = value;
    if (depth == 0) { uint64_t s = value; TRUTH_SPIN(50000, s); return s; }
    uint64_t below = INNER(depth - 1, value + depth);
    return below + locals[depth % WORDS];
}
__attribute__((noinline)) static void OUTER(uint64_t end) {
    while (truth_clock(CLOCK_PROCESS_CPUTIME_ID) < end) sink += INNER(7, sink);
}
int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: execs OTHER SECONDS MILLISECONDS [END_NS]\n"); return 2; }
    uint64_t now = truth_clock(CLOCK_MONOTONIC);
    uint64_t end = argc > 4 ? strtoull(argv[4], NULL, 10) : now + strtoull(argv[2], NULL, 10) * 1000000000u;
    if (now >= end) return 0;
    // The clock of CPU time goes on over exec.
    OUTER(truth_clock(CLOCK_PROCESS_CPUTIME_ID) + strtoull(argv[3], NULL, 10) * 1000000u);
    char until[32];
    snprintf(until, sizeof until, "%llu", (unsigned long long)end);
    char *words[] = {argv[1], argv[0], argv[2], argv[3], until, NULL};
    execv(argv[1], words);
    perror(argv[1]);
    return 2;
}
