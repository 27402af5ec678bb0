// How passes reach a device. PassCpu runs a range of items; pass_cuda a block of threads for each item.
#pragma once

#include "columns.h"
#include "edge_norm.h"
#include "edge_sums.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

template <class Isa, class Pass>
struct PassCpu {
  static void run(const Pass& pass, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
template <class Pass>
cudaError_t pass_cuda(const Pass& pass, int64_t items, cudaStream_t stream);
#endif

// Every pass, for the files that compile them.
#define EK_PASSES_OF(EK_PASS, ...)       \
  EK_PASS(CopyColumns<__VA_ARGS__>)      \
  EK_PASS(FoldNorm<__VA_ARGS__>)         \
  EK_PASS(FoldNormGradient<__VA_ARGS__>) \
  EK_PASS(NormSenders<__VA_ARGS__>)      \
  EK_PASS(NormReceivers<__VA_ARGS__>)    \
  EK_PASS(NormTranspose<__VA_ARGS__>)    \
  EK_PASS(NormMeans<__VA_ARGS__>)        \
  EK_PASS(NormFinishMeans<__VA_ARGS__>)  \
  EK_PASS(NormSquares<__VA_ARGS__>)      \
  EK_PASS(NormFold<__VA_ARGS__>)         \
  EK_PASS(NormColumns<__VA_ARGS__>)      \
  EK_PASS(NormTables<__VA_ARGS__>)       \
  EK_PASS(NormGradSums<__VA_ARGS__>)     \
  EK_PASS(NormGradFold<__VA_ARGS__>)     \
  EK_PASS(NormGradTables<__VA_ARGS__>)   \
  EK_PASS(NormGradWeights<__VA_ARGS__>)  \
  EK_PASS(NormNodePull<__VA_ARGS__>)     \
  EK_PASS(SumsFromMoments<__VA_ARGS__>)  \
  EK_PASS(MomentsPull<__VA_ARGS__>)      \
  EK_PASS(FinishGram<__VA_ARGS__>)
#define EK_EDGE_PASSES_OF(EK_PASS, ...) \
  EK_PASS(EdgeSums<__VA_ARGS__>)        \
  EK_PASS(EdgePull<__VA_ARGS__>)
#define EK_EACH_PASS(EK_PASS)               \
  EK_PASSES_OF(EK_PASS, float)              \
  EK_PASSES_OF(EK_PASS, double)             \
  EK_EDGE_PASSES_OF(EK_PASS, float, float)  \
  EK_EDGE_PASSES_OF(EK_PASS, float, double) \
  EK_EDGE_PASSES_OF(EK_PASS, double, double)

}  // namespace ek
