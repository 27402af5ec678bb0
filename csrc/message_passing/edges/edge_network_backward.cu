// A block computes its tiles' layers again, keeps in shared memory what activations were applied to, and takes the
// gradient back through them. What it adds to the weights is a share of its own; what edges pass to their senders, a
// row for each edge. Two more kernels add up both, in order.
#include "products.cuh"
#include "tile.cuh"

namespace ek {
namespace {

// What the edges' coordinate update X passes to t, and, with what the invariants pass on (`column`: the gradients of
// those there are), to the points at both ends.
template <class T, class Form>
struct PointGradients {
  using L = Layers<T, Form::per_lane>;
  const Tile<T, Form>& tile;
  const ChainArgs<T>& args = tile.args;
  bool moves;
  const T* last;  // what the last layer's activation is applied to

  __device__ T t(int e) const {
    T value = 0;
    with_device_activation<T>(args.step[args.layers - 1].activation, args.slope,
                              [&](auto act) { value = act.value(last[e]); });
    return value;
  }
  // one up to and at the bound, zero beyond, zero for NaN
  __device__ double seed(int64_t i, int c, double t, double d) const {
    const double g = tile.number(args.grad_coordinates, args.wide, i * args.dim + c);
    return args.clamp == INFINITY || fabs(t * d) <= args.clamp ? g : 0.0;
  }

  __device__ double of_t(int64_t i, int64_t j, double t, double norm) const {
    double sum = 0;
    for (int c = 0; c < args.dim; ++c) {
      const double d = tile.direction(i, j, norm, c);
      sum += seed(i, c, t, d) * d;
    }
    return sum;
  }

  __device__ void through_update(T* grad) const {
    for (int e = threadIdx.x; e < L::kEdges; e += kChainThreads) {
      double sum = 0;
      if (e < tile.count) {
        const int64_t i = tile.base + tile.node[e], j = tile.sender[e];
        sum = of_t(i, j, t(e), tile.norm(e));
      }
      grad[e] = T(sum);
    }
  }

  __device__ void to_points(const T* column, double* to_receiver) const {
    for (int e = threadIdx.x; e < tile.count; e += kChainThreads) {
      const int64_t i = tile.base + tile.node[e], j = tile.sender[e];
      double of_interval = 0, of_product = 0;
      if (args.invariants() > 0) {
        double interval = 0, product = 0;
        if (args.psi) tile.products(e, interval, product);
        if (args.interval) of_interval = 2.0 * double(column[e]) / (1.0 + fabs(interval));
        if (args.product) of_product = double(column[(args.invariants() - 1) * L::kStride + e]) / (1.0 + fabs(product));
      }
      const bool from_sender = moves && args.direction == Direction::sender;
      const bool between = moves && !from_sender && i != j;  // x_i - x_i is 0, whatever x
      const double value = moves ? double(t(e)) : 0.0, norm = moves ? tile.norm(e) : 1.0;
      double of_norm = 0;  // what the norm itself passes on
      if (between && args.direction == Direction::normed) {
        const double root = norm - args.norm_offset;
        of_norm = root == 0 ? 0.0 : of_t(i, j, value, norm) / root;
      }
      for (int c = 0; c < args.dim; ++c) {
        const double xi = tile.x(i, c), xj = tile.x(j, c), eta = args.metric[c];
        double along = of_interval * eta * (xi - xj), sent = of_product * eta * xi;
        if (between) {
          const double d = tile.direction(i, j, norm, c), g = seed(i, c, value, d);
          along += (has_norm(args.direction) ? g / norm - of_norm * eta * d : g) * value;
        }
        if (from_sender) sent += seed(i, c, value, xj) * value;
        to_receiver[c * L::kStride + e] = along + of_product * eta * xj;
        args.grad_points[tile.edge[e] * args.dim + c] = sent - along;
      }
    }
  }
};

template <class T, class Form>
__global__ void __launch_bounds__(kChainThreads, sizeof(T) == 4 ? 4 : 3)
    backward_kernel(ChainArgs<T> args, ChainRoom<T> room) {
  using L = Layers<T, Form::per_lane>;
  constexpr auto packed = [](int64_t count) { return ChainRoom<T>::packed(int(count)); };
  Tile<T, Form> tile(args, room);
  T *const input = tile.column(0), *const kept = tile.column(room.input);
  T* const work[2] = {tile.column(room.input + room.kept), tile.column(room.input + room.kept + room.work)};
  const int64_t parameters = args.parameters();
  const bool ends = args.ends_added(), moves = args.head && args.grad_coordinates;
  T* share = nullptr;
  const auto open = [&](int64_t block) {
    share = args.shares + block * parameters;
    for (int64_t p = threadIdx.x; p < parameters; p += kChainThreads) share[p] = 0;
  };
  tile.over_blocks(open, [&] {
    T *grad = work[0], *h = work[1];
    tile.read_inputs(input);
    if (ends) tile.read_ends(kept);
    __syncthreads();

    // Forward. y: what layer k's activation is applied to, and behind it LayerNorm's scales.
    const T* weight = tile.weights;
    T* y = kept;
    for (int k = 0;; ++k) {
      const int inputs = int(args.inputs(k)), outputs = int(args.channels[k]);
      const T *in = k ? h : input, *bias = weight + outputs * packed(inputs);
      if (k == 0 && ends)
        L::template forward<true>(in, inputs, weight, bias, y, outputs);
      else
        L::template forward<false>(in, inputs, weight, bias, y, outputs);
      __syncthreads();
      const bool last = k + 1 == args.layers;
      L::finish(last ? Step{Activation::identity, args.step[k].norm} : args.step[k], args.slope, y, last ? y : h,
                outputs, y + outputs * L::kStride);
      if (last) break;
      __syncthreads();
      weight = bias + packed(outputs);
      y += (outputs + args.step[k].norm) * L::kStride;
    }

    __syncthreads();

    // And back. grad: of layer k's outputs, then of what its product gave.
    const PointGradients<T, Form> points{tile, args, moves, y};
    int64_t p = parameters;
    bool flows = false;  // until then the gradient is zero
    const auto receive = [&](int channels, auto&& value) {
      __syncthreads();
      over_rows(L::kEdges, channels, [&](int e, int c) {
        T* const g = grad + c * L::kStride + e;
        *g = (flows ? *g : T(0)) + (e < tile.count ? value(e, c) : T(0));
      });
      flows = true;
    };
    for (int k = args.layers - 1; k >= 0; --k) {
      const int inputs = int(args.inputs(k)), outputs = int(args.channels[k]);
      const Step step = args.step[k];
      p -= int64_t(inputs + 1) * outputs;
      if (moves && k == args.layers - 1) {
        points.through_update(grad);
        flows = true;
      }
      if (k == args.edges_at && args.grad_edges)
        receive(outputs, [&](int e, int c) { return args.grad_edges[tile.edge[e] * outputs + c]; });
      if (k == args.messages_at && args.grad_messages)
        receive(outputs, [&](int e, int c) { return args.grad_messages[(tile.base + tile.node[e]) * outputs + c]; });
      const Step before = k ? args.step[k - 1] : Step{};
      const T* const y_before = y - (inputs + before.norm) * L::kStride;
      if (flows) {
        __syncthreads();
        if (k) L::activate(before.activation, args.slope, y_before, h, inputs);
        if (step.activation != Activation::identity) {
          L::through_activation(step.activation, args.slope, y, grad, outputs);
          __syncthreads();
        }
        if (step.norm) L::through_norm(y, y + outputs * L::kStride, outputs, grad);
        __syncthreads();
        L::outer(grad, outputs, k ? h : input, inputs, share + p, share + p + int64_t(inputs) * outputs);
        if (k) {
          __syncthreads();
          L::backward(grad, outputs, weight, h, inputs);
          T* const swap = grad;
          grad = h;
          h = swap;
        }
      }
      if (k) {
        y -= (inputs + before.norm) * L::kStride;
        weight -= inputs * packed(args.inputs(k - 1)) + packed(inputs);
      }
    }
    const int width = int(args.channels[0]);
    if (!flows) L::over_entries(width, [&](int k) { grad[k] = 0; });
    __syncthreads();

    // From z to A, B, s_ij and a_ij.
    const int invariants = args.invariants();
    const bool inputs = args.end_inputs > 0 && (args.grad_receiver || args.grad_end);
    const auto to_ends = [&](const T* receiver, const T* sender) {
      if (args.grad_receiver && args.rows >= 0) tile.write_table(receiver, args.width, args.grad_receiver);
      if (args.grad_receiver && args.rows < 0) tile.sum_at_receivers(receiver, args.width, args.grad_receiver);
      if (args.grad_end) tile.write_table(sender, args.width, args.grad_end);
    };
    if (!inputs) to_ends(grad, grad);
    if ((args.grad_x && invariants > 0) || inputs || args.grad_edge_attr) {
      L::backward(grad, width, tile.weights, h, int(args.inputs(0)));
      __syncthreads();
    }
    const T* const ends_at = h + invariants * L::kStride;
    if (inputs) to_ends(ends_at, ends_at + (args.receiver ? args.width : 0) * L::kStride);
    if (args.grad_edge_attr)
      tile.write_table(ends_at + args.end_inputs * L::kStride, args.edge_width, args.grad_edge_attr);
    if (!args.grad_x) return;
    double* const to_receiver = reinterpret_cast<double*>(grad);
    __syncthreads();
    points.to_points(h, to_receiver);
    __syncthreads();
    if (args.wide)
      tile.sum_at_receivers(to_receiver, args.dim, static_cast<double*>(args.grad_x));
    else
      tile.sum_at_receivers(to_receiver, args.dim, static_cast<T*>(args.grad_x));
  });
}

// out = sum over the edges a node sends of their rows, plus what out holds.
template <bool kAdd, class U, class O>
__global__ void __launch_bounds__(kThreads)
    senders_kernel(GraphView g, const U* table, int64_t channels, O* out, int shift) {
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) >> shift;
  for (int64_t j = first; j < g.num_nodes; j += int64_t(gridDim.x) * kThreads >> shift) {
    const Row row = g.sent(j, g.complete() ? g.event_of(j) : 0);
    for (int64_t c = threadIdx.x & ((1 << shift) - 1); c < channels; c += 1 << shift) {
      U sum = kAdd ? U(out[j * channels + c]) : U(0);
#pragma unroll 4
      for (int64_t k = 0; k < row.count; ++k) sum += table[row.edge(k) * channels + c];
      out[j * channels + c] = O(sum);
    }
  }
}

template <bool kAdd, class U, class O>
cudaError_t sum_at_senders(const GraphView& g, const U* table, int64_t channels, O* out, cudaStream_t stream) {
  int shift = 0;
  while ((1 << shift) < kWarp && (1 << shift) < channels) ++shift;
  const unsigned grid = grid_for(g.num_nodes, kThreads >> shift);
  return launch(senders_kernel<kAdd, U, O>, grid, 0, stream, g, table, channels, out, shift);
}

// out[p] = sum over blocks of their shares: lanes have neighbouring parameters.
template <class T>
__global__ void __launch_bounds__(kThreads) shares_kernel(const T* shares, int64_t blocks, int64_t parameters, T* out) {
  for (int64_t first = int64_t(blockIdx.x) * kWarp; first < parameters; first += int64_t(gridDim.x) * kWarp) {
    const int64_t p = first + lane();
    const bool there = p < parameters;
    const double sum = sum_by_warps(there ? blocks : 0, [&](int64_t b) { return shares[b * parameters + p]; });
    if (there && threadIdx.x < kWarp) out[p] = T(sum);
  }
}

}  // namespace

template <class T>
cudaError_t edge_network_backward_cuda(const ChainArgs<T>& args, cudaStream_t stream) {
  cudaError_t error = start_chain(args, true, stream, [](auto form) { return backward_kernel<T, decltype(form)>; });
  const bool nodes = args.rows < 0 && args.graph.num_nodes > 0;
  if (error == cudaSuccess && nodes && args.grad_sender)
    error = sum_at_senders<false>(args.graph, args.grad_end, args.width, args.grad_sender, stream);
  if (error == cudaSuccess && nodes && args.grad_x)
    error =
        args.wide
            ? sum_at_senders<true>(args.graph, args.grad_points, args.dim, static_cast<double*>(args.grad_x), stream)
            : sum_at_senders<true>(args.graph, args.grad_points, args.dim, static_cast<T*>(args.grad_x), stream);
  const int64_t parameters = args.parameters();
  if (error == cudaSuccess && parameters > 0)
    error = launch(shares_kernel<T>, grid_for(parameters, kWarp), kThreads * sizeof(double), stream, args.shares,
                   args.blocks, parameters, args.grad_weights);
  return error;
}

template cudaError_t edge_network_backward_cuda(const ChainArgs<float>&, cudaStream_t);
template cudaError_t edge_network_backward_cuda(const ChainArgs<double>&, cudaStream_t);

}  // namespace ek
