// threads SECONDS: three named threads, each with a function of its own, burning until the end.
#define _GNU_SOURCE
#include <pthread.h>
#include "truth.h"

static uint64_t end_ns;
#define THREAD(name) \
    static volatile uint64_t sink_##name; \
    __attribute__((noinline)) static void burn_##name(void) { uint64_t s = 0; TRUTH_SPIN(500000, s); sink_##name += s; } \
    static void *run_##name(void *argument) { \
        (void)argument; \
        pthread_setname_np(pthread_self(), "thread-" #name); \
        while (truth_clock(CLOCK_MONOTONIC) < end_ns) burn_##name(); \
        return NULL; \
    }
THREAD(red)
THREAD(green)
THREAD(blue)

int main(int argc, char **argv) {
    end_ns = truth_clock(CLOCK_MONOTONIC) + (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000000u;
    void *(*const run[])(void *) = {run_red, run_green, run_blue};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) if (pthread_create(&threads[i], NULL, run[i], NULL) != 0) return 2;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    return 0;
}
