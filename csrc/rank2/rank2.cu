// A block owns a panel: some neighbouring columns of one event's matrix of pairs. It walks down the rows, so that T is
// read (or written) once, in runs contiguous over columns and channels. A thread keeps its columns in registers:
// column sums need no exchange but at the end; row sums are exchanged every few rows, through shared memory. Where an
// event is wider than a panel, its row sums are left in parts for a second kernel. Every sum is formed in an order that
// depends on the number of channels alone.
#include <cuda_runtime.h>

#include <type_traits>

#include "../common/extremum.h"
#include "../common/launch.cuh"
#include "../common/pack.cuh"
#include "rank2.h"

namespace ek {
namespace {

// Columns a thread keeps, and rows it reads between two exchanges.
template <class T, int kVec>
constexpr int kColumns = sizeof(T) * kVec > 4 ? 4 : 8;
template <class T, int kVec>
constexpr int kRows = kColumns<T, kVec> / 2;

// How the threads of a block share a panel. A unit is kVec channels.
struct Layout {
  static constexpr int kMostUnits = 128, kMostGroups = 16;

  int units;      // at a time
  int groups;     // of threads, each with every groups-th column
  int teams;      // of groups, each with every teams-th row
  int width;      // columns of a panel
  int log2;       // of the largest power of two not above width
  int64_t slots;  // panels of all events, a few of them empty

  Layout(const GraphView& g, int64_t channels, int vec, int columns) {
    const int64_t all = channels / vec, times = (all + kMostUnits - 1) / kMostUnits;
    units = int((all + times - 1) / times);
    groups = kThreads / units < kMostGroups ? kThreads / units : kMostGroups;
    teams = kThreads / (units * groups);
    width = groups * columns;
    for (log2 = 0; width >> (log2 + 1); ++log2) {
    }
    slots = g.num_nodes / width + g.num_events + 1;
  }
  unsigned grid() const { return grid_for(slots, 1); }
};

// What one thread works on.
struct Panel {
  int64_t node, pair;     // first of the event
  int n, first;           // particles of the event; first column of the panel, n where there is none
  int unit, group, team;  // of this thread

  // Slot s begins `s * width` into the nodes, counting `width` more for each event: an event of n has at least
  // ceil(n / width) of them.
  __device__ Panel(const GraphView& g, const Layout& l, int64_t slot) {
    const int64_t at = slot * l.width;
    int64_t lo = 0, hi = g.num_events;  // the last event with ptr + event * width <= at
    while (hi - lo > 1) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (g.ptr[mid] + mid * l.width <= at)
        lo = mid;
      else
        hi = mid;
    }
    node = g.ptr[lo];
    pair = g.edge_ptr[lo];
    n = int(g.ptr[lo + 1] - node);
    const int64_t behind = at - node - lo * l.width;  // below n + width but in slots behind all events
    first = behind < n + l.width ? int(behind) / l.width * l.width : n;
    if (first > n) first = n;

    const int t = threadIdx.x;
    unit = t % l.units;
    group = t / l.units % l.groups;
    team = t / (l.units * l.groups);
  }
  __device__ int column(const Layout& l, int k) const { return first + group + k * l.groups; }
};

// f(panel, first channel) for the panels of this block, channel after channel.
template <int kVec, class F>
__device__ inline void over_panels(const GraphView& g, const Layout& l, int64_t channels, F&& f) {
  for (int64_t slot = blockIdx.x; slot < l.slots; slot += gridDim.x) {
    const Panel p(g, l, slot);
    if (p.first == p.n) continue;
    for (int64_t channel = 0; channel < channels; channel += l.units * kVec) f(p, channel);
  }
}

enum class Summand { plain, weighted, selected };

// What x = T_ij counts as in the sums of row i and of column j. One of the two factors belongs to the column, and stays
// in registers; the other belongs to the row.
template <Summand kSummand, class T, int kVec>
struct Factors {
  static constexpr bool kSelected = kSummand == Summand::selected;
  using F = std::conditional_t<kSelected, int32_t, T>;
  const F* source;  // [nodes, 2, channels], from this thread's event and channel on
  int64_t channels;
  F of_column[kColumns<T, kVec>][kVec], of_row[kVec];

  __device__ Factors(const Rank2Args<T>& a, int64_t node, int64_t channel) : channels(a.channels) {
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
  static __device__ void read(const F* from, F* to) {
#pragma unroll
    for (int v = 0; v < kVec; ++v) to[v] = from[v];
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
template <int kVec, class T>
__device__ inline void write(T* to, int64_t at, int32_t*, int64_t, const Total<T>* x) {
  T values[kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) values[v] = x[v].value;
  store<T, kVec>(to + at, values);
}
template <int kVec, class T, bool kLargest>
__device__ inline void write(T* to, int64_t at, int32_t* from, int64_t from_at, const Best<T, kLargest>* x) {
  T values[kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    values[v] = x[v].value;
    from[from_at + v] = x[v].from;
  }
  store<T, kVec>(to + at, values);
}
// `side` 0: columns, 1: rows.
template <int kVec, class T, class Cell>
__device__ inline void write_table(const Rank2Args<T>& a, int64_t node, int side, int64_t channel, const Cell* x) {
  write<kVec>(a.out, (node * 3 + 1 + side) * a.channels + channel, a.arg_out, (node * 2 + side) * a.channels + channel,
              x);
}

template <class Cell, Summand kSummand, class T, int kVec>
__global__ void __launch_bounds__(kThreads, kSummand == Summand::selected ? 1 : 2)
    reduce_kernel(Rank2Args<T> a, Layout l, T* __restrict__ parts, int32_t* __restrict__ parts_from) {
  constexpr int kCols = kColumns<T, kVec>, kStep = kRows<T, kVec>;
  constexpr int kPlane = kVec * kThreads;
  Cell* const shared = block_memory<Cell>();  // [2, kStep, kVec, kThreads], or [kCols, kVec, kThreads]
  const int mine = threadIdx.x;
  const int64_t C = a.channels;

  over_panels<kVec>(a.graph, l, C, [&](const Panel& p, int64_t first_channel) {
    const int64_t channel = first_channel + p.unit * kVec;
    const bool active = p.team < l.teams && channel < C;
    Factors<kSummand, T, kVec> factors(a, p.node, channel);
    Cell columns[kCols][kVec];
    int count = active ? (p.n - p.first - p.group + l.groups - 1) / l.groups : 0;  // columns of this thread
    if (count > kCols) count = kCols;
#pragma unroll
    for (int k = 0; k < kCols; ++k)
      if (k < count) factors.load_column(k, p.column(l, k));

    const int64_t part = first_part(p.pair, p.node, l), panels = panels_of(p.n, l.width);
    const T* const corner = a.tensor + (p.pair + p.column(l, 0)) * C + channel;
    const int64_t to_next = l.groups * C;
    int half = 0;
    for (int i0 = 0; i0 < p.n; i0 += kStep * l.teams, half ^= 1) {
      Cell* const exchange = shared + half * kStep * kPlane;
#pragma unroll
      for (int r = 0; r < kStep; ++r) {
        const int i = i0 + r * l.teams + p.team;
        const int in_row = i < p.n ? count : 0;
        const T* from = corner + int64_t(i) * p.n * C;
        T x[kCols][kVec];
#pragma unroll
        for (int k = 0; k < kCols; ++k, from += to_next)
          if (k < in_row) load<T, kVec>(from, x[k]);
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
      load<T, kVec>(a.tensor + (p.pair + j * p.n + j) * C + channel, diagonal);
      store<T, kVec>(a.out + (p.node + j) * 3 * C + channel, diagonal);
    }
    __syncthreads();
  });
}

// Adds up the rows that were left in parts; one warp per node.
template <class Cell, class T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(Rank2Args<T> a, Layout l, const T* __restrict__ parts, const int32_t* __restrict__ parts_from) {
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
        if constexpr (std::is_same_v<Cell, Total<T>>)
          total.merge({parts[at]});
        else
          total.merge({parts[at], parts_from[at]});
      }
      write_table<1>(a, i, 1, c, &total);
    }
  }
}

template <Summand kSummand, class T, int kVec>
__global__ void __launch_bounds__(kThreads) broadcast_kernel(Rank2Args<T> a, Layout l) {
  constexpr int kCols = kColumns<T, kVec>;
  const int64_t C = a.channels;
  over_panels<kVec>(a.graph, l, C, [&](const Panel& p, int64_t first_channel) {
    const int64_t channel = first_channel + p.unit * kVec;
    if (p.team >= l.teams || channel >= C) return;
    const T* const table = a.table + p.node * 3 * C + channel;
    Factors<kSummand, T, kVec> factors(a, p.node, channel);
    T columns[kCols][kVec];
#pragma unroll
    for (int k = 0; k < kCols; ++k) {
      const int64_t j = p.column(l, k);
      if (j >= p.n) continue;
      factors.load_column(k, j);
      load<T, kVec>(table + (j * 3 + 1) * C, columns[k]);
    }
    for (int i = p.team; i < p.n; i += l.teams) {
      T row[kVec], diagonal[kVec];
      factors.load_row(i);
      load<T, kVec>(table + (int64_t(i) * 3 + 2) * C, row);
      T* const out = a.out + (p.pair + int64_t(i) * p.n) * C + channel;
#pragma unroll
      for (int k = 0; k < kCols; ++k) {
        const int j = p.column(l, k);
        if (j >= p.n) continue;
        T x[kVec];
#pragma unroll
        for (int v = 0; v < kVec; ++v)
          x[v] = factors.in_row(row[v], k, v, j) + factors.in_column(columns[k][v], k, v, i);
        if (i == j) {
          load<T, kVec>(table + int64_t(i) * 3 * C, diagonal);
#pragma unroll
          for (int v = 0; v < kVec; ++v) x[v] += diagonal[v];
        }
        store<T, kVec>(out + j * C, x);
      }
    }
  });
}

template <class Cell, Summand kSummand, int kVec, class T>
cudaError_t reduce(const Rank2Args<T>& a, T* parts, int32_t* parts_from, cudaStream_t stream) {
  const Layout l(a.graph, a.channels, kVec, kColumns<T, kVec>);
  constexpr size_t shared = sizeof(Cell) * kColumns<T, kVec> * kThreads * kVec;
  const cudaError_t error =
      launch(reduce_kernel<Cell, kSummand, T, kVec>, l.grid(), shared, stream, a, l, parts, parts_from);
  if (error != cudaSuccess || parts == nullptr) return error;
  return launch(finish_kernel<Cell, T>, warp_grid(a.graph.num_nodes), 0, stream, a, l, parts, parts_from);
}

template <int kVec, class T>
cudaError_t run(Rank2Kernel kernel, const Rank2Args<T>& a, T* parts, int32_t* parts_from, cudaStream_t stream) {
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
      if (a.weight) return broadcast(broadcast_kernel<Summand::weighted, T, kVec>);
      if (a.arg) return broadcast(broadcast_kernel<Summand::selected, T, kVec>);
      return broadcast(broadcast_kernel<Summand::plain, T, kVec>);
    case Rank2Kernel::extremum:
      if (a.largest) return reduce<Best<T, true>, Summand::plain, kVec>(a, parts, parts_from, stream);
      return reduce<Best<T, false>, Summand::plain, kVec>(a, parts, parts_from, stream);
  }
  return cudaErrorInvalidValue;
}

template <class T>
bool vectors(const Rank2Args<T>& a) {
  return a.channels % (16 / int(sizeof(T))) == 0 && aligned(a.tensor) && aligned(a.table) && aligned(a.out);
}

}  // namespace

template <class T>
int64_t rank2_cuda_parts(const Rank2Args<T>& a) {
  if (a.graph.num_nodes == 0 || a.channels == 0) return 0;
  constexpr int kVec = 16 / sizeof(T);
  const Layout l = vectors(a) ? Layout(a.graph, a.channels, kVec, kColumns<T, kVec>)
                              : Layout(a.graph, a.channels, 1, kColumns<T, 1>);
  // n particles are n^2 pairs: with no more than this no event is wider than a panel
  if (a.graph.num_edges <= int64_t(l.width) * l.width) return 0;
  return (a.graph.num_edges >> l.log2) + a.graph.num_nodes;
}

template <class T>
cudaError_t rank2_cuda(Rank2Kernel kernel, const Rank2Args<T>& a, T* parts, int32_t* parts_from, cudaStream_t stream) {
  if (a.graph.num_nodes == 0 || a.channels == 0) return cudaSuccess;
  if (vectors(a)) return run<16 / sizeof(T)>(kernel, a, parts, parts_from, stream);
  return run<1>(kernel, a, parts, parts_from, stream);
}

template int64_t rank2_cuda_parts(const Rank2Args<float>&);
template int64_t rank2_cuda_parts(const Rank2Args<double>&);
template cudaError_t rank2_cuda(Rank2Kernel, const Rank2Args<float>&, float*, int32_t*, cudaStream_t);
template cudaError_t rank2_cuda(Rank2Kernel, const Rank2Args<double>&, double*, int32_t*, cudaStream_t);

}  // namespace ek
