// Launch arithmetic and warp helpers shared by the CUDA kernels. One warp owns one node: its lanes stride over the
// node's edges, and sums over lanes are butterfly reductions, so results do not depend on scheduling.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "graph.h"

namespace ek {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarpsPerBlock = kThreads / kWarp;

// Blocks for `items` warps; kernels stride over what a capped grid leaves.
inline unsigned warp_grid(int64_t items) {
  const int64_t blocks = (items + kWarpsPerBlock - 1) / kWarpsPerBlock;
  return unsigned(blocks < 1 ? 1 : blocks > 0x7fffffff ? 0x7fffffff : blocks);
}

__device__ inline int64_t first_warp() { return int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp; }
__device__ inline int64_t warp_step() { return int64_t(gridDim.x) * kWarpsPerBlock; }
__device__ inline int lane() { return threadIdx.x % kWarp; }

template <class T>
__device__ inline T warp_sum(T v) {
#pragma unroll
  for (int w = kWarp / 2; w > 0; w /= 2) v += __shfl_xor_sync(0xffffffffu, v, w);
  return v;
}

}  // namespace ek
