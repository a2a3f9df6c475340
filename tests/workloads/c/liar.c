// liar KIND SECONDS: spends its time in a function whose unwind information is not true.
//   below     the caller's frame would be below this one       itself   the caller's frame would be this one
//   endless   every word of the stack is this function again   far      the caller's frame would be far above the stack
//   heap      the frame pointer leads to memory of the heap that looks like an endless chain of frames
//   kernel    the frame pointer leads to the kernel's addresses     low      to the first page
//   signal    it would be a signal's frame, which was interrupted where it stands
//   deref     the frame's address would be read from the heap       program  a program that divides by nothing says it
#include <string.h>
#include "truth.h"
#if defined(__x86_64__)
#define SPIN "1: dec %rdi\n jnz 1b\n"
#define LIE(name, rows) \
    __asm__(".text\n.type lie_" #name ", @function\nlie_" #name ":\n.cfi_startproc\n" rows SPIN "ret\n.cfi_endproc\n.size lie_" #name ", .-lie_" #name "\n"); \
    void lie_##name(uint64_t rounds, void *base);
// The same with a frame pointer that is whatever the caller says.
#define LIE_FP(name, rows) \
    __asm__(".text\n.type lie_" #name ", @function\nlie_" #name ":\n.cfi_startproc\npush %rbp\nmov %rsi, %rbp\n" rows SPIN "pop %rbp\nret\n.cfi_endproc\n.size lie_" #name ", .-lie_" #name "\n"); \
    void lie_##name(uint64_t rounds, void *base);
LIE(below, ".cfi_def_cfa %rsp, -4096\n")
LIE(itself, ".cfi_def_cfa %rsp, 0\n")
LIE(endless, ".cfi_def_cfa %rsp, 8\n")
LIE(far, ".cfi_def_cfa %rsp, 4194304\n")
LIE_FP(heap, ".cfi_def_cfa %rbp, 16\n.cfi_offset %rbp, -16\n")
LIE_FP(kernel, ".cfi_def_cfa %rbp, 16\n.cfi_offset %rbp, -16\n")
LIE_FP(low, ".cfi_def_cfa %rbp, 16\n.cfi_offset %rbp, -16\n")
LIE(signal, ".cfi_signal_frame\n.cfi_def_cfa %rsp, 8\n")
// DW_CFA_def_cfa_expression: DW_OP_breg6 (rbp) 0, DW_OP_deref
LIE_FP(deref, ".cfi_escape 0x0f, 0x03, 0x76, 0x00, 0x06\n")
// DW_CFA_def_cfa_expression: DW_OP_lit1, DW_OP_lit0, DW_OP_div
LIE(program, ".cfi_escape 0x0f, 0x03, 0x31, 0x30, 0x1b\n")

static uint64_t chain[8192];

// Frames that make the walk of `endless` and `signal` find what they want above them.
__attribute__((noinline)) static void lie_on(void (*lie)(uint64_t, void *), void *base, uint64_t filler) {
    volatile uint64_t stack[4096];
    for (unsigned i = 0; i < 4096; i++) stack[i] = filler;
    lie(1000000, base);
    __asm__ volatile("" : : "r"(&stack) : "memory");
}

int main(int argc, char **argv) {
    if (argc < 3) { fprintf(stderr, "usage: liar KIND SECONDS\n"); return 2; }
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + strtoull(argv[2], NULL, 10) * 1000000000u;
    static const struct { const char *name; void (*lie)(uint64_t, void *); } lies[] = {
        {"below", lie_below}, {"itself", lie_itself}, {"endless", lie_endless}, {"far", lie_far}, {"heap", lie_heap},
        {"kernel", lie_kernel}, {"low", lie_low}, {"signal", lie_signal}, {"deref", lie_deref}, {"program", lie_program}};
    void (*lie)(uint64_t, void *) = NULL;
    for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) if (strcmp(lies[i].name, argv[1]) == 0) lie = lies[i].lie;
    if (!lie) { fprintf(stderr, "no such lie\n"); return 2; }
    // Pairs of a next frame and a return address; the last leads to the first, below it.
    for (unsigned i = 0; i < 8192; i += 2) { chain[i] = (uint64_t)&chain[(i + 2) % 8192]; chain[i + 1] = (uint64_t)lie + 4; }
    void *base = chain;
    if (lie == lie_kernel) base = (void *)0xffff888000000000u;
    if (lie == lie_low) base = (void *)16;
    while (truth_clock(CLOCK_MONOTONIC) < end) lie_on(lie, base, (uint64_t)lie + 4);
    return 0;
}
#else
int main(void) { fprintf(stderr, "these lies are told on x86-64 only\n"); return 3; }
#endif
