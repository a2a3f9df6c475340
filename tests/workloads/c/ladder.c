// ladder FRAMES SECONDS KIB
// Stacks of exactly FRAMES user frames from the leaf to _start, built with -O2 -fomit-frame-pointer: only unwind tables find the
// way out. The leaf walks through KIB KiB of memory, so that whoever samples it finds the caches full of that; with 0 it stays in
// its registers.
#include <string.h>
#include "truth.h"

// main, the two frames of the C library that call it, _start.
#define BELOW 4
static volatile uint64_t sink;
static uint64_t *memory;
static size_t words;

__attribute__((noinline)) static uint64_t work(uint64_t value) {
    if (words == 0) {
        uint64_t s = value;
        TRUTH_SPIN(2000000, s);
        return s;
    }
    // A line of the cache at a time, in steps that the prefetcher does not follow for long.
    uint64_t at = value % words;
    for (int i = 0; i < 400000; i++) {
        memory[at] += value;
        value += memory[at];
        at = (at + 8 * 1021) % words;
    }
    return value + 8;
}

// Frames of different sizes, work after the call: neither a tail call nor a loop can take the recursion's place.
__attribute__((noinline)) static uint64_t rung(unsigned depth, uint64_t value) {
    volatile uint64_t locals[4];
    locals[depth & 3] = value;
    uint64_t below = depth <= 1 ? work(value) : rung(depth - 1, value + depth);
    return below + locals[depth & 3];
}

int main(int argc, char **argv) {
    unsigned frames = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 50;
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + (argc > 2 ? strtoull(argv[2], NULL, 10) : 10) * 1000000000u;
    size_t kib = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    if (frames < BELOW + 2) { fprintf(stderr, "ladder: at least %d frames\n", BELOW + 2); return 2; }
    if (kib > 0) {
        words = kib * 1024 / sizeof *memory;
        memory = malloc(words * sizeof *memory);
        if (memory == NULL) { perror("ladder"); return 2; }
        memset(memory, 1, words * sizeof *memory);
    }
    // work() is one frame, main and what is below it four.
    while (truth_clock(CLOCK_MONOTONIC) < end) sink += rung(frames - BELOW - 1, sink);
    return 0;
}
