// The library between two executables.
#include "truth.h"
static volatile uint64_t sink;
__attribute__((noinline)) void shared_work(uint64_t rounds) { uint64_t s = rounds; TRUTH_SPIN(rounds, s); sink += s; }
