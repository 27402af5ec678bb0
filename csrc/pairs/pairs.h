// Rank-2 tensors T [pairs, channels]: rows are the pairs (i, j) of an event's n particles, row-major, i = j included.
// A table [nodes, 3, channels] holds what is read from, or written to, the diagonal, the columns and the rows.
//   sum        table_i = (T_ii, sum over k of [k] w_k0 T_ki, sum over k of [k] w_k1 T_ik)
//   broadcast  T_ij = delta_ij table_i0 + [i] w_i0 table_j1 + [j] w_j1 table_i2
//   extremum   table_i = (T_ii, max or min over k of T_ki, the same of T_ik), and the k it comes from
//   mix        out_ij = act(T_ij W + T_ji V + what broadcast makes of a table)
// Weights w are [nodes, 2, channels], 1 where absent. [k] = 1 without `arg`; with it, particle k of the event counts
// for a column or row where arg [nodes, 2, channels] of that column or row is k. Sum and broadcast are each other's
// gradients, to any order; so are they, with arg, for extremum. act is the identity below slope 1, a ReLU at slope 0.
//
// Every number is summed in the same order, however the work is shared.
#pragma once

#include "../core/graph.h"
#include "../core/storage.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

template <class S>
struct Rank2Args {
  GraphView graph;  // complete, with self-loops
  int64_t channels = 0;
  const S* tensor = nullptr;     // sum, extremum
  const S* activated = nullptr;  // sum: what came out of act; the tensor is multiplied by act' there
  Accumulator<S> slope = 1;
  const S* table = nullptr;  // broadcast
  const S* weight = nullptr;
  const int32_t* arg = nullptr;
  bool largest = true;
  S* out = nullptr;            // a table, or broadcast's tensor
  int32_t* arg_out = nullptr;  // extremum
};

enum class Rank2Kernel : int { sum, broadcast, extremum };

// out_ij = act(...) with the gradient's pieces: with G_ij = act'(out_ij) grad_ij,
//   grad_tensor_ij = G_ij W^T + G_ji V^T + what broadcast makes of a table,  grad_W = sum of T_ij^T G_ij,  grad_V = sum
//   of T_ji^T G_ij.
template <class T>
struct Rank2MixArgs {
  GraphView graph;
  int64_t in = 0, width = 0;  // channels of the tensor and of the output
  const T* tensor = nullptr;
  const T *identity = nullptr, *transpose = nullptr;  // [in, width], one of them may be absent
  const T* table = nullptr;  // [nodes, 3, width], of the backward pass [nodes, 3, in]; or absent
  T slope = 1;
  T* out = nullptr;
  const T *grad = nullptr, *activated = nullptr;
  T* grad_tensor = nullptr;  // absent where not wanted, as the next
  T *grad_identity = nullptr, *grad_transpose = nullptr;
};

// The backward pass in shares that do not depend on the number of threads: nodes [first[k], first[k + 1]).
struct Rank2Plan {
  static constexpr int kMostChunks = 64;
  int chunks = 0;
  int64_t first[kMostChunks + 1] = {};
  int64_t chunk_bytes = 0;  // of the weights' gradient in each
};

// CPU: the nodes [begin, end).
template <class Isa, class T>
struct Rank2Cpu {
  static int64_t scratch_bytes(const Rank2Args<T>& args);
  static void run(Rank2Kernel kernel, const Rank2Args<T>& args, void* scratch, int64_t begin, int64_t end);
};

template <class Isa, class T>
struct Rank2MixCpu {
  static int64_t packed_bytes(const Rank2MixArgs<T>& args, bool backward);
  static void pack(const Rank2MixArgs<T>& args, bool backward, void* packed);
  static void forward(const Rank2MixArgs<T>& args, const void* packed, void* scratch, int64_t begin, int64_t end);

  static Rank2Plan plan(const Rank2MixArgs<T>& args);
  static int64_t scratch_bytes(const Rank2MixArgs<T>& args, bool backward);
  static void backward(const Rank2MixArgs<T>& args, const void* packed, const Rank2Plan& plan, int chunk,
                       void* partials, void* scratch);
  static void reduce_weights(const Rank2MixArgs<T>& args, const Rank2Plan& plan, void* partials);
};

// The mix where input and output together have few channels: lanes go across pairs, and nothing is packed. Its own
// file, so that the compiler leaves the other one's loops as they are.
template <class Isa, class T>
struct Rank2PlanesCpu {
  static bool fits(const Rank2MixArgs<T>& args);
  static int64_t scratch_bytes(const Rank2MixArgs<T>& args);
  static void forward(const Rank2MixArgs<T>& args, void* scratch, int64_t begin, int64_t end);
  // Adds to the weights' gradients, [in][padded width] each.
  static void backward(const Rank2MixArgs<T>& args, void* scratch, int64_t begin, int64_t end, T* to_identity,
                       T* to_transpose);
};

#if defined(EK_WITH_CUDA)
// Rows of `channels` in which sum and extremum leave parts of row sums; 0 where they need none.
template <class S>
int64_t rank2_cuda_parts(const Rank2Args<S>& args);
// parts, parts_from: that many rows or absent; the second for extremum.
template <class S>
cudaError_t rank2_cuda(Rank2Kernel kernel, const Rank2Args<S>& args, Accumulator<S>* parts, int32_t* parts_from,
                       cudaStream_t stream);
#endif

// Pairs in front of a node when its event's tiles (i, j) are worked on together with (j, i), from the diagonal on.
EK_HD int64_t tiles_before(const GraphView& g, int64_t node) {
  if (node >= g.num_nodes) return g.edge_ptr[g.num_events] + g.num_nodes;
  const int64_t b = g.event_of(node), n = g.ptr[b + 1] - g.ptr[b], p = node - g.ptr[b];
  return g.edge_ptr[b] + g.ptr[b] + p * (2 * n - p + 1);
}

}  // namespace ek
