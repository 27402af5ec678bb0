// Measures what multiplies bfloat16 numbers.
#include "bfloat16_unit.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "../peak/peak.h"
#include "isa.h"

namespace ek {
namespace {

#if defined(EK_HAVE_AMX)
// Linux gives a process its tiles on request, and forbids them otherwise.
bool tiles_granted() {
#if defined(EK_PLAIN_TILES)
  return true;
#elif defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#endif

#if defined(EK_HAVE_AVX512BF16)
// Operations a second, the most of six times; 0 if the loop does none. The first warms up.
template <class F>
double speed(F&& loop) {
  double most = 0;
  for (int k = 0; k < 6; ++k) {
    const auto begin = std::chrono::steady_clock::now();
    const double done = loop();
    most = std::max(most, done / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return most;
}
#endif

Bfloat16Unit measured() {
  Bfloat16Unit found;
#if defined(EK_HAVE_AVX512BF16)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw")) return found;
  const double full = speed([] { return Peak<Avx512>::float_multiply_adds(500); });
  const auto offer = [&](Bfloat16Unit::Kind kind, double operations) {
    if (operations / full > found.rate) found = {kind, operations / full};
  };
  offer(Bfloat16Unit::pairs, speed([] { return Peak<Avx512Bf16>::bfloat16_products(500); }));
#if defined(EK_HAVE_AMX)
  if (tiles_granted()) offer(Bfloat16Unit::tiles, speed([] { return Peak<Amx>::bfloat16_products(100); }));
#endif
#endif
#if defined(EK_PLAIN_TILES)
  found = {Bfloat16Unit::tiles, 16};  // they are to be tested, not to be fast
#endif
  return found;
}

}  // namespace

const Bfloat16Unit& bfloat16_unit() {
  static const Bfloat16Unit unit = measured();
  return unit;
}

}  // namespace ek
