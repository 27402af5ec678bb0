// One warp per node. A warp is split into teams: the lanes of a team share the channels of an edge, 16 bytes a lane
// where alignment allows, and the teams share the edges. What the teams found is combined by butterflies, so that
// results do not depend on scheduling. `team` is a power of two, the fewest lanes that cover the channels.
#include <cuda_runtime.h>

#include "../common/launch.cuh"
#include "segment.h"

namespace ek {
namespace {

constexpr unsigned kAll = 0xffffffffu;

template <class S, int kVec>
struct alignas(sizeof(S) * kVec) Pack {
  S item[kVec];
};

template <class S, int kVec>
__device__ inline void load(const S* p, Accumulator<S>* x) {
  const Pack<S, kVec> pack = *reinterpret_cast<const Pack<S, kVec>*>(p);
#pragma unroll
  for (int v = 0; v < kVec; ++v) x[v] = widen(pack.item[v]);
}
template <class S, int kVec>
__device__ inline void store(S* p, const Accumulator<S>* x) {
  Pack<S, kVec> pack;
#pragma unroll
  for (int v = 0; v < kVec; ++v) narrow(x[v], pack.item[v]);
  *reinterpret_cast<Pack<S, kVec>*>(p) = pack;
}

template <int kVec, class A>
__device__ inline void zero_unless(const int64_t* arg, int64_t e, A* x) {
#pragma unroll
  for (int v = 0; v < kVec; ++v) x[v] = arg[v] == e ? x[v] : A(0);
}

// w_e times row `r` of source, from channel c on.
template <class S, int kVec>
__device__ inline void load_weighted(const SegmentArgs<S>& a, int64_t r, int64_t e, int64_t c, Accumulator<S>* x) {
  using A = Accumulator<S>;
  load<S, kVec>(a.source + r * a.channels + c, x);
  if (a.weights == Weight::edge) {
    const A w = widen(a.weight[e]);
#pragma unroll
    for (int v = 0; v < kVec; ++v) x[v] *= w;
  } else if (a.weights == Weight::channel) {
    A w[kVec];
    load<S, kVec>(a.weight + e * a.channels + c, w);
#pragma unroll
    for (int v = 0; v < kVec; ++v) x[v] *= w[v];
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
    for (int v = 0; v < kVec; ++v) x[v] += __shfl_xor_sync(kAll, x[v], w);
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads) sum_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  const int teams = kWarp / team, mine = lane() / team;
  over_warp<kVec>(a, team, [&](int64_t i, const Row& row, int64_t c, bool active) {
    A acc[kVec] = {};
    if (active) {
      for (int64_t k = mine; k < row.count; k += teams) {
        const int64_t e = row.edge(k), node = row.node(k);
        A x[kVec];
        load_weighted<S, kVec>(a, a.rows == RowsOf::edges ? e : node, e, c, x);
        if (a.arg) zero_unless<kVec>(a.arg + (a.rows == RowsOf::receivers ? node : i) * a.channels + c, e, x);
#pragma unroll
        for (int v = 0; v < kVec; ++v) acc[v] += x[v];
      }
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
__global__ void __launch_bounds__(kThreads) spread_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  const int teams = kWarp / team, mine = lane() / team;
  over_warp<kVec>(a, team, [&](int64_t i, const Row& row, int64_t c, bool active) {
    if (!active) return;
    A x[kVec];
    load<S, kVec>(a.source + i * a.channels + c, x);
    for (int64_t k = mine; k < row.count; k += teams) {
      const int64_t e = row.edge(k);
      A y[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) y[v] = !a.arg || a.arg[i * a.channels + c + v] == e ? x[v] : A(0);
      store<S, kVec>(a.out + e * a.channels + c, y);
    }
  });
}

// Here a team walks all channels of its edge before it takes the next one.
template <class S, int kVec>
__global__ void __launch_bounds__(kThreads) product_kernel(SegmentArgs<S> a, int team) {
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
      for (int w = team / 2; w > 0; w /= 2) total += __shfl_xor_sync(kAll, total, w);
      if (e >= 0 && (lane() & (team - 1)) == 0) narrow(total, a.out[e]);
    }
  }
}

// Whether (x, slot k) comes before (y, slot l): the larger or smaller value, NaN over everything, then the first slot.
template <class A>
__device__ inline bool precedes(bool largest, A x, int64_t k, A y, int64_t l) {
  if (k < 0 || l < 0) return l < 0 && k >= 0;
  if (x != x || y != y) return x != x && (y == y || k < l);
  if (x == y) return k < l;
  return largest ? x > y : x < y;
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads) extremum_kernel(SegmentArgs<S> a, int team) {
  using A = Accumulator<S>;
  const int teams = kWarp / team, mine = lane() / team;
  over_warp<kVec>(a, team, [&](int64_t i, const Row& row, int64_t c, bool active) {
    A best[kVec] = {};
    int64_t slot[kVec];
#pragma unroll
    for (int v = 0; v < kVec; ++v) slot[v] = -1;
    if (active) {
      for (int64_t k = mine; k < row.count; k += teams) {
        const int64_t e = row.edge(k);
        A x[kVec];
        load_weighted<S, kVec>(a, a.rows == RowsOf::edges ? e : row.node(k), e, c, x);
#pragma unroll
        for (int v = 0; v < kVec; ++v)
          if (precedes(a.largest, x[v], k, best[v], slot[v])) {
            best[v] = x[v];
            slot[v] = k;
          }
      }
    }
    for (int w = team; w < kWarp; w *= 2)
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const A x = __shfl_xor_sync(kAll, best[v], w);
        const int64_t k = __shfl_xor_sync(kAll, (long long)slot[v], w);
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

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

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
        const A x = __shfl_xor_sync(kAll, top[v], w);
        top[v] = x > top[v] ? x : top[v];
      }
    for (int64_t k = mine; k < count; k += teams) {
      A x[kVec];
      load<S, kVec>(a.source + row.edge(k) * a.channels + c, x);
#pragma unroll
      for (int v = 0; v < kVec; ++v) sum[v] += exponential(x[v] - top[v]);
    }
    add_teams<kVec>(sum, team);
    for (int64_t k = mine; k < count; k += teams) {
      const int64_t at = row.edge(k) * a.channels + c;
      A x[kVec];
      load<S, kVec>(a.source + at, x);
#pragma unroll
      for (int v = 0; v < kVec; ++v) x[v] = exponential(x[v] - top[v]) / sum[v];
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
void launch(SegmentKernel kernel, const SegmentArgs<S>& a, cudaStream_t stream) {
  const auto team = [&](int vec) {
    int lanes = 1;
    while (lanes < kWarp && lanes * vec < a.channels) lanes *= 2;
    return lanes;
  };
  constexpr int kHalf = kVec > 4 ? 4 : kVec;  // eight exponentials at a time need more registers than they are worth
  const dim3 grid(warp_grid(a.graph.num_nodes));
#define EK_LAUNCH(KERNEL, VEC) KERNEL<S, VEC><<<grid, kThreads, 0, stream>>>(a, team(VEC))
  switch (kernel) {
    case SegmentKernel::sum: EK_LAUNCH(sum_kernel, kVec); break;
    case SegmentKernel::spread: EK_LAUNCH(spread_kernel, kVec); break;
    case SegmentKernel::product: EK_LAUNCH(product_kernel, kVec); break;
    case SegmentKernel::extremum: EK_LAUNCH(extremum_kernel, kVec); break;
    case SegmentKernel::softmax: EK_LAUNCH(softmax_kernel, kHalf); break;
    case SegmentKernel::softmax_gradient: EK_LAUNCH(softmax_gradient_kernel, kVec); break;
  }
#undef EK_LAUNCH
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

template <class S>
cudaError_t segment_cuda(SegmentKernel kernel, const SegmentArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_nodes == 0) return cudaSuccess;
  constexpr int kVec = 16 / sizeof(S);
  const bool rows = aligned(a.source) && aligned(a.other) && aligned(a.out);
  if (a.channels % kVec == 0 && rows && (a.weights != Weight::channel || aligned(a.weight)))
    launch<kVec>(kernel, a, stream);
  else
    launch<1>(kernel, a, stream);
  return cudaGetLastError();
}

template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<float>&, cudaStream_t);
template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<double>&, cudaStream_t);
template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<BFloat16>&, cudaStream_t);
template cudaError_t segment_cuda(SegmentKernel, const SegmentArgs<Float16>&, cudaStream_t);

}  // namespace ek
