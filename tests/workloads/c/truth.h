// What every workload with a truth shares: a log of how much thread CPU time each function has had so far.
// One line of JSON per write(2), so a reader never sees half of one but for the last; wall-clock time beside it, so
// that a reader can take the truth between any two moments.
#ifndef TRUTH_H
#define TRUTH_H

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t truth_stop;
static void truth_on_signal(int signal_number) { (void)signal_number; truth_stop = 1; }

static inline uint64_t truth_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Opens the log and makes SIGTERM and SIGINT end the workload after a last line.
static inline int truth_open(const char *path) {
    struct sigaction action = {.sa_handler = truth_on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) { perror(path); exit(2); }
    return fd;
}

static inline void truth_write(int fd, uint64_t alpha_ns, uint64_t beta_ns) {
    char line[160];
    int n = snprintf(line, sizeof line, "{\"unix_ns\":%llu,\"alpha_ns\":%llu,\"beta_ns\":%llu}\n",
                     (unsigned long long)truth_clock(CLOCK_REALTIME), (unsigned long long)alpha_ns,
                     (unsigned long long)beta_ns);
    if (write(fd, line, (size_t)n) != n) { perror("truth"); exit(2); }
}

// xorshift64*: the slices are random, and the same for the same seed.
static inline uint64_t truth_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12; x ^= x << 25; x ^= x >> 27;
    *state = x;
    return x * 2685821657736338717u;
}

// Work of a known kind that no compiler removes: so many dependent multiplications.
#define TRUTH_SPIN(rounds, sink) do { \
        uint64_t spin_value = (uint64_t)(rounds) | 1; \
        for (uint64_t spin_i = 0; spin_i < (uint64_t)(rounds); spin_i++) { \
            spin_value = spin_value * 6364136223846793005u + spin_i; \
            __asm__ volatile("" : "+r"(spin_value)); \
        } \
        (sink) += spin_value; \
    } while (0)

#endif
