// Runs the passes over tiles: a block of threads for each group, or a warp for each row.
#include "../core/launch.cuh"
#include "passes.h"
#include "tile_activation.h"

namespace ek {
namespace {

struct WarpLanes {
  static constexpr int kLanes = kWarp;
  int lane;
  template <class V>
  __device__ V sum(V v) const {
    return team_sum(v, kWarp);
  }
};

template <class Pass>
__global__ void run_tile_pass(Pass pass, int64_t items) {
  if constexpr (__is_base_of(RowPass, Pass))
    for (int64_t row = first_warp(); row < items; row += warp_step()) pass.run(row, WarpLanes{lane()});
  else
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) pass.template run<kThreads>(item, threadIdx.x);
}

}  // namespace

template <class Pass>
cudaError_t pass_cuda(const Pass& pass, int64_t items, cudaStream_t stream) {
  if (items == 0) return cudaSuccess;
  constexpr int64_t kMostBlocks = 1 << 14;  // of warps that take several rows one after the other
  const int64_t blocks = __is_base_of(RowPass, Pass) ? (items + kWarpsPerBlock - 1) / kWarpsPerBlock : items;
  return launch(run_tile_pass<Pass>, unsigned(blocks < kMostBlocks ? blocks : kMostBlocks), 0, stream, pass, items);
}

#define EK_COMPILE(...) template cudaError_t pass_cuda(const __VA_ARGS__&, int64_t, cudaStream_t);
EK_EACH_TILE_PASS(EK_COMPILE)
EK_EACH_HALF_TILE_PASS(EK_COMPILE)

}  // namespace ek
