// A warp per receiver. It walks over the nodes of the event, 32 at a time, and keeps the nearest so far in order, one a
// lane. Where more are wanted it walks again, for those behind the last: any number is found without memory for it.
// Coordinates lie in planes, so that lanes read neighbouring numbers; the warps of a block are receivers of one event
// (or of a few), and what one of them has read the others find in the first cache.
//
// Candidates come by rising index, and one that is equally far goes behind those that are there: ties are won by the
// lower index, whatever the schedule. NaN compares false, and no distance that is not finite is within the limit.
#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "../core/dimension.h"
#include "../core/launch.cuh"
#include "../core/minkowski.h"
#include "neighbors.h"

namespace ek {
namespace {

constexpr double kTwoPi = 6.283185307179586;

// A receiver and its distance squared to others: the arithmetic of neighbors.cpp, number by number.
template <Separation kind, int kDim>
struct Receiver {
  const NeighborsArgs& args;
  int64_t node;
  double x[kDim];

  __device__ Receiver(const NeighborsArgs& args, int64_t node) : args(args), node(node) { read(node, x); }

  // Zero beyond dim, as the metric is: that adds nothing.
  __device__ void read(int64_t j, double* y) const {
#pragma unroll
    for (int c = 0; c < kDim; ++c) y[c] = kDim < kMaxDim || c < args.dim ? args.plane[c][j] : 0.0;
  }
  // NaN where j is no candidate.
  __device__ double to(int64_t j, int64_t end) const {
    if (j >= end || (j == node && !args.loop)) return double(NAN);
    double y[kDim];
    read(j, y);
    if constexpr (kind == Separation::compensated) {
      double square, product;
      interval_and_product<true, double, DeviceFma>(x, y, args.metric, kDim, square, product);
      return fabs(square);
    } else {
      double square = 0;
#pragma unroll
      for (int c = 0; c < kDim; ++c) {
        double d = x[c] - y[c];
        if (kind == Separation::periodic && c == kDim - 1) {
          d = fabs(d);
          d = kTwoPi - d < d ? kTwoPi - d : d;
        }
        square += kind == Separation::signature ? d * d * args.metric[c] : d * d;
      }
      return kind == Separation::signature ? fabs(square) : square;
    }
  }
};

// The `room` nearest so far, in lanes 0 .. room - 1; inf where there are fewer.
struct Sorted {
  double square = INFINITY, farthest = INFINITY;
  int64_t node = -1;
  int room;

  __device__ explicit Sorted(int room) : room(room) {}

  // Candidates of the whole warp, lane l's being node first + l: those that are wanted.
  __device__ void add(double candidate, bool wanted, int64_t first) {
    unsigned left = __ballot_sync(kAllLanes, wanted && candidate < farthest);
    while (left) {
      const int l = __ffs(int(left)) - 1;
      left &= left - 1;
      const double s = __shfl_sync(kAllLanes, candidate, l);
      const double before = __shfl_up_sync(kAllLanes, square, 1);
      const int64_t before_node = __shfl_up_sync(kAllLanes, node, 1);
      if (s < square) {
        const bool moves = lane() > 0 && s < before;
        square = moves ? before : s;
        node = moves ? before_node : first + l;
      }
    }
    farthest = __shfl_sync(kAllLanes, square, room - 1);
  }
};

template <Separation kind, int kDim>
__global__ void __launch_bounds__(kThreads) count_kernel(NeighborsArgs args) {
  over_nodes(args.events, kWarp, [&](int64_t i, int64_t event, int nth, bool) {
    const Receiver<kind, kDim> receiver(args, i);
    const int64_t end = args.events.ptr[event + 1];
    int64_t found = 0;
    for (int64_t j = args.events.ptr[event] + nth; j < end; j += kWarp) found += receiver.to(j, end) <= args.limit;
    const int64_t total = team_sum(found, kWarp);
    if (nth == 0) args.count[i] = total;
  });
}

template <Separation kind, int kDim>
__global__ void __launch_bounds__(kThreads) select_kernel(NeighborsArgs args) {
  over_nodes(args.events, kWarp, [&](int64_t i, int64_t event, int nth, bool) {
    const Receiver<kind, kDim> receiver(args, i);
    const int64_t begin = args.events.ptr[event], end = args.events.ptr[event + 1];
    const int64_t at = args.first ? args.first[i] : i * args.k;
    const int64_t wanted = args.first ? args.first[i + 1] - at : args.k;
    double last = -1;  // the last one written, behind which the next are
    int64_t last_node = -1;
    for (int64_t done = 0; done < wanted; done += kWarp) {
      Sorted sorted(wanted - done < kWarp ? int(wanted - done) : kWarp);
      for (int64_t first = last < INFINITY ? begin : end; first < end; first += kWarp) {
        const double s = receiver.to(first + nth, end);
        const bool behind = s > last || (s == last && first + nth > last_node);
        sorted.add(s, behind && s <= args.limit, first);
      }
      if (nth < sorted.room) {
        args.square[at + done + nth] = sorted.square;
        args.index[at + done + nth] = sorted.node;
      }
      last = sorted.farthest;
      last_node = __shfl_sync(kAllLanes, sorted.node, sorted.room - 1);
    }
  });
}

template <Separation kind>
using Kind = std::integral_constant<Separation, kind>;
template <int dim>
using Dim = std::integral_constant<int, dim>;

// f(kind of separation, dimension), as constants: dimensions in use are unrolled, the others share one loop.
template <class F>
auto with_separation(const NeighborsArgs& args, F&& f) {
  const bool four = args.dim == 4;
  switch (args.separation) {
    case Separation::periodic: return f(Kind<Separation::periodic>{}, Dim<2>{});
    case Separation::compensated:
      return four ? f(Kind<Separation::compensated>{}, Dim<4>{}) : f(Kind<Separation::compensated>{}, Dim<kMaxDim>{});
    case Separation::signature:
      return four ? f(Kind<Separation::signature>{}, Dim<4>{}) : f(Kind<Separation::signature>{}, Dim<kMaxDim>{});
    default: return with_dimension(args.dim, [&](auto dim) { return f(Kind<Separation::euclidean>{}, dim); });
  }
}

}  // namespace

cudaError_t neighbors_count_cuda(const NeighborsArgs& args, cudaStream_t stream) {
  if (args.events.num_nodes == 0) return cudaSuccess;
  return with_separation(args, [&](auto kind, auto dim) {
    return launch(count_kernel<kind, dim>, warp_grid(args.events.num_nodes), 0, stream, args);
  });
}

cudaError_t neighbors_select_cuda(const NeighborsArgs& args, cudaStream_t stream) {
  if (args.events.num_nodes == 0) return cudaSuccess;
  return with_separation(args, [&](auto kind, auto dim) {
    return launch(select_kernel<kind, dim>, warp_grid(args.events.num_nodes), 0, stream, args);
  });
}

}  // namespace ek
