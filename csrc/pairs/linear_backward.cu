// linear_2to2, backward on particles and events, and the gradients of the layer's parameters.
#include "linear.cuh"

namespace ek {
namespace {

// A block for each event: gradients of its values, of what made them and of its sums.
// shared: a number of each thread, sums [2, in], values [2, width], gradients of inputs [2, 2 in]
template <class S>
__global__ void __launch_bounds__(kThreads) events_backward_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  const int C = int(a.in), D = int(a.width);
  T *const shared = block_memory<T>(), *const sums = shared + kThreads, *const values = sums + 2 * C;
  T* const grads = values + 2 * D;
  for (int64_t b = blockIdx.x; b < a.graph.num_events; b += gridDim.x) {
    const Event<S> e(a, b);
    event_sums(a, e, shared, sums);
    sum_rows(e.n, 2 * D, shared, values, [&](int64_t r, int u) {
      return widen(a.grad_table[((e.node + r) * 3 + (u < D ? 2 : 0)) * D + (u < D ? u : u - D)]);
    });
    for (int u = threadIdx.x; u < 2 * D; u += kThreads) a.grad_values[b * 2 * D + u] = values[u];
    constexpr int kEach = kThreads / 4;  // a quarter of the threads for each slot and part
    const int row = threadIdx.x / kEach, slot = row / 2, part = row % 2, map = a.map_of_event(part, slot);
    for (int c = threadIdx.x % kEach; c < C; c += kEach) {
      const T *const matrix = a.made + (int64_t(map) * C + c) * D, *const value = values + slot * D;
      T grad = 0;
#pragma unroll 4
      for (int d = 0; d < D; ++d) grad = multiply_add(value[d], matrix[d], grad);
      const T sum = sums[part * C + c];
      grads[row * C + c] = grad;
      a.grad_factors[(b * a.kFactors + map - 5) * C + c] = grad * sum;
      a.event_inputs[(b * 4 + row) * C + c] = sum * e.factor(a, map, c);
    }
    __syncthreads();
    for (int u = threadIdx.x; u < 2 * C; u += kThreads) {
      const int part = u >= C;
      const int c = u - part * C;
      a.grad_sums[b * 2 * C + u] = grads[u] * e.factor(a, a.map_of_event(part, 0), c) +
                                   grads[2 * C + u] * e.factor(a, a.map_of_event(part, 1), c);
    }
    __syncthreads();
  }
}

// Of what was multiplied to the slots of the table.
template <class S>
__global__ void __launch_bounds__(kThreads) grad_inputs_kernel(LinearArgs<S> a, ProductLayout l) {
  using T = Accumulator<S>;
  constexpr int kRows = kTileRows<T>;
  const int rows = l.groups * kRows, group = threadIdx.x / l.columns, column = threadIdx.x % l.columns;
  const int C = int(a.in), D = int(a.width);
  const int64_t nodes = a.graph.num_nodes;
  const unsigned blocks = l.tiles * l.passes;
  for (unsigned block = blockIdx.x; block < a.kSlots * blocks; block += gridDim.x) {
    const int slot = int(block / blocks);
    const int64_t first = int64_t(block % blocks / l.passes) * rows;
    const int first_column = int(block % l.passes) * l.columns * kTileColumns;
    const int count = nodes - first < rows ? int(nodes - first) : rows;
    T z[kRows][kTileColumns];
    tile_product<T>(
        l, block_memory<T>(), D, count, 3 * C - first_column,
        [&](int k) {
          const S* const from = a.grad_table + (first * 3 + slot) * D + k;
          return [=](int r) { return widen(from[r * 3 * D]); };
        },
        [&](int k) {
          return [&, k](int o) {
            const int at = first_column + o, part = (at >= C) + (at >= 2 * C);
            return a.made[(int64_t(a.map_of_node(part, slot)) * C + at - part * C) * D + k];
          };
        },
        z);
    if (group >= l.groups) continue;
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const int r = group * kRows + m;
      if (r >= count) break;
#pragma unroll
      for (int o = 0; o < kTileColumns; ++o) {
        const int k = first_column + column * kTileColumns + o;
        if (k < 3 * C) a.grad_inputs[(slot * nodes + first + r) * 3 * C + k] = z[m][o];
      }
    }
  }
}

constexpr int kPulled = 8;  // sums over an event: of six factors, scale and shift

// Gradients of the aggregates of an event's particles, of its factors, and its shares of those of scale and shift. A
// block for each event; threads share channels and, `teams`, particles.
template <class S>
__global__ void __launch_bounds__(kThreads) pull_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  T* const shared = block_memory<T>();  // [kPulled, kThreads]
  const int64_t C = a.in, nodes = a.graph.num_nodes;
  const int across = C < kThreads ? int(C) : kThreads, teams = kThreads / across;
  const int unit = threadIdx.x % across, team = threadIdx.x / across;
  for (int64_t b = blockIdx.x; b < a.graph.num_events; b += gridDim.x) {
    const Event<S> e(a, b);
    for (int64_t first = 0; first < C; first += across) {
      const int64_t c = first + unit;
      T sums[kPulled] = {};
      if (c < C && team < teams)
        for (int64_t i = e.node + team; i < e.node + e.n; i += teams) {
#pragma unroll
          for (int part = 0; part < 3; ++part) {
            const T count = part == 0 ? T(1) : T(e.n), raw = widen(a.aggregates[(i * 3 + part) * C + c]);
            const T now = normed(a, raw, count, c);
            T grad = part == 1 ? T(0) : a.grad_sums[(b * 2 + (part == 2)) * C + c];
#pragma unroll
            for (int slot = 0; slot < 3; ++slot) {
              const T g = a.grad_inputs[((slot * nodes + i) * 3 + part) * C + c];
              grad += part == 0 ? g : g * e.factor(a, a.map_of_node(part, slot), c);
              if (part > 0) sums[(part - 1) * 3 + slot] += g * now;
            }
            sums[6] += grad * raw;
            sums[7] += grad * count;
            a.grad_aggregates[(i * 3 + part) * C + c] = a.scale ? grad * widen(a.scale[c]) : grad;
          }
        }
#pragma unroll
      for (int k = 0; k < kPulled; ++k) shared[k * kThreads + threadIdx.x] = sums[k];
      __syncthreads();
      if (team == 0 && c < C) {
#pragma unroll
        for (int k = 0; k < kPulled; ++k) {
          for (int other = 1; other < teams; ++other) sums[k] += shared[k * kThreads + other * across + unit];
          if (k < 6)
            a.grad_factors[(b * a.kFactors + k) * C + c] = sums[k];
          else
            a.of_affine[(b * 2 + k - 6) * C + c] = sums[k];
        }
      }
      __syncthreads();
    }
  }
}

// Parts of the gradients of the maps of particles, a slot's maps one above another.
template <class S>
__global__ void __launch_bounds__(kThreads) node_maps_kernel(LinearArgs<S> a, OuterLayout l) {
  using T = Accumulator<S>;
  int64_t* const events = block_memory<int64_t>();
  T* const shared = reinterpret_cast<T*>(events + l.step);
  const int C = int(a.in), D = int(a.width);
  const unsigned pieces = l.pieces_down * l.pieces_across;
  for (unsigned block = blockIdx.x; block < l.shares * 3 * pieces; block += gridDim.x) {
    const int64_t share = block / (3 * pieces), begin = share * l.rows_each;
    const int slot = int(block / pieces % 3);
    const int64_t end = begin + l.rows_each < a.graph.num_nodes ? begin + l.rows_each : a.graph.num_nodes;
    outer_product<T>(
        l, shared, block % pieces, begin, end, 3 * C, D,
        [&](int64_t first, int count) {
          for (int r = threadIdx.x; r < count; r += blockDim.x) events[r] = a.graph.event_of(first + r);
        },
        [&](int r, int64_t node) {
          return [&, e = Event<S>(a, events[r]), node](int k) {
            return k < 3 * C ? node_input(a, e, node, slot, k) : T(0);
          };
        },
        [&](int64_t node) {
          const S* const from = a.grad_table + (node * 3 + slot) * D;
          return [=](int o) { return widen(from[o]); };
        },
        a.node_parts + (share * 3 + slot) * 3 * C * D);
  }
}

// The same of the maps of events, and below them of the bias: that of rows, then that of the diagonal.
template <class S>
__global__ void __launch_bounds__(kThreads) event_maps_kernel(LinearArgs<S> a, OuterLayout l) {
  using T = Accumulator<S>;
  const int C = int(a.in), D = int(a.width);
  const unsigned pieces = l.pieces_down * l.pieces_across, slots = a.event_slots();
  for (unsigned block = blockIdx.x; block < l.shares * slots * pieces; block += gridDim.x) {
    const int64_t share = block / (slots * pieces), begin = share * l.rows_each, slot = block / pieces % slots;
    const int64_t end = begin + l.rows_each < a.graph.num_events ? begin + l.rows_each : a.graph.num_events;
    outer_product<T>(
        l, block_memory<T>(), block % pieces, begin, end, 2 * C + 1, D, [](int64_t, int) {},
        [&](int, int64_t b) {
          const T* const from = a.event_inputs + (b * slots + slot) * 2 * C;
          return [=](int k) { return k < 2 * C ? from[k] : T(k == 2 * C); };
        },
        [&](int64_t b) {
          const T* const from = a.grad_values + (b * slots + slot) * D;
          return [=](int o) { return from[o]; };
        },
        a.event_parts + (share * slots + slot) * (2 * C + 1) * D);
  }
}

// Element (c, d) of the gradient of map k.
template <class S>
__device__ inline Accumulator<S> grad_map(const LinearArgs<S>& a, int k, int64_t c, int64_t d) {
  const int64_t C = a.in, D = a.width;
  if (!a.of_pairs) return a.of_event_maps[(k * C + c) * D + d];
  if (k >= 11)  // of event: the trace, the total
    return a.of_event_maps[((k - 11) % 2 * (2 * C + 1) + (k - 11) / 2 * C + c) * D + d];
  if (k >= 2) return a.of_node_maps[((k - 2) % 3 * 3 + (k - 2) / 3) * C * D + c * D + d];
  const Accumulator<S> g = a.of_pair_maps[(k * C + c) * D + d];
  if (!a.scale) return g;
  return widen(a.scale[c]) * g + widen(a.shift[c]) * a.of_event_maps[2 * C * D + d];
}

// A thread for each number of a parameter; of scale and shift, and of alpha, a warp.
template <class S>
__global__ void __launch_bounds__(kThreads, 2) parameters_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  const int C = int(a.in), D = int(a.width), kept = int(a.kept), step = gridDim.x * kThreads;
  const int thread = blockIdx.x * kThreads + threadIdx.x;
  const int64_t events = a.graph.num_events;
  const auto each = [&](const S* wanted, int count, auto&& value) {
    if (wanted)
      for (int k = thread; k < count; k += step) narrow(value(k), const_cast<S*>(wanted)[k]);
  };
  const auto kept_map = [&](int p) {
    int k = 0;
    while (a.at[k] != p) ++k;
    return k;
  };
  if (a.coefs01) {
    each(a.to_coefs, C * kept, [&](int at) {
      const int c = at / kept;
      const int k = kept_map(at % kept);
      T sum = 0;
      for (int d = 0; d < D; ++d) sum = multiply_add(grad_map(a, k, c, d), T(widen(a.coefs10[c * D + d])), sum);
      return sum;
    });
    each(a.to_coefs01, D * kept, [&](int at) {
      const int d = at / kept;
      const int k = kept_map(at % kept);
      T sum = 0;
      for (int c = 0; c < C; ++c) sum = multiply_add(grad_map(a, k, c, d), T(widen(a.coefs11[c * D + d])), sum);
      return sum;
    });
    each(a.to_coefs10, C * D, [&](int at) {
      const int c = at / D, d = at % D;
      T sum = 0;
      for (int k = 0; k < a.maps; ++k)
        if (a.at[k] >= 0) sum = multiply_add(grad_map(a, k, c, d), T(widen(a.coefs[c * kept + a.at[k]])), sum);
      return sum;
    });
    each(a.to_coefs11, C * D, [&](int at) {
      const int c = at / D, d = at % D;
      T sum = 0;
      for (int k = 0; k < a.maps; ++k)
        if (a.at[k] >= 0) sum = multiply_add(grad_map(a, k, c, d), T(widen(a.coefs01[d * kept + a.at[k]])), sum);
      return sum;
    });
  } else {
    each(a.to_coefs, C * D * kept,
         [&](int at) { return grad_map(a, kept_map(at % kept), at / kept / D, at / kept % D); });
  }
  each(a.to_bias, D, [&](int d) { return a.of_event_maps[2 * C * D + d]; });
  each(a.to_diag_bias, D, [&](int d) { return a.of_event_maps[(4 * C + 1) * D + d]; });

  if (a.to_affine)
    for (int u = int(first_warp()); u < 2 * C; u += int(warp_step())) {
      const bool shift = u >= C;
      const int c = u - shift * C;
      T sum = 0;
      for (int at = lane(); at < 2 * D && a.of_pairs; at += kWarp) {
        const int m = at >= D, d = at - m * D;
        const T g = shift ? a.of_event_maps[2 * C * D + d] : a.of_pair_maps[(m * C + c) * D + d];
        sum = multiply_add(g, a.made[(m * C + c) * D + d], sum);
      }
      sum = team_sum(sum, kWarp);
      if (lane() == 0) narrow(sum + a.of_events_affine[u], a.to_affine[u]);
    }
  if (a.to_alpha) {
    const int maps = int(a.factored);
    for (int u = int(first_warp()); u < maps * C; u += int(warp_step())) {
      T sum = 0;
      for (int64_t b = lane(); b < events; b += kWarp) {
        const int64_t at = b * maps * C + u;
        sum = multiply_add(a.grad_factors[at] * a.factors[at], a.of_events[b * 2 + 1], sum);
      }
      sum = team_sum(sum, kWarp);
      if (lane() == 0) narrow(sum, a.to_alpha[u % C * maps + u / C]);
    }
  }
}

template <class S>
OuterLayout node_layout(const LinearArgs<S>& a) {
  return OuterLayout(a.graph.num_nodes, 3 * a.in, a.width, kTileRows<Accumulator<S>>);
}
template <class S>
OuterLayout event_layout(const LinearArgs<S>& a) {
  return OuterLayout(a.graph.num_events, 2 * a.in + 1, a.width, kTileRows<Accumulator<S>>);
}

}  // namespace

template <class S>
cudaError_t linear_events_backward_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_events == 0) return cudaSuccess;
  const size_t shared = sizeof(Accumulator<S>) * (kThreads + 6 * a.in + 2 * a.width);
  return launch(events_backward_kernel<S>, grid_for(a.graph.num_events, 1), shared, stream, a);
}

template <class S>
cudaError_t linear_grad_inputs_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  using T = Accumulator<S>;
  if (a.graph.num_nodes == 0) return cudaSuccess;
  const ProductLayout l(a.graph.num_nodes, 3 * a.in, kTileRows<T>, a.kSlots);
  return launch_threads(grad_inputs_kernel<S>, l.grid(a.kSlots), unsigned(l.threads), sizeof(T) * l.shared_numbers<T>(),
                        stream, a, l);
}

template <class S>
cudaError_t linear_pull_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_events == 0) return cudaSuccess;
  const size_t shared = sizeof(Accumulator<S>) * kPulled * kThreads;
  return launch(pull_kernel<S>, grid_for(a.graph.num_events, 1), shared, stream, a);
}

template <class S>
int64_t linear_node_shares(const LinearArgs<S>& a) {
  return node_layout(a).shares;
}
template <class S>
int64_t linear_event_shares(const LinearArgs<S>& a) {
  return event_layout(a).shares;
}

template <class S>
cudaError_t linear_node_maps_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  using T = Accumulator<S>;
  if (a.graph.num_nodes == 0) return cudaSuccess;
  const OuterLayout l = node_layout(a);
  const size_t shared = sizeof(int64_t) * l.step + sizeof(T) * l.shared_numbers<T>();
  return launch_threads(node_maps_kernel<S>, l.grid(a.kSlots), unsigned(l.threads), shared, stream, a, l);
}

template <class S>
cudaError_t linear_event_maps_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  using T = Accumulator<S>;
  if (a.graph.num_events == 0) return cudaSuccess;
  const OuterLayout l = event_layout(a);
  return launch_threads(event_maps_kernel<S>, l.grid(a.event_slots()), unsigned(l.threads),
                        sizeof(T) * l.shared_numbers<T>(), stream, a, l);
}

template <class S>
cudaError_t linear_parameters_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  return launch(parameters_kernel<S>, grid_for(a.maps * a.in * a.width, kThreads), 0, stream, a);
}

#define EK_LINEAR(S)                                                                    \
  template cudaError_t linear_events_backward_cuda(const LinearArgs<S>&, cudaStream_t); \
  template cudaError_t linear_grad_inputs_cuda(const LinearArgs<S>&, cudaStream_t);     \
  template cudaError_t linear_pull_cuda(const LinearArgs<S>&, cudaStream_t);            \
  template int64_t linear_node_shares(const LinearArgs<S>&);                            \
  template int64_t linear_event_shares(const LinearArgs<S>&);                           \
  template cudaError_t linear_node_maps_cuda(const LinearArgs<S>&, cudaStream_t);       \
  template cudaError_t linear_event_maps_cuda(const LinearArgs<S>&, cudaStream_t);      \
  template cudaError_t linear_parameters_cuda(const LinearArgs<S>&, cudaStream_t);
EK_LINEAR(float)
EK_LINEAR(double)
EK_LINEAR(BFloat16)
EK_LINEAR(Float16)
#undef EK_LINEAR

}  // namespace ek
