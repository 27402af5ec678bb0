// Activations of single numbers, for the passes over tiles: a GPU's own, and on the CPU those of vectors.
#pragma once

#include "edge_tile_passes.h"
#if defined(__CUDACC__)
#include "../simd/activation.cuh"
#else
#include "../simd/more_activations.h"
#endif

namespace ek {

#if defined(__CUDACC__)
template <class T, class F>
EK_RUN void over_activation(Activation kind, double slope, F&& f) {
  with_device_activation<T>(kind, slope, f);
}
#else
namespace {
template <class T, class Vectors>
struct Single {
  Vectors vectors;
  T value(T a) const { return vectors.value(broadcast<T>(a))[0]; }
  T slope(T a) const {
    Vec<T> d;
    vectors.both(broadcast<T>(a), d);
    return d[0];
  }
};
}  // namespace
template <class T, class F>
inline void over_activation(Activation kind, double slope, F&& f) {
  with_activation<T>(kind, slope, [&](auto act) { f(Single<T, decltype(act)>{act}); });
}
#endif

}  // namespace ek
