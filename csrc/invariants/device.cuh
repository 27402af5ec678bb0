// Invariants of one edge, in one thread: the inner loop of every CUDA kernel in this folder.
#pragma once

#include "../core/minkowski.h"
#include "../simd/pack.cuh"

namespace ek {
namespace {

__device__ inline float psi(float z) { return copysignf(log1pf(fabsf(z)), z); }
__device__ inline double psi(double z) { return copysign(log1p(fabs(z)), z); }

// T: how coordinates are stored; they are multiplied in float64, those that are float64 with compensation.
template <int kDim, class T>
__device__ inline void invariants_of(const double* x, const double* y, const double* metric, double& interval,
                                     double& product) {
  interval_and_product<sizeof(T) == 8, double, DeviceFma>(x, y, metric, kDim, interval, product);
}

}  // namespace
}  // namespace ek
