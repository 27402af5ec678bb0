// Pairwise invariants of an edge j -> i:
//   out[e, 0] = ||x_i - x_j||^2,  out[e, 1] = <x_i, x_j>   under a diagonal metric,
// each through psi(z) = sign(z) ln(1 + |z|) when asked.
#pragma once

#include "../core/graph.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

template <class T>
struct InvariantsArgs {
  GraphView graph;
  const T* x = nullptr;         // [num_nodes, dim]
  const T* grad_out = nullptr;  // [num_edges, 2], backward only
  T* out = nullptr;             // [num_edges, 2], forward
  T* grad_x = nullptr;          // [num_nodes, dim], backward
  double metric[kMaxDim] = {};
  int dim = 4;
  bool psi = true;
};

// CPU: the nodes [begin, end) as receivers (forward) or as owners of grad_x (backward).
template <class Isa, class T>
struct InvariantsCpu {
  static void forward(const InvariantsArgs<T>& args, int64_t begin, int64_t end);
  static void backward(const InvariantsArgs<T>& args, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
template <class T>
cudaError_t invariants_cuda(const InvariantsArgs<T>& args, cudaStream_t stream);  // backward with grad_x
#endif

}  // namespace ek
