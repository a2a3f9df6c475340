// runmapped FILE OFFSET COMM SECONDS
// Maps FILE executable and spends its time in the machine code at OFFSET in it, under the thread name COMM.
// FILE may be any garbage around that code: what a profiler then reads of it is not what it expects.
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include "truth.h"

int main(int argc, char **argv) {
    if (argc < 5) { fprintf(stderr, "usage: runmapped FILE OFFSET COMM SECONDS\n"); return 2; }
    int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    struct stat file;
    if (fd < 0 || fstat(fd, &file) != 0) { perror("runmapped"); return 2; }
    char *image = mmap(NULL, (size_t)file.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    if (image == MAP_FAILED) { perror("mmap"); return 2; }
    close(fd);
    prctl(PR_SET_NAME, argv[3]);
    uint64_t (*spin)(uint64_t rounds) = (uint64_t (*)(uint64_t))(void *)(image + strtoull(argv[2], NULL, 10));
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + strtoull(argv[4], NULL, 10) * 1000000000u;
    uint64_t sum = 0;
    while (truth_clock(CLOCK_MONOTONIC) < end) sum += spin(1000000);
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
