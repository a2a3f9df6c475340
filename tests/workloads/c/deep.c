// deep SECONDS [cpu]: so long, or so much of its own CPU time; 0.03 will do.
// A recursion of 60 frames, built with -O2 -fomit-frame-pointer: only unwind tables find the way out.
#include "truth.h"

#define DEPTH 60
static volatile uint64_t sink;

// Frames of different sizes, work after the call: neither a tail call nor a loop can take the recursion's place.
__attribute__((noinline)) static uint64_t deep_frame(unsigned depth, uint64_t value) {
    volatile uint64_t locals[4 + 4];
    locals[depth & 7] = value;
    if (depth == 1) { uint64_t s = value; TRUTH_SPIN(200000, s); return s; }
    uint64_t below = deep_frame(depth - 1, value + depth);
    return below + locals[depth & 7];
}

int main(int argc, char **argv) {
    clockid_t clock = argc > 2 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    uint64_t end = truth_clock(clock) + (uint64_t)((argc > 1 ? strtod(argv[1], NULL) : 10) * 1e9);
    while (truth_clock(clock) < end) sink += deep_frame(DEPTH, sink);
    return 0;
}
