// The k nearest nodes of every node among those of its event, or all within a radius.
//
// Distance squared of a pair: |sum_c metric_c (x_i - x_j)_c^2|, formed in float64. A pair whose distance is not
// finite is none. Of two neighbours equally far the one with the lower index comes first.
#pragma once

#include "../core/graph.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

enum class Separation {
  euclidean,    // metric all one
  periodic,     // the same, the last coordinate being an angle in [-pi, pi]
  signature,    // any diagonal metric
  compensated,  // any diagonal metric, as if in twice the precision
};

// Slots whose coordinate `along` is in [low, high], by rising coordinate `across`.
struct Strip {
  int64_t begin, end;
  double low, high;
};

// The order of an event's slots: by strips, themselves in order; without strips as its nodes are.
struct SlotOrder {
  int64_t first = 0, strips = 0;  // of all strips
  int64_t along = 0, across = 0;
};

// On the CPU nodes are searched in slots: those of event b are ptr[b] .. ptr[b + 1] - 1, as its nodes are, in another
// order. CUDA kernels look at all nodes of an event as they are, and read neither node, last, order nor strip.
struct NeighborsArgs {
  GraphView events;                   // complete
  const double* plane[kMaxDim] = {};  // [n + kSlack; CUDA: n] each: one coordinate of all slots
  const int64_t* node = nullptr;      // [n] slot -> node
  const int64_t* last = nullptr;      // [num_events] slots from here on hold nodes that are not finite
  const SlotOrder* order = nullptr;   // [num_events]
  const Strip* strip = nullptr;
  double metric[kMaxDim] = {};
  int dim = 0;
  Separation separation = Separation::euclidean;
  bool loop = false;               // whether a node is its own neighbour
  double limit = 0;                // largest distance squared of a neighbour, finite
  int64_t k = 0;                   // nearest only
  const int64_t* first = nullptr;  // within only: [n + 1] first output of each node
  int64_t* index = nullptr;        // nearest: [n, k], filled up with -1; within: [first[n]]
  double* square = nullptr;        // nearest: [n, k], filled up with inf; within: [first[n]]
  int64_t* count = nullptr;        // count only: [n]

  static constexpr int64_t kSlack = 8;  // a vector may be read beyond the last slot
};

// CPU: the receivers in slots [begin, end).
template <class Isa>
struct NeighborsCpu {
  static void nearest(const NeighborsArgs& args, int64_t begin, int64_t end);
  static void count(const NeighborsArgs& args, int64_t begin, int64_t end);
  static void within(const NeighborsArgs& args, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
cudaError_t neighbors_count_cuda(const NeighborsArgs& args, cudaStream_t stream);
cudaError_t neighbors_select_cuda(const NeighborsArgs& args, cudaStream_t stream);  // nearest, or within
#endif

}  // namespace ek
