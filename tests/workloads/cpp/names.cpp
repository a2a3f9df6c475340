// names SECONDS: time in functions whose names the compiler mangles: a namespace, a template, an overload.
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace outer {
template <typename Number> struct Wheel {
    Number value = 1;
    __attribute__((noinline)) void turn(unsigned rounds) {
        for (unsigned i = 0; i < rounds; i++) { value = value * 7 + static_cast<Number>(i); asm volatile("" : "+m"(value)); }
    }
};
__attribute__((noinline)) void roll(Wheel<std::uint32_t> &wheel) { wheel.turn(50000); asm volatile(""); }
__attribute__((noinline)) void roll(Wheel<std::uint64_t> &wheel) { wheel.turn(50000); asm volatile(""); }
}  // namespace outer

int main(int argc, char **argv) {
    std::time_t end = std::time(nullptr) + (argc > 1 ? std::atoi(argv[1]) : 10);
    outer::Wheel<std::uint32_t> small;
    outer::Wheel<std::uint64_t> large;
    while (std::time(nullptr) < end) { outer::roll(small); outer::roll(large); }
    return static_cast<int>((small.value + large.value) & 0);
}
