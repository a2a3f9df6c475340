// same SECONDS: a program that is built several times with other function names (-DNAME=...) and put at the same path.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) static void NAME(void) {
    uint64_t value = 1;
    for (uint64_t i = 0; i < 5000000; i++) { value = value * 6364136223846793005u + i; __asm__ volatile("" : "+r"(value)); }
    sink += value;
}

int main(int argc, char **argv) {
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 60);
    while (time(NULL) < end) NAME();
    return 0;
}
