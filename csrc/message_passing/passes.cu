// A block of threads for each item of a pass, a thread for every kThreads-th channel.
#include "../core/launch.cuh"
#include "passes.h"

namespace ek {
namespace {

template <class Pass>
__global__ void run_pass(Pass pass, int64_t items) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) pass.template run<kThreads>(item, threadIdx.x);
}

}  // namespace

template <class Pass>
cudaError_t pass_cuda(const Pass& pass, int64_t items, cudaStream_t stream) {
  if (items == 0) return cudaSuccess;
  return launch(run_pass<Pass>, grid_for(items, 1), 0, stream, pass, items);
}

#define EK_COMPILE(...) template cudaError_t pass_cuda(const __VA_ARGS__&, int64_t, cudaStream_t);
EK_EACH_PASS(EK_COMPILE)

}  // namespace ek
