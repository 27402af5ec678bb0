// A block owns a panel: some neighbouring columns of one event's matrix of pairs. It walks down the rows, so that T is
// read (or written) once, in runs contiguous over columns and channels. A thread keeps its columns in registers:
// column sums need no exchange but at the end; row sums are exchanged every few rows, through shared memory. Where an
// event is wider than a panel, its row sums are left in parts for a second kernel. Every sum is formed in an order that
// depends on the number of channels, and on the numbers of particles and events, of which few have narrow panels.
#include <cuda_runtime.h>

#include <type_traits>

#include "../core/extremum.h"
#include "../core/launch.cuh"
#include "../simd/pack.cuh"
#include "pairs.h"
#include "panels.cuh"

namespace ek {
namespace {

// Channels a thread reads at once where it can: 16 bytes of what it adds them up in.
template <class S>
constexpr int kMostVec = 16 / sizeof(Accumulator<S>);

enum class Summand { plain, weighted, selected };

// What x = T_ij counts as in the sums of row i and of column j. One of the two factors belongs to the column, and stays
// in registers; the other belongs to the row.
template <Summand kSummand, class S, int kVec>
struct Factors {
  static constexpr bool kSelected = kSummand == Summand::selected;
  using T = Accumulator<S>;
  using F = std::conditional_t<kSelected, int32_t, T>;
  using Stored = std::conditional_t<kSelected, int32_t, S>;
  const Stored* source;  // [nodes, 2, channels], from this thread's event and channel on
  int64_t channels;
  F of_column[kColumns<T, kVec>][kVec], of_row[kVec];

  __device__ Factors(const Rank2Args<S>& a, int64_t node, int64_t channel) : channels(a.channels) {
    if constexpr (kSelected)
      source = a.arg + node * 2 * channels + channel;
    else if constexpr (kSummand == Summand::weighted)
      source = a.weight + node * 2 * channels + channel;
  }
  __device__ void load_column(int k, int64_t j) {
    if constexpr (kSummand != Summand::plain) read(source + (2 * j + !kSelected) * channels, of_column[k]);
  }
  __device__ void load_row(int64_t i) {
    if constexpr (kSummand != Summand::plain) read(source + (2 * i + kSelected) * channels, of_row);
  }
  __device__ T in_row(T x, int k, int v, int j) const {
    if constexpr (kSummand == Summand::weighted) return x * of_column[k][v];
    if constexpr (kSelected) return of_row[v] == j ? x : T(0);
    return x;
  }
  __device__ T in_column(T x, int k, int v, int i) const {
    if constexpr (kSummand == Summand::weighted) return x * of_row[v];
    if constexpr (kSelected) return of_column[k][v] == i ? x : T(0);
    return x;
  }

 private:
  static __device__ void read(const Stored* from, F* to) {
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      if constexpr (kSelected)
        to[v] = from[v];
      else
        to[v] = widen(from[v]);
    }
  }
};

// What a row or a column comes to, one channel.
template <class T>
struct Total {
  T value = 0;
  __device__ void take(T x, int) { value += x; }
  __device__ void merge(const Total& other) { value += other.value; }
};
template <class T, bool kLargest>
struct Best {
  T value = 0;
  int32_t from = -1;
  __device__ void take(T x, int k) { merge({x, k}); }
  __device__ void merge(const Best& other) {
    if (precedes(kLargest, other.value, other.from, value, from)) *this = other;
  }
};

// Where the row sums of an event lie that is wider than a panel, one after another for each row: n times its number of
// panels from here on are before the next event's.
__device__ inline int64_t first_part(int64_t pair, int64_t node, const Layout& l) { return (pair >> l.log2) + node; }
__device__ inline int panels_of(int n, int width) { return (n + width - 1) / width; }

// kVec neighbouring channels: values, and where they come from.
template <int kVec, class S, class T>
__device__ inline void write(S* to, int64_t at, int32_t*, int64_t, const Total<T>* x) {
  T values[kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) values[v] = x[v].value;
  store<S, kVec>(to + at, values);
}
template <int kVec, class S, class T, bool kLargest>
__device__ inline void write(S* to, int64_t at, int32_t* from, int64_t from_at, const Best<T, kLargest>* x) {
  T values[kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    values[v] = x[v].value;
    from[from_at + v] = x[v].from;
  }
  store<S, kVec>(to + at, values);
}
// `side` 0: columns, 1: rows.
template <int kVec, class S, class Cell>
__device__ inline void write_table(const Rank2Args<S>& a, int64_t node, int side, int64_t channel, const Cell* x) {
  write<kVec>(a.out, (node * 3 + 1 + side) * a.channels + channel, a.arg_out, (node * 2 + side) * a.channels + channel,
              x);
}

template <class Cell, Summand kSummand, class S, int kVec>
__global__ void __launch_bounds__(kThreads, kSummand == Summand::selected ? 1 : 2)
    reduce_kernel(Rank2Args<S> a, Layout l, Accumulator<S>* __restrict__ parts, int32_t* __restrict__ parts_from) {
  using T = Accumulator<S>;
  constexpr int kCols = kColumns<T, kVec>, kStep = kRows<T, kVec>;
  constexpr int kPlane = kVec * kThreads;
  Cell* const shared = block_memory<Cell>();  // [2, kStep, kVec, kThreads], or [kCols, kVec, kThreads]
  const int mine = threadIdx.x;
  const int64_t C = a.channels;

  over_panels<kVec>(a.graph, l, C, [&](const Panel& p, int64_t first_channel) {
    const int64_t channel = first_channel + p.unit * kVec;
    const bool active = p.team < l.teams && channel < C;
    Factors<kSummand, S, kVec> factors(a, p.node, channel);
    Cell columns[kCols][kVec];
    int count = active ? (p.n - p.first - p.group + l.groups - 1) / l.groups : 0;  // columns of this thread
    if (count > l.columns) count = l.columns;
#pragma unroll
    for (int k = 0; k < kCols; ++k)
      if (k < count) factors.load_column(k, p.column(l, k));

    const int64_t part = first_part(p.pair, p.node, l), panels = panels_of(p.n, l.width);
    const S* const corner = a.tensor + (p.pair + p.column(l, 0)) * C + channel;
    const int64_t to_next = l.groups * C;
    int half = 0;
    for (int i0 = 0; i0 < p.n; i0 += kStep * l.teams, half ^= 1) {
      Cell* const exchange = shared + half * kStep * kPlane;
#pragma unroll
      for (int r = 0; r < kStep; ++r) {
        const int i = i0 + r * l.teams + p.team;
        const int in_row = i < p.n ? count : 0;
        const S* from = corner + int64_t(i) * p.n * C;
        T x[kCols][kVec];
#pragma unroll
        for (int k = 0; k < kCols; ++k, from += to_next)
          if (k < in_row) load<S, kVec>(from, x[k]);
        Cell row[kVec];
        if (in_row > 0) factors.load_row(i);
#pragma unroll
        for (int k = 0; k < kCols; ++k)
          if (k < in_row)
#pragma unroll
            for (int v = 0; v < kVec; ++v) {
              row[v].take(factors.in_row(x[k][v], k, v, p.column(l, k)), p.column(l, k));
              columns[k][v].take(factors.in_column(x[k][v], k, v, i), i);
            }
#pragma unroll
        for (int v = 0; v < kVec; ++v) exchange[r * kPlane + v * kThreads + mine] = row[v];
      }
      __syncthreads();
      // One of these before a thread may come back to this half: the one above, of the next step.
      for (int o = threadIdx.x; o < kStep * l.teams * l.units; o += kThreads) {
        const int unit = o % l.units, step = o / l.units, i = i0 + step;
        const int64_t channel = first_channel + unit * kVec;
        if (i >= p.n || channel >= C) continue;
        const Cell* const from = exchange + step / l.teams * kPlane + step % l.teams * l.groups * l.units + unit;
        Cell total[kVec];
        for (int g = 0; g < l.groups; ++g)
#pragma unroll
          for (int v = 0; v < kVec; ++v) total[v].merge(from[v * kThreads + g * l.units]);
        const int64_t at = (part + i * panels + p.first / l.width) * C + channel;
        if (panels == 1)
          write_table<kVec>(a, p.node + i, 1, channel, total);
        else
          write<kVec>(parts, at, parts_from, at, total);
      }
    }

    __syncthreads();
    if (l.teams > 1) {
#pragma unroll
      for (int k = 0; k < kCols; ++k)
#pragma unroll
        for (int v = 0; v < kVec; ++v) shared[k * kPlane + v * kThreads + mine] = columns[k][v];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kCols; ++k) {
      if (k >= count || p.team != 0) continue;
      for (int other = 1; other < l.teams; ++other)
#pragma unroll
        for (int v = 0; v < kVec; ++v)
          columns[k][v].merge(shared[k * kPlane + v * kThreads + other * l.groups * l.units + mine]);
      const int64_t j = p.column(l, k);
      write_table<kVec>(a, p.node + j, 0, channel, columns[k]);
      T diagonal[kVec];
      load<S, kVec>(a.tensor + (p.pair + j * p.n + j) * C + channel, diagonal);
      store<S, kVec>(a.out + (p.node + j) * 3 * C + channel, diagonal);
    }
    __syncthreads();
  });
}

// Adds up the rows that were left in parts; one warp per node.
template <class Cell, class S>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(Rank2Args<S> a, Layout l, const Accumulator<S>* __restrict__ parts,
                  const int32_t* __restrict__ parts_from) {
  const GraphView& g = a.graph;
  for (int64_t i = first_warp(); i < g.num_nodes; i += warp_step()) {
    const int64_t event = g.event_of(i), node = g.ptr[event];
    const int panels = panels_of(int(g.ptr[event + 1] - node), l.width);
    if (panels == 1) continue;
    const int64_t first = first_part(g.edge_ptr[event], node, l) + (i - node) * panels;
    for (int64_t c = lane(); c < a.channels; c += kWarp) {
      Cell total;
#pragma unroll 1
      for (int q = 0; q < panels; ++q) {
        const int64_t at = (first + q) * a.channels + c;
        if constexpr (std::is_same_v<Cell, Total<Accumulator<S>>>)
          total.merge({parts[at]});
        else
          total.merge({parts[at], parts_from[at]});
      }
      write_table<1>(a, i, 1, c, &total);
    }
  }
}

template <Summand kSummand, class S, int kVec>
__global__ void __launch_bounds__(kThreads) broadcast_kernel(Rank2Args<S> a, Layout l) {
  using T = Accumulator<S>;
  constexpr int kCols = kColumns<T, kVec>;
  const int64_t C = a.channels;
  over_panels<kVec>(a.graph, l, C, [&](const Panel& p, int64_t first_channel) {
    const int64_t channel = first_channel + p.unit * kVec;
    if (p.team >= l.teams || channel >= C) return;
    const S* const table = a.table + p.node * 3 * C + channel;
    Factors<kSummand, S, kVec> factors(a, p.node, channel);
    T columns[kCols][kVec];
#pragma unroll
    for (int k = 0; k < kCols; ++k) {
      const int64_t j = p.column(l, k);
      if (k >= l.columns || j >= p.n) continue;
      factors.load_column(k, j);
      load<S, kVec>(table + (j * 3 + 1) * C, columns[k]);
    }
    for (int i = p.team; i < p.n; i += l.teams) {
      T row[kVec], diagonal[kVec];
      factors.load_row(i);
      load<S, kVec>(table + (int64_t(i) * 3 + 2) * C, row);
      S* const out = a.out + (p.pair + int64_t(i) * p.n) * C + channel;
#pragma unroll
      for (int k = 0; k < kCols; ++k) {
        const int j = p.column(l, k);
        if (k >= l.columns || j >= p.n) continue;
        T x[kVec];
#pragma unroll
        for (int v = 0; v < kVec; ++v)
          x[v] = factors.in_row(row[v], k, v, j) + factors.in_column(columns[k][v], k, v, i);
        if (i == j) {
          load<S, kVec>(table + int64_t(i) * 3 * C, diagonal);
#pragma unroll
          for (int v = 0; v < kVec; ++v) x[v] += diagonal[v];
        }
        store<S, kVec>(out + j * C, x);
      }
    }
  });
}

template <class Cell, Summand kSummand, int kVec, class S>
cudaError_t reduce(const Rank2Args<S>& a, Accumulator<S>* parts, int32_t* parts_from, cudaStream_t stream) {
  constexpr int kCols = kColumns<Accumulator<S>, kVec>;
  const Layout l(a.graph, a.channels, kVec, kCols);
  constexpr size_t shared = sizeof(Cell) * kCols * kThreads * kVec;
  const cudaError_t error =
      launch(reduce_kernel<Cell, kSummand, S, kVec>, l.grid(), shared, stream, a, l, parts, parts_from);
  if (error != cudaSuccess || parts == nullptr) return error;
  return launch(finish_kernel<Cell, S>, warp_grid(a.graph.num_nodes), 0, stream, a, l, parts, parts_from);
}

template <int kVec, class S>
cudaError_t run(Rank2Kernel kernel, const Rank2Args<S>& a, Accumulator<S>* parts, int32_t* parts_from,
                cudaStream_t stream) {
  using T = Accumulator<S>;
  const auto broadcast = [&](auto kernel) {
    const Layout l(a.graph, a.channels, kVec, kColumns<T, kVec>);
    return launch(kernel, l.grid(), 0, stream, a, l);
  };
  switch (kernel) {
    case Rank2Kernel::sum:
      if (a.activated) return cudaErrorNotSupported;  // only rank2_mix asks for it
      if (a.weight) return reduce<Total<T>, Summand::weighted, kVec>(a, parts, parts_from, stream);
      if (a.arg) return reduce<Total<T>, Summand::selected, kVec>(a, parts, parts_from, stream);
      return reduce<Total<T>, Summand::plain, kVec>(a, parts, parts_from, stream);
    case Rank2Kernel::broadcast:
      if (a.weight) return broadcast(broadcast_kernel<Summand::weighted, S, kVec>);
      if (a.arg) return broadcast(broadcast_kernel<Summand::selected, S, kVec>);
      return broadcast(broadcast_kernel<Summand::plain, S, kVec>);
    case Rank2Kernel::extremum:
      if (a.largest) return reduce<Best<T, true>, Summand::plain, kVec>(a, parts, parts_from, stream);
      return reduce<Best<T, false>, Summand::plain, kVec>(a, parts, parts_from, stream);
  }
  return cudaErrorInvalidValue;
}

template <class S>
bool vectors(const Rank2Args<S>& a) {
  return a.channels % kMostVec<S> == 0 && aligned(a.tensor) && aligned(a.table) && aligned(a.out);
}

}  // namespace

template <class S>
int64_t rank2_cuda_parts(const Rank2Args<S>& a) {
  if (a.graph.num_nodes == 0 || a.channels == 0) return 0;
  using T = Accumulator<S>;
  constexpr int kVec = kMostVec<S>;
  const Layout l = vectors(a) ? Layout(a.graph, a.channels, kVec, kColumns<T, kVec>)
                              : Layout(a.graph, a.channels, 1, kColumns<T, 1>);
  // n particles are n^2 pairs: with no more than this no event is wider than a panel
  if (a.graph.num_edges <= int64_t(l.width) * l.width) return 0;
  return (a.graph.num_edges >> l.log2) + a.graph.num_nodes;
}

template <class S>
cudaError_t rank2_cuda(Rank2Kernel kernel, const Rank2Args<S>& a, Accumulator<S>* parts, int32_t* parts_from,
                       cudaStream_t stream) {
  if (a.graph.num_nodes == 0 || a.channels == 0) return cudaSuccess;
  if (vectors(a)) return run<kMostVec<S>>(kernel, a, parts, parts_from, stream);
  return run<1>(kernel, a, parts, parts_from, stream);
}

#define EK_FOR(S)                                         \
  template int64_t rank2_cuda_parts(const Rank2Args<S>&); \
  template cudaError_t rank2_cuda(Rank2Kernel, const Rank2Args<S>&, Accumulator<S>*, int32_t*, cudaStream_t);
EK_FOR(float)
EK_FOR(double)
EK_FOR(BFloat16)
EK_FOR(Float16)
#undef EK_FOR

}  // namespace ek
