// Kernels with a fault each, for the emulator to find; the launch arithmetic, for the tests to look at.
#include "../../csrc/common/launch.cuh"

using namespace ek;

namespace {

__global__ void sound(float* p) {
  float* tile = block_memory<float>();
  tile[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  const float sum = team_sum(tile[(threadIdx.x + 32) % kThreads], kWarp);
  if (lane() == 0) p[threadIdx.x / kWarp] = sum;
}
__global__ void no_barrier(float* p) {
  float* tile = block_memory<float>();
  tile[threadIdx.x] = 1;
  p[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}
__global__ void barrier_left_out_by_some(float*) {
  if (threadIdx.x < 100) __syncthreads();
}
__global__ void two_barriers(float*) {
  if (threadIdx.x < 128)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void shuffle_after_some_left(float* p) {
  if (lane() > 7) return;
  p[threadIdx.x] = team_sum(1.f, kWarp);
}
__global__ void shuffle_against_barrier(float* p) {
  if (lane() == 3) __syncthreads();
  p[threadIdx.x] = team_sum(1.f, kWarp);
  if (lane() != 3) __syncthreads();
}
__global__ void shuffle_from_outside_the_mask(float* p) {
  if (lane() < 4) p[threadIdx.x] = __shfl_xor_sync(0xfu, 1.f, 4);
}
__global__ void too_much_shared_memory(float*) { block_memory<float>()[kThreads + threadIdx.x % 2] = 1; }
__global__ void votes_and_shifts(float* p) {
  const unsigned odd = __ballot_sync(kAllLanes, lane() % 2 == 1);
  const float before = __shfl_up_sync(kAllLanes, float(threadIdx.x), 1), fifth = __shfl_sync(kAllLanes, before, 5);
  p[threadIdx.x] = odd == 0xaaaaaaaau && __ffs(int(odd)) == 2 ? before + 1000 * fifth : -1;
}
__global__ void last_block_wins(float* p) { p[0] = float(blockIdx.x); }

using Probe = void (*)(float*);
const std::pair<Probe, unsigned> kProbes[] = {
    {sound, 1},
    {no_barrier, 1},
    {barrier_left_out_by_some, 1},
    {two_barriers, 1},
    {shuffle_after_some_left, 1},
    {shuffle_against_barrier, 1},
    {shuffle_from_outside_the_mask, 1},
    {too_much_shared_memory, 1},
    {last_block_wins, 3},
    {votes_and_shifts, 1},
};

}  // namespace

extern "C" __attribute__((visibility("default"))) int run_probe(int which, float* p) {
  return launch(kProbes[which].first, kProbes[which].second, kThreads * sizeof(float), nullptr, p);
}
extern "C" __attribute__((visibility("default"))) int64_t grid_of(int64_t items, int64_t per_block) {
  return grid_for(items, per_block);
}
