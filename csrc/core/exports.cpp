// Functions of the op library that Python calls directly.
#include <algorithm>
#include <chrono>
#include <string>

#include "../peak/peak.h"
#include "cpu.h"

#define EK_EXPORT extern "C" __attribute__((visibility("default")))

// request < 0 asks for the instruction set in use; otherwise switches to that set.
// Returns the set then in use, or -1 where the CPU or the build lacks the one asked for.
EK_EXPORT int equikernels_isa(int request) {
  if (request >= 0 && !ek::select_isa(ek::Isa(request))) return -1;
  return int(ek::active_isa());
}

// The multiply-add loop of the set in use, on the calling thread. Returns operations done.
EK_EXPORT double equikernels_multiply_adds(int64_t iterations) {
  double done = 0;
  ek::dispatch_isa([&](auto isa) { done = ek::Peak<decltype(isa)>::float_multiply_adds(iterations); });
  return done;
}

// How many bfloat16 products this CPU adds up in the time of a float32 one, measured once, in 50 us; 0 if it has none.
// Some CPUs have the instruction, but no faster unit for it.
EK_EXPORT double equikernels_bfloat16_rate() {
#if defined(EK_HAVE_AVX512BF16)
  static const double rate = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw")) return 0.0;
    const auto fastest = [](auto&& loop) {
      double least = 1e9;
      for (int k = 0; k < 6; ++k) {  // the first warms up
        const auto begin = std::chrono::steady_clock::now();
        loop(500);
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      }
      return least;
    };
    const double full = fastest([](int64_t n) { ek::Peak<ek::Avx512>::float_multiply_adds(n); });
    return 2 * full / fastest([](int64_t n) { ek::Peak<ek::Avx512Bf16>::bfloat16_products(n); });
  }();
  return rate;
#else
  return 0;
#endif
}

// Instruction sets of this CPU that the kernels can use, separated by spaces.
EK_EXPORT const char* equikernels_cpu_features() {
  static const std::string features = [] {
    std::string names;
#if defined(__x86_64__)
    __builtin_cpu_init();
#define EK_FEATURE(name) \
  if (__builtin_cpu_supports(name)) names += names.empty() ? name : " " name
    EK_FEATURE("avx2");
    EK_FEATURE("fma");
    EK_FEATURE("avx512f");
    EK_FEATURE("avx512bw");
    EK_FEATURE("avx512dq");
    EK_FEATURE("avx512vl");
    EK_FEATURE("avx512bf16");
#endif
    return names;
  }();
  return features.c_str();
}
