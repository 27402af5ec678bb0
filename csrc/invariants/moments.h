// Sums of the invariants over the edges of each node, for statistics over all edges:
//   out[i] = ( sum of s over received edges [2], sum of s over sent edges [2],
//              sum over received edges of s_0^2, s_0 s_1, s_1^2 [3] ),  in float64.
#pragma once

#include "invariants.h"

namespace ek {

inline constexpr int kMoments = 7;

template <class T>
struct MomentsArgs {
  GraphView graph;
  const T* x = nullptr;              // [num_nodes, dim]
  double* out = nullptr;             // [num_nodes, 7], forward
  const double* grad_out = nullptr;  // [num_nodes, 7], backward
  T* grad_x = nullptr;               // [num_nodes, dim], backward
  double metric[kMaxDim] = {};
  int dim = 4;
  bool psi = true;
};

// CPU: the nodes [begin, end).
template <class Isa, class T>
struct MomentsCpu {
  static void forward(const MomentsArgs<T>& args, int64_t begin, int64_t end);
  static void backward(const MomentsArgs<T>& args, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
template <class T>
cudaError_t invariants_cuda(const MomentsArgs<T>& args, cudaStream_t stream);  // backward with grad_x
#endif

}  // namespace ek
