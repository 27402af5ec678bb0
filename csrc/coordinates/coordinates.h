// Coordinate update of a node i from its edges j -> i:
//   out_i = x_i + c * agg_j clamp(w_ij d_ij, -bound, bound),   d_ij = x_i - x_j, or x_j,
// agg the sum or the mean; a node that receives no edge keeps x_i.
#pragma once

#include "../core/graph.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

template <class T>
struct CoordinatesArgs {
  GraphView graph;
  const T* x = nullptr;         // [num_nodes, dim]
  const T* weight = nullptr;    // [num_edges]
  const T* grad_out = nullptr;  // [num_nodes, dim], backward only
  T* out = nullptr;             // forward: [num_nodes, dim]; backward: grad_x
  T* grad_weight = nullptr;     // [num_edges], backward only
  int dim = 4;
  T c = 1;
  T bound = 0;           // of clamp
  bool bounded = false;  // whether there is a clamp
  bool mean = true;
  bool difference = true;  // d_ij = x_i - x_j

  // What a message of a node with `count` received edges is multiplied by on its way into out.
  EK_HD T scale(int64_t count) const { return mean && count > 1 ? c / T(count) : c; }
};

// CPU: the nodes [begin, end) as receivers (forward), or as owners of grad_x and of the received edges' grad_weight.
template <class Isa, class T>
struct CoordinatesCpu {
  static void forward(const CoordinatesArgs<T>& args, int64_t begin, int64_t end);
  static void backward(const CoordinatesArgs<T>& args, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
template <class T>
cudaError_t coordinates_forward_cuda(const CoordinatesArgs<T>& args, cudaStream_t stream);
template <class T>
cudaError_t coordinates_backward_cuda(const CoordinatesArgs<T>& args, cudaStream_t stream);
#endif

}  // namespace ek
