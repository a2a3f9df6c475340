// A library that is loaded and unloaded. Built twice, as SIDE=left and SIDE=right: at the same addresses other functions, with
// frames of other sizes. It needs nothing from outside, so that its code also runs where only that was mapped.
#include <stdint.h>
#define GLUE(a, b) a##b
#define NAME(side, rest) GLUE(side, rest)
#define INNER NAME(SIDE, _inner)
#define WORK NAME(SIDE, _work)

__attribute__((noinline)) static uint64_t INNER(unsigned depth, uint64_t value) {
    volatile uint64_t locals[WORDS];
    locals[depth % WORDS] = value;
    if (depth == 0) {
        for (uint64_t i = 0; i < 50000; i++) {
            value = value * 6364136223846793005u + i;
            __asm__ volatile("" : "+r"(value));
        }
        return value;
    }
    uint64_t below = INNER(depth - 1, value + depth);
    return below + locals[depth % WORDS];
}

uint64_t WORK(uint64_t value) {
    volatile uint64_t local = value;
    uint64_t below = INNER(5, value);
    return below + local;
}
