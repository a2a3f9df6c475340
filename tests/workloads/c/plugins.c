// plugins LEFT.so RIGHT.so SECONDS MILLISECONDS remap|dlopen
// Two libraries in turn at the same addresses: by dlopen and dlclose, or by mapping one's code over the other's. Each is called
// from a function of its own, so that a stack with both sides' functions is a false one. Says at the end how often it
// changed, and how often the other had been at the very same address before.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include "truth.h"

typedef uint64_t (*work)(uint64_t value);
static volatile uint64_t sink;
static uint64_t slice_ns;

// Not the same work: the compiler makes equal functions one.
#define CALLER(side, step) \
    __attribute__((noinline)) static void call_##side(work f) { \
        uint64_t end = truth_clock(CLOCK_MONOTONIC) + slice_ns; \
        do { sink += f(sink) + step; } while (truth_clock(CLOCK_MONOTONIC) < end); \
    }
CALLER(left, 1)
CALLER(right, 2)

static const char *const symbol[2] = {"left_work", "right_work"};

struct code { int fd; size_t bytes; off_t offset; size_t entry; };

// Where a library's code lies in its file, and the function in it.
static struct code code_of(const char *path, const char *name) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); exit(2); }
    void *function = dlsym(library, name);
    struct link_map *map;
    if (!function || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) { fprintf(stderr, "%s\n", dlerror()); exit(2); }
    size_t address = (size_t)function - map->l_addr;
    dlclose(library);
    struct code code = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
    ElfW(Ehdr) head;
    if (code.fd < 0 || pread(code.fd, &head, sizeof head, 0) != sizeof head) { perror(path); exit(2); }
    for (int i = 0; i < head.e_phnum; i++) {
        ElfW(Phdr) segment;
        if (pread(code.fd, &segment, sizeof segment, (off_t)(head.e_phoff + i * sizeof segment)) != sizeof segment) exit(2);
        if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X) || segment.p_offset % 4096) continue;
        code.offset = (off_t)segment.p_offset;
        code.bytes = segment.p_filesz;
        code.entry = address - segment.p_vaddr;
    }
    if (code.bytes == 0 || code.entry >= code.bytes) { fprintf(stderr, "%s: no code that can be mapped\n", path); exit(2); }
    return code;
}

int main(int argc, char **argv) {
    if (argc < 6) { fprintf(stderr, "usage: plugins LEFT.so RIGHT.so SECONDS MILLISECONDS remap|dlopen\n"); return 2; }
    int remap = strcmp(argv[5], "remap") == 0;
    struct code code[2] = {code_of(argv[1], symbol[0]), code_of(argv[2], symbol[1])};
    slice_ns = strtoull(argv[4], NULL, 10) * 1000000u;
    uint64_t end = truth_clock(CLOCK_MONOTONIC) + strtoull(argv[3], NULL, 10) * 1000000000u;
    char *room = remap ? mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
    if (room == MAP_FAILED) { perror("mmap"); return 2; }
    unsigned long changes = 0, same = 0;
    size_t before[2] = {0, 0};
    while (truth_clock(CLOCK_MONOTONIC) < end) {
        int side = changes++ & 1;
        void *library = NULL;
        work f;
        size_t at;
        if (remap) {
            char *place = mmap(room, code[side].bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, code[side].fd, code[side].offset);
            if (place == MAP_FAILED) { perror("mmap"); return 2; }
            at = (size_t)place;
            f = (work)(void *)(place + code[side].entry);
        } else {
            library = dlopen(argv[1 + side], RTLD_NOW);
            struct link_map *map;
            if (!library || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) { fprintf(stderr, "%s\n", dlerror()); return 2; }
            at = map->l_addr;
            f = (work)dlsym(library, symbol[side]);
            if (!f) { fprintf(stderr, "%s\n", dlerror()); return 2; }
        }
        before[side] = at;
        same += before[0] == before[1];
        if (side == 0) call_left(f); else call_right(f);
        if (library) dlclose(library);
    }
    printf("%lu changes, %lu at the same address\n", changes, same);
    return 0;
}
