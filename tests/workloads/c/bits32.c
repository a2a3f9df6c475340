// bits32 SECONDS of CPU time at least: a 32-bit program of nothing but itself, so that no 32-bit library is needed.
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
static volatile unsigned sink;
__attribute__((noinline)) static void spin32(unsigned rounds) {
    unsigned value = rounds | 1;
    for (unsigned i = 0; i < rounds; i++) { value = value * 1664525u + i; __asm__ volatile("" : "+r"(value)); }
    sink += value;
}
__attribute__((used, noinline)) static void run32(int *stack) {
    unsigned seconds = 0;
    if (stack[0] > 1) for (const char *text = (const char *)stack[2]; *text >= '0' && *text <= '9'; text++) seconds = seconds * 10 + (unsigned)(*text - '0');
    long end = call(13, 0, 0, 0) + (long)(seconds ? seconds : 10);
    while (call(13, 0, 0, 0) < end) spin32(1000000);
    call(1, 0, 0, 0);
}
__asm__(".globl _start\n_start: xorl %ebp, %ebp\n movl %esp, %eax\n andl $-16, %esp\n subl $12, %esp\n pushl %eax\n call run32\n hlt\n");
