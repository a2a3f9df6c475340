// named NAME SECONDS: calls itself NAME (`-`: a random one), and has children of that name that live 50 ms each, so that
// whoever looks for a process's container has little time.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

__attribute__((noinline)) static void burn(clockid_t clock, uint64_t nanoseconds) {
    struct timespec t;
    clock_gettime(clock, &t);
    uint64_t end = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec + nanoseconds;
    do {
        uint64_t value = 1;
        for (uint64_t i = 0; i < 50000; i++) { value = value * 6364136223846793005u + i; __asm__ volatile("" : "+r"(value)); }
        sink += value;
        clock_gettime(clock, &t);
    } while ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec < end);
}

int main(int argc, char **argv) {
    if (argc < 3) { fprintf(stderr, "usage: named NAME SECONDS\n"); return 2; }
    signal(SIGTERM, SIG_DFL);
    char name[16];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (argv[1][0] == '-') {
        snprintf(name, sizeof name, "n-%012llx", ((unsigned long long)now.tv_nsec << 18 ^ (unsigned long long)now.tv_sec) & 0xffffffffffffu);
    } else {
        snprintf(name, sizeof name, "%s", argv[1]);
    }
    prctl(PR_SET_NAME, name, 0, 0, 0);
    time_t end = time(NULL) + atoi(argv[2]);
    while (time(NULL) < end) {
        pid_t child = fork();
        if (child == 0) { burn(CLOCK_PROCESS_CPUTIME_ID, 50000000u); _exit(0); }
        burn(CLOCK_PROCESS_CPUTIME_ID, 50000000u);
        if (child > 0) waitpid(child, NULL, 0);
    }
    return 0;
}
