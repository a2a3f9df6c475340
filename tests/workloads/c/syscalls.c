// syscalls SECONDS: nearly all of its time is in the kernel, always under the same three callers.
#include "truth.h"
static char buffer[1 << 16];
static volatile long sink;
__attribute__((noinline)) static void sys_leaf(int fd) { sink += read(fd, buffer, sizeof buffer); }
__attribute__((noinline)) static void sys_middle(int fd) { for (int i = 0; i < 64; i++) sys_leaf(fd); sink++; }
__attribute__((noinline)) static void sys_outer(int fd) { for (int i = 0; i < 4; i++) sys_middle(fd); sink++; }
int main(int argc, char **argv) {
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000000u;
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (fd < 0) { perror("/dev/zero"); return 2; }
    while (truth_clock(CLOCK_MONOTONIC) < end) sys_outer(fd);
    return 0;
}
