// Launches and warp helpers shared by the CUDA kernels. A warp, or a team of its lanes, owns a node: its lanes stride
// over the node's edges, and sums over lanes are butterfly reductions, so results do not depend on scheduling.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "graph.h"
#include "schedule.h"
#include "shared_memory.h"

namespace ek {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarpsPerBlock = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks for `items` that a block takes `per_block` at a time; kernels stride over what a capped grid leaves.
inline unsigned grid_for(int64_t items, int64_t per_block) {
  constexpr int64_t kMost = 0x7fffffff;
  const int64_t blocks = ceil_div(items, per_block);
  return unsigned(blocks < 1 ? 1 : blocks > kMost ? kMost : blocks);
}
inline unsigned warp_grid(int64_t warps) { return grid_for(warps, kWarpsPerBlock); }

// The one way kernels are launched: kThreads a block, or as many as said, and `shared` bytes of block_memory(), for
// more than 48 kB of which a kernel has to be asked. The error of this launch, no earlier one, is returned.
template <class... P, class... A>
inline cudaError_t launch_threads(void (*kernel)(P...), unsigned blocks, unsigned threads, size_t shared,
                                  cudaStream_t stream, A&&... args) {
  if (shared > kUnaskedShared)
    if (const auto error = ask_for_shared(reinterpret_cast<const void*>(kernel)); error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
}
template <unsigned kPerBlock = kThreads, class... P, class... A>
inline cudaError_t launch(void (*kernel)(P...), unsigned blocks, size_t shared, cudaStream_t stream, A&&... args) {
  return launch_threads(kernel, blocks, kPerBlock, shared, stream, std::forward<A>(args)...);
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

// Lanes that share a node: a power of two, the fewest that cover twice the edges of an average node of a sparse graph.
inline int team_of(const GraphView& g) {
  int team = g.complete() ? kWarp : 4;
  while (team < kWarp && team * (g.num_nodes / 2) < g.num_edges) team *= 2;
  return team;
}
inline unsigned team_grid(int64_t nodes, int team) { return grid_for(nodes, kThreads / team); }

// f(node, its event, this lane's number in the team, whether there is such a node): a whole warp calls f together.
template <class F>
__device__ inline void over_nodes(const GraphView& g, int team, F&& f) {
  const int per_warp = kWarp / team;
  for (int64_t first = first_warp() * per_warp; first < g.num_nodes; first += warp_step() * per_warp) {
    const int64_t own = first + lane() / team, i = own < g.num_nodes ? own : g.num_nodes - 1;
    f(i, g.complete() ? g.event_of(i) : 0, lane() & (team - 1), own < g.num_nodes);
  }
}

// The sum over s < count of term(s), in float64, in one order: warps take every eighth of them, lanes have terms of
// their own. All threads call it, with block_memory() of kThreads doubles; the first warp gets the sums.
template <class F>
__device__ inline double sum_by_warps(int64_t count, F&& term) {
  double* const sums = block_memory<double>();
  double sum = 0;
#pragma unroll 8
  for (int64_t s = threadIdx.x / kWarp; s < count; s += kWarpsPerBlock) sum += double(term(s));
  __syncthreads();
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int w = 1; w < kWarpsPerBlock; ++w) sum += sums[w * kWarp + lane()];
  return sum;
}

template <class T>
__device__ inline T team_sum(T v, int team) {
  for (int w = team / 2; w > 0; w /= 2) v += __shfl_xor_sync(kAllLanes, v, w);
  return v;
}

}  // namespace ek
