// The choice of instruction set.
#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace ek {
namespace {

bool supported(Isa isa) {
  switch (isa) {
    case Isa::baseline: return true;
#if defined(EK_HAVE_AVX2)
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(EK_HAVE_AVX512)
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && supported(Isa::avx2);
#endif
    default: return false;
  }
}

Isa initial_isa() {
  const char* names[] = {"baseline", "avx2", "avx512"};
  const char* wanted = std::getenv("EQUIKERNELS_CPU");
  for (int i = 2; i >= 0; --i)
    if (supported(Isa(i)) && (!wanted || !*wanted || std::strcmp(wanted, names[i]) == 0)) return Isa(i);
  return Isa::baseline;  // the Python side reports an EQUIKERNELS_CPU that cannot be had
}

std::atomic<Isa> current{initial_isa()};

}  // namespace

Isa active_isa() { return current.load(std::memory_order_relaxed); }

bool select_isa(Isa isa) {
  if (!supported(isa)) return false;
  current.store(isa, std::memory_order_relaxed);
  return true;
}

}  // namespace ek
