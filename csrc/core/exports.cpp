// Functions of the op library that Python calls directly.
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
