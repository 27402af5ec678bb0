// One warp per node. A warp is split into teams: the lanes of a team share the channels of an edge, 16 bytes a lane
// where alignment allows, and the teams share the edges. What the teams found is combined by butterflies, so that
// results do not depend on scheduling. `team` is a power of two, the fewest lanes that cover the channels.
#include <cuda_runtime.h>

#include <cmath>

#include "../core/extremum.h"
#include "../core/launch.cuh"
#include "../simd/pack.cuh"
#include "segment.h"

namespace ek {
namespace {

template <int kVec, class A>
__device__ inline void zero_unless(const int64_t* arg, int64_t e, A* x) {
#pragma unroll
  for (int v = 0; v < kVec; ++v) x[v] = arg[v] == e ? x[v] : A(0);
}

// Edges whose rows a lane asks for at once, before it uses the first: enough bytes on the way to hide the way.
template <int kVec>
constexpr int kDepth = kVec == 1   ? 8
                       : kVec <= 4 ? 4
                                   : 2;

// f(which are there, first slot, edges, nodes) for this team's slots of a row, some at a time; slot d is d * teams
// behind the first. Edges and nodes that are not wanted are not looked up.
template <int kAtOnce, class F>
__device__ inline void over_slots(const Row& row, int mine, int teams, bool edges, bool nodes, F&& f) {
  for (int64_t first = mine; first < row.count; first += kAtOnce * teams) {
    int64_t edge[kAtOnce] = {}, node[kAtOnce] = {};
    bool there[kAtOnce];
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      const int64_t k = first + d * teams;
      there[d] = k < row.count;
      if (!there[d]) continue;
      if (edges) edge[d] = row.edge(k);
      if (nodes) node[d] = row.node(k);
    }
    f(there, first, edge, node);
  }
}

// w_e times rows of source, from channel c on.
template <int kAtOnce, class S, int kVec>
__device__ inline void load_weighted(const SegmentArgs<S>& a, const bool* there, const int64_t* edge,
                                     const int64_t* node, int64_t c, Accumulator<S> (*x)[kVec]) {
  using A = Accumulator<S>;
#pragma unroll
  for (int d = 0; d < kAtOnce; ++d)
    if (there[d]) load<S, kVec>(a.source + (a.rows == RowsOf::edges ? edge[d] : node[d]) * a.channels + c, x[d]);
  if (a.weights == Weight::edge) {
    A w[kAtOnce];
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d)
      if (there[d]) w[d] = widen(a.weight[edge[d]]);
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d)
#pragma unroll
      for (int v = 0; v < kVec; ++v) x[d][v] *= w[d];
  } else if (a.weights == Weight::channel) {
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      A w[kVec];
      if (!there[d]) continue;
      load<S, kVec>(a.weight + edge[d] * a.channels + c, w);
#pragma unroll
      for (int v = 0; v < kVec; ++v) x[d][v] *= w[v];
    }
  }
}

// f(node, its edges, this lane's first channel, whether it is one) for this warp's nodes and all channels; the whole
// warp calls f together.
template <int kVec, class S, class F>
__device__ inline void over_warp(const SegmentArgs<S>& a, int team, F&& f) {
  const GraphView& g = a.graph;
  for (int64_t i = first_warp(); i < g.num_nodes; i += warp_step()) {
    const int64_t event = g.complete() ? g.event_of(i) : 0;
    const Row row = a.rows == RowsOf::receivers ? g.sent(i, event) : g.received(i, event);
    for (int64_t c0 = 0; c0 < a.channels; c0 += team * kVec) {
      const int64_t c = c0 + (lane() & (team - 1)) * kVec;
      f(i, row, c, c < a.channels);
    }
  }
}

template <int kVec, class A>
__device__ inline void add_teams(A* x, int team) {
  for (int w = team; w < kWarp; w *= 2)
#pragma unroll
    for (int v = 0; v < kVec; ++v) x[v] += __shfl_xor_sync(kAllLanes, x[v], w);
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads, kVec == 1 ? 2 : 3) sum_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  constexpr int kAtOnce = kDepth<kVec>;
  const int teams = kWarp / team, mine = lane() / team;
  const bool nodes = a.rows != RowsOf::edges, edges = !nodes || a.weights != Weight::none || a.arg;
  over_warp<kVec>(a, team, [&](int64_t i, const Row& row, int64_t c, bool active) {
    A acc[kVec] = {};
    if (active) {
      over_slots<kAtOnce>(
          row, mine, teams, edges, nodes, [&](const bool* there, int64_t, const int64_t* edge, const int64_t* node) {
            A x[kAtOnce][kVec];
            load_weighted<kAtOnce, S, kVec>(a, there, edge, node, c, x);
#pragma unroll
            for (int d = 0; d < kAtOnce; ++d) {
              if (!there[d]) continue;
              if (a.arg)
                zero_unless<kVec>(a.arg + (a.rows == RowsOf::receivers ? node[d] : i) * a.channels + c, edge[d], x[d]);
#pragma unroll
              for (int v = 0; v < kVec; ++v) acc[v] += x[d][v];
            }
          });
    }
    add_teams<kVec>(acc, team);
    if (!active || mine != 0) return;
    if (a.mean && row.count > 0) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) acc[v] /= A(row.count);
    }
    store<S, kVec>(a.out + i * a.channels + c, acc);
  });
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads, 2) gather_to_edges_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  constexpr int kAtOnce = kDepth<kVec>;
  const int teams = kWarp / team, mine = lane() / team;
  over_warp<kVec>(a, team, [&](int64_t i, const Row& row, int64_t c, bool active) {
    if (!active) return;
    A x[kVec];
    load<S, kVec>(a.source + i * a.channels + c, x);
    over_slots<kAtOnce>(row, mine, teams, true, false,
                        [&](const bool* there, int64_t, const int64_t* edge, const int64_t*) {
#pragma unroll
                          for (int d = 0; d < kAtOnce; ++d) {
                            if (!there[d]) continue;
                            A y[kVec];
#pragma unroll
                            for (int v = 0; v < kVec; ++v)
                              y[v] = !a.arg || a.arg[i * a.channels + c + v] == edge[d] ? x[v] : A(0);
                            store<S, kVec>(a.out + edge[d] * a.channels + c, y);
                          }
                        });
  });
}

// Here a team walks all channels of its edge before it takes the next one.
template <class S, int kVec>
__global__ void __launch_bounds__(kThreads, 4) edge_dot_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  const GraphView& g = a.graph;
  const int teams = kWarp / team;
  for (int64_t i = first_warp(); i < g.num_nodes; i += warp_step()) {
    const Row row = g.received(i, g.complete() ? g.event_of(i) : 0);
    for (int64_t k0 = 0; k0 < row.count; k0 += teams) {
      const int64_t k = k0 + lane() / team;
      const int64_t e = k < row.count ? row.edge(k) : -1, j = k < row.count ? row.node(k) : 0;
      A total = 0;
      for (int64_t c = (lane() & (team - 1)) * kVec; e >= 0 && c < a.channels; c += team * kVec) {
        A x[kVec], y[kVec];
        load<S, kVec>(a.source + i * a.channels + c, x);
        load<S, kVec>(a.other + j * a.channels + c, y);
#pragma unroll
        for (int v = 0; v < kVec; ++v) x[v] *= y[v];
        if (a.arg) zero_unless<kVec>(a.arg + i * a.channels + c, e, x);
        if (a.per_channel) {
          store<S, kVec>(a.out + e * a.channels + c, x);
        } else {
#pragma unroll
          for (int v = 0; v < kVec; ++v) total += x[v];
        }
      }
      if (a.per_channel) continue;
      for (int w = team / 2; w > 0; w /= 2) total += __shfl_xor_sync(kAllLanes, total, w);
      if (e >= 0 && (lane() & (team - 1)) == 0) narrow(total, a.out[e]);
    }
  }
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads, 2) extremum_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  constexpr int kAtOnce = kDepth<kVec>;
  const int teams = kWarp / team, mine = lane() / team;
  const bool nodes = a.rows != RowsOf::edges, edges = !nodes || a.weights != Weight::none;
  over_warp<kVec>(a, team, [&](int64_t i, const Row& row, int64_t c, bool active) {
    A best[kVec] = {};
    int64_t slot[kVec];
#pragma unroll
    for (int v = 0; v < kVec; ++v) slot[v] = -1;
    if (active) {
      over_slots<kAtOnce>(row, mine, teams, edges, nodes,
                          [&](const bool* there, int64_t first, const int64_t* edge, const int64_t* node) {
                            A x[kAtOnce][kVec];
                            load_weighted<kAtOnce, S, kVec>(a, there, edge, node, c, x);
#pragma unroll
                            for (int d = 0; d < kAtOnce; ++d)
#pragma unroll
                              for (int v = 0; v < kVec; ++v)
                                if (there[d] && precedes(a.largest, x[d][v], first + d * teams, best[v], slot[v])) {
                                  best[v] = x[d][v];
                                  slot[v] = first + d * teams;
                                }
                          });
    }
    for (int w = team; w < kWarp; w *= 2)
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const A x = __shfl_xor_sync(kAllLanes, best[v], w);
        const int64_t k = __shfl_xor_sync(kAllLanes, (long long)slot[v], w);
        if (precedes(a.largest, x, k, best[v], slot[v])) {
          best[v] = x;
          slot[v] = k;
        }
      }
    if (!active || mine != 0) return;
    store<S, kVec>(a.out + i * a.channels + c, best);
#pragma unroll
    for (int v = 0; v < kVec; ++v) a.arg_out[i * a.channels + c + v] = slot[v] < 0 ? -1 : row.edge(slot[v]);
  });
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads) softmax_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  const int teams = kWarp / team, mine = lane() / team;
  over_warp<kVec>(a, team, [&](int64_t, const Row& row, int64_t c, bool active) {
    A top[kVec], sum[kVec] = {};
#pragma unroll
    for (int v = 0; v < kVec; ++v) top[v] = -A(INFINITY);
    const int64_t count = active ? row.count : 0;
    for (int64_t k = mine; k < count; k += teams) {
      A x[kVec];
      load<S, kVec>(a.source + row.edge(k) * a.channels + c, x);
#pragma unroll
      for (int v = 0; v < kVec; ++v) top[v] = x[v] > top[v] ? x[v] : top[v];  // a NaN comes back with the sum
    }
    for (int w = team; w < kWarp; w *= 2)
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const A x = __shfl_xor_sync(kAllLanes, top[v], w);
        top[v] = x > top[v] ? x : top[v];
      }
    for (int64_t k = mine; k < count; k += teams) {
      A x[kVec];
      load<S, kVec>(a.source + row.edge(k) * a.channels + c, x);
#pragma unroll
      for (int v = 0; v < kVec; ++v) sum[v] += std::exp(x[v] - top[v]);
    }
    add_teams<kVec>(sum, team);
    for (int64_t k = mine; k < count; k += teams) {
      const int64_t at = row.edge(k) * a.channels + c;
      A x[kVec];
      load<S, kVec>(a.source + at, x);
#pragma unroll
      for (int v = 0; v < kVec; ++v) x[v] = std::exp(x[v] - top[v]) / sum[v];
      store<S, kVec>(a.out + at, x);
    }
  });
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads) softmax_gradient_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  const int teams = kWarp / team, mine = lane() / team;
  over_warp<kVec>(a, team, [&](int64_t, const Row& row, int64_t c, bool active) {
    A dot[kVec] = {};
    const int64_t count = active ? row.count : 0;
    for (int64_t k = mine; k < count; k += teams) {
      const int64_t at = row.edge(k) * a.channels + c;
      A g[kVec], y[kVec];
      load<S, kVec>(a.source + at, g);
      load<S, kVec>(a.other + at, y);
#pragma unroll
      for (int v = 0; v < kVec; ++v) dot[v] += g[v] * y[v];
    }
    add_teams<kVec>(dot, team);
    for (int64_t k = mine; k < count; k += teams) {
      const int64_t at = row.edge(k) * a.channels + c;
      A g[kVec], y[kVec];
      load<S, kVec>(a.source + at, g);
      load<S, kVec>(a.other + at, y);
#pragma unroll
      for (int v = 0; v < kVec; ++v) g[v] = y[v] * (g[v] - dot[v]);
      store<S, kVec>(a.out + at, g);
    }
  });
}

template <int kVec, class S>
cudaError_t run(SegmentKernel kernel, const SegmentArgs<S>& a, cudaStream_t stream) {
  constexpr int kHalf = kVec > 4 ? 4 : kVec;  // eight exponentials at a time need more registers than they are worth
  const auto start = [&](auto kernel, int vec) {
    int team = 1;
    while (team < kWarp && team * vec < a.channels) team *= 2;
    return launch(kernel, warp_grid(a.graph.num_nodes), 0, stream, a, team);
  };
  switch (kernel) {
    case SegmentKernel::sum: return start(sum_kernel<S, kVec>, kVec);
    case SegmentKernel::gather_to_edges: return start(gather_to_edges_kernel<S, kVec>, kVec);
    case SegmentKernel::edge_dot: return start(edge_dot_kernel<S, kVec>, kVec);
    case SegmentKernel::extremum: return start(extremum_kernel<S, kVec>, kVec);
    case SegmentKernel::softmax: return start(softmax_kernel<S, kHalf>, kHalf);
    case SegmentKernel::softmax_gradient: return start(softmax_gradient_kernel<S, kVec>, kVec);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

template <class S>
cudaError_t segment_cuda(SegmentKernel kernel, const SegmentArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_nodes == 0) return cudaSuccess;
  constexpr int kVec = 16 / sizeof(S);
  const bool rows = aligned(a.source) && aligned(a.other) && aligned(a.out);
  if (a.channels % kVec == 0 && rows && (a.weights != Weight::channel || aligned(a.weight)))
    return run<kVec>(kernel, a, stream);
  return run<1>(kernel, a, stream);
}

template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<float>&, cudaStream_t);
template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<double>&, cudaStream_t);
template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<BFloat16>&, cudaStream_t);
template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<Float16>&, cudaStream_t);

}  // namespace ek
