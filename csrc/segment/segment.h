// Sums, extrema and softmax over the edges of each node. Rows have `channels` entries; e is an edge, i its receiver,
// j its sender, w its weight (1 without), and [e] is 0 or 1:
//   sum              rows of edges:      out_i = sum over e received by i of [e] w_e source_e
//                    rows of senders:    out_i = sum over e received by i of [e] w_e source_j
//                    rows of receivers:  out_j = sum over e sent by j of     [e] w_e source_i
//   gather_to_edges  out_e = [e] source_i
//   edge_dot         out_e = sum over channels (or each channel) of [e] source_i other_j
//   extremum         out_i = max or min over e received by i of w_e source_e or w_e source_j, and the edge it comes
//   from softmax          out_e = exp(source_e) / sum over edges e' received by i of exp(source_e'), and its gradient
// [e] = 1 without `arg`; with it, channel c of edge e counts where arg[i, c] == e. Sum, gather_to_edges and edge_dot
// are each other's gradients, to any order; with arg, so they are for extremum. Rows are walked in slot order: the sum
// of a node is the same however the work is shared.
#pragma once

#include "../core/graph.h"
#include "../core/storage.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

enum class RowsOf : int { edges = 0, senders = 1, receivers = 2 };
enum class Weight : int { none = 0, edge = 1, channel = 2 };  // [num_edges] or [num_edges, channels]

template <class S>
struct SegmentArgs {
  GraphView graph;
  int64_t channels = 0;
  const S* source = nullptr;  // [num_edges, channels] or [num_nodes, channels]
  const S* other = nullptr;   // edge_dot: [num_nodes, channels]; softmax gradient: the softmax [num_edges, channels]
  const S* weight = nullptr;
  const int64_t* arg = nullptr;  // [num_nodes, channels]
  S* out = nullptr;
  const int64_t* receiver = nullptr;  // CPU, gather_to_edges without arg: [num_edges]; the work is then shared by edges
  int64_t* arg_out = nullptr;         // extremum: [num_nodes, channels], -1 where nothing is received
  RowsOf rows = RowsOf::edges;
  Weight weights = Weight::none;
  bool mean = false;         // sum: divide by the number of edges
  bool largest = true;       // extremum: max; otherwise min
  bool per_channel = false;  // edge_dot
};

enum class SegmentKernel : int { sum, gather_to_edges, edge_dot, extremum, softmax, softmax_gradient };

// CPU: the nodes [begin, end), as receivers (sum of receivers' rows: as senders).
template <class Isa, class S>
struct SegmentCpu {
  static void run(SegmentKernel kernel, const SegmentArgs<S>& args, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
template <class S>
cudaError_t segment_cuda(SegmentKernel kernel, const SegmentArgs<S>& args, cudaStream_t stream);
#endif

}  // namespace ek
