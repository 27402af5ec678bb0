// Launches and warp helpers shared by the CUDA kernels. One warp owns one node: its lanes stride over the node's
// edges, and sums over lanes are butterfly reductions, so results do not depend on scheduling.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "graph.h"

namespace ek {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarpsPerBlock = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks for `items` that a block takes `per_block` at a time; kernels stride over what a capped grid leaves.
inline unsigned grid_for(int64_t items, int64_t per_block) {
  constexpr int64_t kMost = 0x7fffffff;
  const int64_t blocks = items / per_block + (items % per_block != 0);
  return unsigned(blocks < 1 ? 1 : blocks > kMost ? kMost : blocks);
}
inline unsigned warp_grid(int64_t warps) { return grid_for(warps, kWarpsPerBlock); }

// The one way kernels are launched: kThreads a block, `shared` bytes of block_memory(). The error of this launch, no
// earlier one, is returned.
template <class... P, class... A>
inline cudaError_t launch(void (*kernel)(P...), unsigned blocks, size_t shared, cudaStream_t stream, A&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
}

__device__ inline int64_t first_warp() { return int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp; }
__device__ inline int64_t warp_step() { return int64_t(gridDim.x) * kWarpsPerBlock; }
__device__ inline int lane() { return threadIdx.x % kWarp; }

// The shared memory a launch asked for.
template <class T>
__device__ inline T* block_memory() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

template <class T>
__device__ inline T warp_sum(T v) {
#pragma unroll
  for (int w = kWarp / 2; w > 0; w /= 2) v += __shfl_xor_sync(kAllLanes, v, w);
  return v;
}

}  // namespace ek
