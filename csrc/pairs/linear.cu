// linear_2to2, forward: the maps of a layer, the values of events, the table of particles.
#include "linear.cuh"

namespace ek {
namespace {

// A thread for each number that is made.
template <class S>
__global__ void __launch_bounds__(kThreads) make_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  const int64_t C = a.in, D = a.width, of_maps = a.maps * C * D, biases = a.of_pairs ? D : 0;
  const int64_t of_factors = a.graph.num_events * a.factored * C,
                all = of_maps + biases + of_factors + 2 * a.graph.num_events;
  for (int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x; k < all; k += int64_t(gridDim.x) * kThreads) {
    if (k < of_maps) {
      const int64_t row = k / D, d = k % D, c = row % C;
      const T w = map_value(a, int(row / C), c, d);
      a.made[k] = w;
      if (a.of_pairs && row < 2 * C) a.pairs[k] = a.scale ? widen(a.scale[c]) * w : w;
    } else if (k < of_maps + biases) {
      const int64_t d = k - of_maps;
      T sum = a.bias ? widen(a.bias[d]) : T(0);
      for (int64_t c = 0; c < C && a.shift; ++c)
        sum += widen(a.shift[c]) * (map_value(a, 0, c, d) + map_value(a, 1, c, d));
      a.pair_bias[d] = sum;
    } else if (k >= of_maps + biases + of_factors) {
      const int64_t at = k - of_maps - biases - of_factors, b = at / 2;
      a.of_events[at] = at % 2 ? log_of_size(a, b) : T(1) / (a.mean ? size_of(a, b) : T(a.nbar));
    } else {
      const int64_t at = k - of_maps - biases, c = at % C, row = at / C, b = row / a.factored;
      const int m = int(row % a.factored);
      const T norm = a.mean ? size_of(a, b) : T(a.nbar);
      const T power = a.powers[m] == 0 ? T(1) : a.powers[m] == 1 ? T(1) / norm : T(1) / (norm * norm);
      a.factors[at] = a.alpha ? T(exp(widen(a.alpha[c * a.factored + m]) * log_of_size(a, b))) * power : power;
    }
  }
}

// A block for each event. shared: a number of each thread, sums [2, in]
template <class S>
__global__ void __launch_bounds__(kThreads) events_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  T *const shared = block_memory<T>(), *const sums = shared + kThreads;
  const int C = int(a.in), D = int(a.width);
  for (int64_t b = blockIdx.x; b < a.graph.num_events; b += gridDim.x) {
    const Event<S> e(a, b);
    event_sums(a, e, shared, sums);
    for (int u = threadIdx.x; u < 2 * D; u += kThreads) {
      const int slot = u >= D;
      const int d = slot ? u - D : u;
      const S* const bias = slot ? a.diag_bias : nullptr;  // the other one is in pair_bias
      T value = bias ? widen(bias[d]) : slot ? T(0) : a.pair_bias[d];
      for (int part = 0; part < a.kOfEvent; ++part) {
        const int map = a.map_of_event(part, slot);
        const T* const matrix = a.made + int64_t(map) * C * D + d;
#pragma unroll 4
        for (int c = 0; c < C; ++c)
          value = multiply_add(sums[part * C + c] * e.factor(a, map, c), matrix[c * D], value);
      }
      a.values[b * 2 * D + u] = value;
    }
    __syncthreads();
  }
}

// Rows are particles; a block has one slot. shared: the event of each row, then the tile
template <class S>
__global__ void __launch_bounds__(kThreads) nodes_kernel(LinearArgs<S> a, ProductLayout l) {
  using T = Accumulator<S>;
  constexpr int kRows = kTileRows<T>;
  const int rows = l.groups * kRows;
  int64_t* const events = block_memory<int64_t>();
  T* const shared = reinterpret_cast<T*>(events + rows);
  const int group = threadIdx.x / l.columns, column = threadIdx.x % l.columns;
  const int C = int(a.in), D = int(a.width);
  const int64_t nodes = a.graph.num_nodes;
  const unsigned blocks = l.tiles * l.passes;
  for (unsigned block = blockIdx.x; block < a.kSlots * blocks; block += gridDim.x) {
    const int slot = int(block / blocks);
    const int64_t first = int64_t(block % blocks / l.passes) * rows;
    const int first_column = int(block % l.passes) * l.columns * kTileColumns;
    const int count = nodes - first < rows ? int(nodes - first) : rows;
    __syncthreads();
    for (int r = threadIdx.x; r < count; r += blockDim.x) events[r] = a.graph.event_of(first + r);
    T z[kRows][kTileColumns];
    tile_product<T>(
        l, shared, 3 * C, count, D - first_column,
        [&](int k) { return [&, k](int r) { return node_input(a, Event<S>(a, events[r]), first + r, slot, k); }; },
        [&](int k) {
          const int part = (k >= C) + (k >= 2 * C);
          const T* const from = a.made + (int64_t(a.map_of_node(part, slot)) * C + k - part * C) * D + first_column;
          return [=](int o) { return from[o]; };
        },
        z);
    if (group >= l.groups) continue;
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const int r = group * kRows + m;
      if (r >= count) break;
      const int64_t node = first + r, value = (events[r] * 2 + (slot == 0)) * D;
#pragma unroll
      for (int o = 0; o < kTileColumns; ++o) {
        const int d = first_column + column * kTileColumns + o;
        if (d < D) a.table[(node * 3 + slot) * D + d] = z[m][o] + (slot == 1 ? T(0) : a.values[value + d]);
      }
    }
  }
}

}  // namespace

template <class S>
cudaError_t linear_make_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  const int64_t biases = a.of_pairs ? a.width : 0;
  const int64_t all = a.maps * a.in * a.width + biases + a.graph.num_events * (a.factored * a.in + 2);
  return launch(make_kernel<S>, grid_for(all, kThreads), 0, stream, a);
}

template <class S>
cudaError_t linear_events_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_events == 0) return cudaSuccess;
  const size_t shared = sizeof(Accumulator<S>) * (kThreads + 2 * a.in);
  return launch(events_kernel<S>, grid_for(a.graph.num_events, 1), shared, stream, a);
}

template <class S>
cudaError_t linear_nodes_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  using T = Accumulator<S>;
  if (a.graph.num_nodes == 0) return cudaSuccess;
  const ProductLayout l(a.graph.num_nodes, a.width, kTileRows<T>, a.kSlots);
  const size_t shared = sizeof(int64_t) * l.groups * kTileRows<T> + sizeof(T) * l.shared_numbers<T>();
  return launch_threads(nodes_kernel<S>, l.grid(a.kSlots), unsigned(l.threads), shared, stream, a, l);
}

#define EK_LINEAR(S)                                                           \
  template cudaError_t linear_make_cuda(const LinearArgs<S>&, cudaStream_t);   \
  template cudaError_t linear_events_cuda(const LinearArgs<S>&, cudaStream_t); \
  template cudaError_t linear_nodes_cuda(const LinearArgs<S>&, cudaStream_t);
EK_LINEAR(float)
EK_LINEAR(double)
EK_LINEAR(BFloat16)
EK_LINEAR(Float16)
#undef EK_LINEAR

}  // namespace ek
