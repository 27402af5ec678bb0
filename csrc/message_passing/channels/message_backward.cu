// Gradients of messages on tensor cores: the forward pass of a tile again, then back through it. Two passes of one
// kernel: over receivers, for what they own and for the weights, and over senders.
#include "message_cuda.h"
#include "outer.cuh"
#include "points.cuh"

namespace ek {
namespace {

constexpr int kBackwardWarps = 8;  // of a block, which leaves each thread 255 registers: fewer share less of a product
constexpr int kMostShares = 512;   // of the weights' gradients: each is a copy of all weights

// What one pass adds to the launch's arguments.
struct Pass {
  bool receiving, head;
  int sums;        // vectors that are sums over all edges: those of Vector, Q's columns, and the gate's bias
  int64_t groups;  // of nodes that a block takes at a time
  int64_t shares;  // of the groups, each of them some block's
  float* memory;   // of the shares, [shares][share_size]
};

template <int kTiles>
constexpr int64_t share_size(int layers, int sums) {
  return int64_t(8 * kTiles) * (8 * kTiles * layers + sums);
}

// A warp's own shared memory; its tiles and its sums lie elsewhere.
struct WarpState {
  double points[kRows * kMessageDim];
  TileRows rows;
  float t[kRows], slopes[2][kRows];
  int more;
};

template <int kTiles, class Act, class X>
struct TileGradient {
  static constexpr int kStride = kRowStride<kTiles>, kPadded = 8 * kTiles;
  static constexpr int kColumns = (kPadded + kWarp - 1) / kWarp;
  using Tile = Fragment<kTiles>;

  const MessageArgs<float, X>& args;
  const MessageOnTiles& how;
  const Pass& pass;
  const Act& act;
  SharedWeights<kTiles> weights;
  float *tiles, *sums;  // of the block, of the warp
  WarpState& own;
  float* share;

  __device__ float* of_block(int k) const { return tiles + k * (blockDim.x / kWarp * kRows * kStride); }
  __device__ float* tile(int k) const { return of_block(k) + threadIdx.x / kWarp * (kRows * kStride); }
  __device__ float* sum(int which) const { return sums + which * kPadded; }

  // f(tile of channels, place, number by reference) for each of the lane's numbers.
  template <class F>
  static __device__ void each(Tile& x, F&& f) {
#pragma unroll
    for (int q = 0; q < kTiles; ++q)
#pragma unroll
      for (int k = 0; k < 4; ++k) f(q, k, x[q][k]);
  }

  // The layer's weight: the gradient of its outputs is in tile `from` of each warp, its inputs are in `in`.
  __device__ void add_weights(int layer, int from, int in) const {
    __syncthreads();
    add_outer<kTiles>(how.multiply, of_block(from), of_block(in), blockDim.x / kWarp * kRows, how.out_tiles[layer],
                      how.tiles[layer], share + layer * kPadded * kPadded);
  }

  // Everything of a tile up to the gradient of z, which is left in x and in tile 0.
  __device__ void run(Tile& x) const {
    Tile z;
    const int last = args.depth - 1;
    find_invariants(args, pass.receiving, own.rows);
    gather(args, weights, pass.receiving, own.rows, z);
    for (int layer = 0; layer < last; ++layer) {
      store_tile(z, tile(layer));
      activate_all(act, z, x, tile(last));
      clear(z);
      add_product_of<false>(how.multiply, x, weights.matrix(layer), how.tiles[layer], z);
      add_bias(weights.vector(kBiasVectors + layer), z);
    }
    activate_all(act, z, x, tile(last));
    float gate[2] = {1.f, 1.f};
    if (args.gate_weight) {
      dot_rows(x, weights.vector(kGateVector), gate);
      const float bias = args.gate_bias ? *args.gate_bias : 0.f;
      gate[0] = logistic(gate[0] + bias);
      gate[1] = logistic(gate[1] + bias);
    }
    if (pass.head)
      through_head(gate, x);
    else
      clear(x);
    seed(x);
    if (args.gate_weight) through_gate(gate, z, x);
    for (int layer = last;; --layer) {
      through_all(act, z, x, tile(layer));
      store_tile(x, tile(layer));
      if (layer == 0) break;
      load_tile(tile(layer - 1), z);
      if (pass.receiving) {
        add_columns<kTiles>(tile(layer), nullptr, sum(kBiasVectors + layer - 1));
        Tile h;
        activate_all(act, z, h, tile(layer - 1));
        store_tile(h, tile(layer - 1));
        add_weights(layer - 1, layer, layer - 1);
      }
      Tile g;
      clear(g);
      add_product_of<true>(how.multiply, x, weights.matrix(layer - 1), how.out_tiles[layer - 1], g);
      each(x, [&](int q, int k, float& v) { v = g[q][k]; });
      if (pass.receiving) __syncthreads();  // the block has read the tiles
    }
    __syncwarp();
  }

  // x: from the messages without the gate to what the head adds to the gradient of those with it.
  __device__ void through_head(const float (&gate)[2], Tile& x) const {
    const int layer = args.depth - 1, spare = args.depth;
    Tile z;
    each(x, [&](int, int k, float& v) { v *= gate[k / 2]; });
    if (pass.receiving) store_tile(x, tile(layer));
    clear(z);
    add_product_of<false>(how.multiply, x, weights.matrix(layer), how.tiles[layer], z);
    add_bias(weights.vector(kBiasVectors + layer), z);
    activate_all(act, z, x, tile(spare));
    float t[2];
    dot_rows(x, weights.vector(kHeadOutVector), t);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (lane() % 4 == 0) own.rows.factor[row_of(2 * half)] = t[half];
    through_steps(args, pass.receiving, own.rows, own.t);
    if (pass.receiving) {
      store_tile(x, tile(spare));
      add_columns<kTiles>(tile(spare), own.rows.factor, sum(kHeadOutVector));
    }
    each(x, [&](int q, int k, float& g) {
      g = own.rows.factor[row_of(k)] * weights.vector(kHeadOutVector)[column_of(q, k)];
    });
    through_all(act, z, x, tile(spare));
    if (pass.receiving) {
      store_tile(x, tile(spare));
      add_columns<kTiles>(tile(spare), nullptr, sum(kBiasVectors + layer));
      add_weights(layer, spare, layer);
    }
    clear(z);
    add_product_of<true>(how.multiply, x, weights.matrix(layer), how.out_tiles[layer], z);
    each(x, [&](int q, int k, float& v) { v = z[q][k]; });
    if (pass.receiving) __syncthreads();  // the block has read the tiles
  }

  // x += what the outputs M and m pass back to the messages
  __device__ void seed(Tile& x) const {
    const int width = how.message_width;
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const int row = row_of(half);
      if (own.rows.owner[row] < 0) continue;
      const int64_t i = pass.receiving ? own.rows.owner[row] : own.rows.other[row];
      const float* const nodes = args.grad_messages ? args.grad_messages + i * width : nullptr;
      const float* const edges = args.grad_edges ? args.grad_edges + own.rows.edge[row] * width : nullptr;
      const float share = args.mean_messages ? 1.f / float(own.rows.degree[row]) : 1.f;
#pragma unroll
      for (int q = 0; q < kTiles; ++q)
#pragma unroll
        for (int k = half; k < half + 2; ++k) {
          const int c = column_of(q, k);
          if (c >= width) continue;
          if (nodes) x[q][k] += nodes[c] * share;
          if (edges) x[q][k] += edges[c];
        }
    }
  }

  // x: from the gated messages to those without the gate, act(z)
  __device__ void through_gate(const float (&gate)[2], const Tile& z, Tile& x) const {
    Tile h;
    activate_all(act, z, h, tile(args.depth - 1));
    float factor[2] = {0.f, 0.f};
    each(x, [&](int q, int k, float& v) { factor[k / 2] += v * h[q][k]; });
#pragma unroll
    for (int half = 0; half < 2; ++half) factor[half] = team_sum(factor[half], 4) * (gate[half] * (1.f - gate[half]));
    if (pass.receiving) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (lane() % 4 == 0) own.rows.factor[row_of(2 * half)] = factor[half];
      store_tile(h, tile(args.depth - 1));
      add_columns<kTiles>(tile(args.depth - 1), own.rows.factor, sum(kGateVector));
      if (lane() == 0)
        for (int r = 0; r < kRows; ++r) *sum(pass.sums - 1) += own.rows.factor[r];
    }
    const float* const weight = weights.vector(kGateVector);
    each(x, [&](int q, int k, float& v) { v = gate[k / 2] * v + factor[k / 2] * weight[column_of(q, k)]; });
  }

  // The gradient of z, in x and in tile 0, to S, Q and a_ij, and the slopes of s_ij.
  __device__ void through_columns(const Tile& x) const {
    const int columns = args.interval + args.product;
    for (int n = 0; n < columns; ++n) {
      float slopes[2];
      dot_rows(x, weights.vector(kColumn0 + n), slopes);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (lane() % 4 == 0) own.slopes[n][row_of(2 * half)] = slopes[half];
      if (pass.receiving) add_columns<kTiles>(tile(0), own.rows.invariant[n], sum(kColumn0 + n));
    }
    if (!pass.receiving) return;
    for (int n = 0; n < int(args.edge_width); ++n) {
      const int r = lane();
      __syncwarp();
      if (r < kRows)
        own.rows.factor[r] = own.rows.owner[r] < 0 ? 0.f : args.edge_attr[own.rows.edge[r] * args.edge_width + n];
      add_columns<kTiles>(tile(0), own.rows.factor, sum(kVectors + n));
      if (!args.grad_edge_attr || r >= kRows || own.rows.owner[r] < 0) continue;
      float total = 0.f;
      for (int c = 0; c < int(args.width); ++c)
        total += tile(0)[r * kStride + c] * args.edge_weight[c * args.edge_width + n];
      args.grad_edge_attr[own.rows.edge[r] * args.edge_width + n] = total;
    }
    __syncwarp();
  }
};

template <int kTiles, class Act, class X>
__global__ void __launch_bounds__(kBackwardWarps* kWarp, 1)
    backward_kernel(const __grid_constant__ MessageArgs<float, X> args, const __grid_constant__ MessageOnTiles how,
                    const __grid_constant__ Pass pass, Act act) {
  using Gradient = TileGradient<kTiles, Act, X>;
  constexpr int kStride = Gradient::kStride, kPadded = Gradient::kPadded;
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  unsigned char* const memory = block_memory<unsigned char>();
  const SharedWeights<kTiles> weights(memory, how.layers);
  WarpState* const states = reinterpret_cast<WarpState*>(memory + weights.bytes(how.layers));
  float* const sums = reinterpret_cast<float*>(states + warps);
  float* const tiles = sums + warps * pass.sums * kPadded;
  WarpState& own = states[warp];
  SharedWeights<kTiles>(weights).load(args, pass.head);

  const int64_t size = share_size<kTiles>(how.layers, pass.sums), num_nodes = args.graph.num_nodes;
  float* const table = pass.receiving ? args.grad_receiver : args.grad_sender;
  for (int64_t share = blockIdx.x; share < pass.shares; share += gridDim.x) {
    float* const to = pass.memory + share * size;
    const Gradient gradient{args, how, pass, act, weights, tiles, sums + warp * pass.sums * kPadded, own, to};
    if (pass.receiving) {
      for (int k = threadIdx.x; k < how.layers * kPadded * kPadded; k += blockDim.x) to[k] = 0.f;
      for (int k = lane(); k < pass.sums * kPadded; k += kWarp) gradient.sums[k] = 0.f;
      __syncthreads();
    }
    for (int64_t group = share; group < pass.groups; group += pass.shares) {
      int64_t node = (group * warps + warp) * how.nodes;
      if (node > num_nodes) node = num_nodes;
      const int64_t end = node + how.nodes < num_nodes ? node + how.nodes : num_nodes;
      OwnerSums<float, float, Gradient::kColumns> to_nodes(table, int(args.width), false, false);
      OwnerSums<double, X, 1> to_points(args.grad_x, args.dim, false, !pass.receiving);
      if (table) to_nodes.clear(node, end);
      if (args.grad_x && pass.receiving) to_points.clear(node, end);
      start_walk(args.graph, node, end, own.rows);
      while (true) {
        // A warp without edges goes on with those that have some: they meet in the weights' gradients.
        const bool live = next_tile(args.graph, pass.receiving, end, own.rows);
        if (lane() == 0) own.more = live;
        __syncthreads();
        bool more = false;
        for (int w = 0; w < warps; ++w) more |= states[w].more != 0;
        if (!more) break;
        Fragment<kTiles> x;
        gradient.run(x);
        if (table) to_nodes.add(own.rows, gradient.tile(0), kStride);
        gradient.through_columns(x);
        if (args.grad_x && (pass.head || args.interval || args.product)) {
          find_points(args, pass.receiving, own.rows, pass.head, own.t, own.slopes, own.points);
          to_points.add(own.rows, own.points, kMessageDim);
        }
        __syncthreads();
      }
      __syncthreads();
    }
    if (!pass.receiving) continue;
    for (int k = threadIdx.x; k < pass.sums * kPadded; k += blockDim.x) {
      float total = 0.f;
      for (int w = 0; w < warps; ++w) total += sums[w * pass.sums * kPadded + k];
      to[how.layers * kPadded * kPadded + k] = total;
    }
    __syncthreads();
  }
}

// Where each gradient lies in a share.
template <int kTiles, class X>
SharePieces pieces_of(const MessageArgs<float, X>& args, const MessageOnTiles& how, const Pass& pass) {
  constexpr int64_t kPadded = 8 * kTiles;
  const int64_t columns = args.invariants(), attr = args.edge_width;
  const auto vector = [&](int which) { return how.layers * kPadded * kPadded + which * kPadded; };
  SharePieces pieces;
  const auto layer = [&](const MessageLayer<float>& l, int which, int64_t in, bool there) {
    pieces.add(l.grad_weight, there ? which * kPadded * kPadded : -1, l.width, in, kPadded, in, 1);
    pieces.add(l.grad_bias, there ? vector(kBiasVectors + which) : -1, 1, l.width, 0, 0, 1);
  };
  for (int l = 0; l < args.depth - 1; ++l) layer(args.hidden[l], l, l ? args.hidden[l - 1].width : args.width, true);
  layer(args.head, args.depth - 1, args.message_width(), pass.head);
  pieces.add(args.grad_head_out, pass.head ? vector(kHeadOutVector) : -1, 1, args.head.width, 0, 0, 1);
  pieces.add(args.grad_invariant_weight, vector(kColumn0), columns, args.width, kPadded, 1, columns);
  pieces.add(args.grad_edge_weight, vector(kVectors), attr, args.width, kPadded, 1, attr);
  pieces.add(args.grad_gate_weight, vector(kGateVector), 1, args.message_width(), 0, 0, 1);
  pieces.add(args.grad_gate_bias, vector(pass.sums - 1), 1, 1, 0, 0, 1);
  return pieces;
}

template <class X>
bool through_head(const MessageArgs<float, X>& args) {
  return args.head_out && args.grad_coordinates;
}

template <class X>
Pass pass_of(const MessageArgs<float, X>& args) {
  return {true, through_head(args), kVectors + int(args.edge_width) + 1, 0, 0, nullptr};
}

template <int kTiles, class X>
cudaError_t schedule_backward(const MessageArgs<float, X>& args, const MessageOnTiles& how, const Pass& pass,
                              MessageSchedule& schedule) {
  const size_t each = sizeof(WarpState) +
                      sizeof(float) * (8 * kTiles * pass.sums + (args.depth + pass.head) * kRows * kRowStride<kTiles>);
  return schedule_messages(args, SharedWeights<kTiles>::bytes(how.layers), each, kBackwardWarps, kBackwardWarps,
                           schedule);
}

inline int64_t shares_of(const MessageSchedule& s) { return s.groups < kMostShares ? s.groups : kMostShares; }

template <int kTiles, class X>
cudaError_t backward(const MessageArgs<float, X>& args, MessageOnTiles how, float* memory, cudaStream_t stream) {
  Pass pass = pass_of(args);
  MessageSchedule schedule;
  if (const auto error = schedule_backward<kTiles>(args, how, pass, schedule); error != cudaSuccess) return error;
  how.nodes = schedule.nodes;
  pass.groups = schedule.groups;
  pass.memory = memory;
  const auto run = [&](bool receiving, int64_t shares) {
    pass.receiving = receiving;
    pass.shares = shares;
    return with_tile_activation<true>(args.activation, args.slope, [&](auto act) {
      return launch_threads(backward_kernel<kTiles, decltype(act), X>, grid_for(shares, 1), schedule.warps * kWarp,
                            schedule.shared, stream, args, how, pass, act);
    });
  };
  const int64_t shares = shares_of(schedule);
  if (args.graph.num_nodes > 0) {
    if (const auto error = run(true, shares); error != cudaSuccess) return error;
    if (args.grad_sender || args.grad_x)
      if (const auto error = run(false, pass.groups); error != cudaSuccess) return error;
  }
  const auto pieces = pieces_of<kTiles>(args, how, pass);
  if (pieces.count == 0) return cudaSuccess;
  return launch(add_shares_kernel, grid_for(pieces.numbers(), kWarp), kThreads * sizeof(double), stream, pieces,
                static_cast<const float*>(memory), int(shares), share_size<kTiles>(how.layers, pass.sums));
}

// f(tiles of the widest layer, as a constant)
template <class F>
cudaError_t with_tiles(const MessageOnTiles& how, F&& f) {
  if (how.widest <= 4) return f(std::integral_constant<int, 4>{});
  if (how.widest <= 9) return f(std::integral_constant<int, 9>{});
  return cudaErrorNotSupported;
}

}  // namespace

template <class X>
cudaError_t message_shares_size(const MessageArgs<float, X>& args, int64_t& size) {
  const MessageOnTiles how(args, Multiply::tf32x3, through_head(args));
  const Pass pass = pass_of(args);
  return with_tiles(how, [&](auto tiles) {
    MessageSchedule schedule;
    const auto error = schedule_backward<tiles>(args, how, pass, schedule);
    size = shares_of(schedule) * share_size<tiles>(how.layers, pass.sums);
    return error;
  });
}
template cudaError_t message_shares_size(const MessageArgs<float, float>&, int64_t&);
template cudaError_t message_shares_size(const MessageArgs<float, double>&, int64_t&);

template <class X>
cudaError_t message_backward_cuda(const MessageArgs<float, X>& args, Multiply multiply, float* shares,
                                  cudaStream_t stream) {
  const MessageOnTiles how(args, multiply, through_head(args));
  return with_tiles(how, [&](auto tiles) { return backward<tiles>(args, how, shares, stream); });
}
template cudaError_t message_backward_cuda(const MessageArgs<float, float>&, Multiply, float*, cudaStream_t);
template cudaError_t message_backward_cuda(const MessageArgs<float, double>&, Multiply, float*, cudaStream_t);

}  // namespace ek
