// family SECONDS: a parent that only waits, a child that burns, and a grandchild (exec of this file) that burns too.
#define _GNU_SOURCE
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "truth.h"
static volatile uint64_t sink;
static uint64_t end_ns;
// Not the same work: the compiler makes equal functions one.
__attribute__((noinline)) static void burn_child(void) { uint64_t s = 0; TRUTH_SPIN(500000, s); sink += s; }
__attribute__((noinline)) static void burn_grandchild(void) { uint64_t s = 1; TRUTH_SPIN(400000, s); sink += s; }
int main(int argc, char **argv) {
    const char *seconds = argc > 1 ? argv[1] : "10";
    end_ns = truth_clock(CLOCK_MONOTONIC) + strtoull(seconds, NULL, 10) * 1000000000u;
    if (argc > 2 && strcmp(argv[2], "grandchild") == 0) {
        while (truth_clock(CLOCK_MONOTONIC) < end_ns) burn_grandchild();
        return 0;
    }
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        pid_t grandchild = fork();
        if (grandchild == 0) { prctl(PR_SET_PDEATHSIG, SIGTERM); execl("/proc/self/exe", "family-grandchild", seconds, "grandchild", (char *)NULL); _exit(127); }
        while (truth_clock(CLOCK_MONOTONIC) < end_ns) burn_child();
        waitpid(grandchild, NULL, 0);
        return 0;
    }
    waitpid(child, NULL, 0);
    return 0;
}
