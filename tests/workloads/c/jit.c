// jit SECONDS: code that it writes into memory of no file. Some of it has a frame and calls back, some is a leaf without one;
// every few milliseconds it lies somewhere else.
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include "truth.h"

static volatile uint64_t sink;
typedef void (*framed)(void (*callback)(void));
typedef uint64_t (*leaf)(uint64_t rounds);

#if defined(__x86_64__)
// push rbp; mov rbp, rsp; call rdi; pop rbp; ret
static const uint8_t framed_code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
// dec rdi; jnz -5; xor eax, eax; ret
static const uint8_t leaf_code[] = {0x48, 0xff, 0xcf, 0x75, 0xfb, 0x31, 0xc0, 0xc3};
#elif defined(__aarch64__)
// stp x29, x30, [sp, -16]!; mov x29, sp; blr x0; ldp x29, x30, [sp], 16; ret
static const uint32_t framed_code[] = {0xa9bf7bfd, 0x910003fd, 0xd63f0000, 0xa8c17bfd, 0xd65f03c0};
// subs x0, x0, 1; b.ne -4; ret
static const uint32_t leaf_code[] = {0xf1000400, 0x54ffffe1, 0xd65f03c0};
#endif

__attribute__((noinline)) static void jit_callee(void) { uint64_t s = 0; TRUTH_SPIN(20000, s); sink += s; }
__attribute__((noinline)) static void call_framed(char *code) { ((framed)(void *)code)(jit_callee); sink++; }
__attribute__((noinline)) static void call_leaf(char *code) { sink += ((leaf)(void *)code)(50000); }

int main(int argc, char **argv) {
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000000u;
    while (truth_clock(CLOCK_MONOTONIC) < end) {
        char *code = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code == MAP_FAILED) { perror("mmap"); return 2; }
        memcpy(code + 256, framed_code, sizeof framed_code);
        memcpy(code + 512, leaf_code, sizeof leaf_code);
        __builtin___clear_cache(code, code + 1024);
        for (int i = 0; i < 100; i++) { call_framed(code + 256); call_leaf(code + 512); }
        munmap(code, 1 << 16);
    }
    return 0;
}
