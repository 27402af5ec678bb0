// Functions of the op library that Python calls directly.
#include <string>

#include "../graph/complete.h"
#include "../peak/peak.h"
#include "bfloat16_unit.h"
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

// How many bfloat16 products this CPU adds up in the time of a float32 one; 0 if it has none.
EK_EXPORT double equikernels_bfloat16_rate() { return ek::bfloat16_unit().rate; }

// What multiplies them: 1 dot products of pairs, 2 tiles.
EK_EXPORT int equikernels_bfloat16_unit() { return ek::bfloat16_unit().kind; }

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
    EK_FEATURE("amx-bf16");
#endif
    return names;
  }();
  return features.c_str();
}

// See complete.h. Tables are int64, on the host.
EK_EXPORT int64_t equikernels_complete_table(const int64_t* ptr, int64_t entries, int64_t nodes, int64_t self_loops,
                                             int64_t* table) {
  return ek::complete_table(ptr, entries, nodes, self_loops != 0, table);
}
EK_EXPORT void equikernels_prepended(const int64_t* ptr, int64_t entries, int64_t k, int64_t* table, int64_t* source) {
  ek::prepended(ptr, entries, k, table, source);
}
EK_EXPORT int64_t equikernels_spacelike(const void* p4, int64_t is_double, int64_t rows, int64_t step, double slack) {
  return is_double ? ek::spacelike(static_cast<const double*>(p4), rows, step, slack)
                   : ek::spacelike(static_cast<const float*>(p4), rows, step, slack);
}
