// A block's walk over its edges: windows of receivers, and tiles of edges whose channels are columns in shared memory.
#pragma once

#include "../../core/launch.cuh"
#include "../../invariants/device.cuh"
#include "../../simd/pack.cuh"
#include "chain.h"

namespace ek {
namespace {

// f(row, channel) for all of them; lanes are neighbouring channels.
template <class F>
__device__ inline void over_rows(int rows, int64_t channels, F&& f) {
  int shift = 0;
  while ((1 << shift) < kWarp && (1 << shift) < channels) ++shift;
  for (int r = threadIdx.x >> shift; r < rows; r += kChainThreads >> shift)
    for (int c = threadIdx.x & ((1 << shift) - 1); c < channels; c += 1 << shift) f(r, c);
}

// Weights as products read them: rows of whole packs.
template <class T>
__device__ inline void pack_layer(const ChainArgs<T>& args, int k, const T* from, T* to) {
  const int in = int(args.inputs(k)), out = int(args.channels[k]), stride = ChainRoom<T>::packed(in);
  over_rows(out, stride, [&](int o, int i) { to[o * stride + i] = i < in ? from[o * in + i] : T(0); });
  for (int o = threadIdx.x; o < out; o += kChainThreads) to[out * stride + o] = from[out * in + o];
}

// f(layer, its weights, where they go) for all layers.
template <class T, class F>
__device__ inline void over_layers(const ChainArgs<T>& args, T* to, F&& f) {
  const T* from = args.weights;
  for (int k = 0; k < args.layers; ++k) {
    const int in = int(args.inputs(k)), out = int(args.channels[k]);
    f(k, from, to);
    from += out * (in + 1);
    to += out * ChainRoom<T>::packed(in) + ChainRoom<T>::packed(out);
  }
}

template <class T>
__global__ void __launch_bounds__(kChainThreads) pack_kernel(ChainArgs<T> args) {
  over_layers(args, args.packed, [&](int k, const T* from, T* to) {
    if (k % gridDim.x == blockIdx.x) pack_layer(args, k, from, to);
  });
}

template <class T, class Form>
struct Tile {
  static constexpr int kEdges = Form::per_lane * kWarp, kPack = ChainRoom<T>::kPack;
  static constexpr int kStride = kEdges + kPack;  // of columns

  const ChainArgs<T>& args;
  int64_t *first, *event;  // of a window's receivers: edges before, event
  int64_t *edge, *sender;  // of a tile's edges
  int* node;               // of a tile's edges: the receiver, counted from `base`
  const T* weights;
  T* columns;

  int64_t base = 0;   // first receiver of the window
  int nodes = 0;      // of the window
  int64_t total = 0;  // edges of the window
  int64_t begin = 0;  // first edge of the tile, counted from the window's first
  int count = 0;      // edges of the tile

  __device__ explicit Tile(const ChainArgs<T>& args, const ChainRoom<T>& room) : args(args) {
    int64_t* ids = block_memory<int64_t>();
    first = ids;
    event = first + kWindow + 2;
    edge = event + kWindow;
    sender = edge + kEdges;
    node = reinterpret_cast<int*>(sender + kEdges);
    T* const rest = reinterpret_cast<T*>(node + kEdges);
    if constexpr (Form::shared_weights) {
      over_layers(args, rest, [&](int k, const T* from, T* to) { pack_layer(args, k, from, to); });
      weights = rest;
      columns = rest + room.weights;
    } else {
      weights = args.packed;
      columns = rest;
    }
  }
  __device__ T* column(int k) const { return columns + k * kStride; }

  // f() for the tiles of all blocks that are this one's to do; open(block) before the first of each. All threads meet
  // between two calls.
  template <class Open, class F>
  __device__ void over_blocks(Open&& open, F&& f) {
    const bool rows = args.rows >= 0;
    for (int64_t block = blockIdx.x; block < args.blocks; block += gridDim.x) {
      const int64_t all = rows ? args.rows : args.graph.num_nodes, from = block * args.per_block;
      const int64_t to = all < from + args.per_block ? all : from + args.per_block;
      open(block);
      for (base = from; base < to; base += rows ? args.per_block : kWindow) {
        nodes = rows ? 0 : int(to - base < kWindow ? to - base : kWindow);
        total = rows ? to - from : 0;
        __syncthreads();
        if (!rows) read_window();
        begin = 0;
        do {
          count = int(total - begin < kEdges ? total - begin : kEdges);
          __syncthreads();
          read_edges();
          __syncthreads();
          f();
          begin += kEdges;
        } while (begin < total);
      }
    }
  }

  // out[receiver] = sum over its edges of columns, channel by channel. A receiver may have edges in several tiles:
  // out then holds the sum so far.
  template <class U, class O>
  __device__ void sum_at_receivers(const U* column, int64_t channels, O* out) const {
    const bool last = begin + kEdges >= total;
    over_rows(nodes, channels, [&](int l, int c) {
      const int64_t low = first[l] - begin, high = first[l + 1] - begin;
      if ((low >= kEdges && !last) || (low < 0 && high <= 0)) return;
      O* const to = out + (base + l) * channels + c;
      U sum = low < 0 ? U(*to) : U(0);
      const int end = high < count ? int(high) : count;
      for (int e = low < 0 ? 0 : int(low); e < end; ++e) sum += column[c * kStride + e];
      *to = O(sum);
    });
  }

  // Rows of a table of edges to columns; beyond the last edge, zeros.
  __device__ void read_table(const T* table, int64_t channels, T* column) const {
    over_rows(kEdges, channels,
              [&](int e, int c) { column[c * kStride + e] = e < count ? table[edge[e] * channels + c] : T(0); });
  }
  __device__ void write_table(const T* column, int64_t channels, T* table) const {
    over_rows(count, channels, [&](int e, int c) { table[edge[e] * channels + c] = column[c * kStride + e]; });
  }

  // A_i + B_j, of those that are added; beyond the last edge, zeros.
  __device__ void read_ends(T* column) const {
    over_rows(kEdges, args.width, [&](int e, int c) {
      T z = 0;
      if (e < count && args.receiver) z = args.receiver[(base + node[e]) * args.receiver_stride + c];
      if (e < count && args.sender) z += args.sender[sender[e] * args.sender_stride + c];
      column[c * kStride + e] = z;
    });
  }

  // Edge e's receiver; its row, where there is no graph.
  __device__ int64_t receiver(int e) const { return args.rows >= 0 ? edge[e] : base + node[e]; }

  __device__ static double number(const void* table, bool wide, int64_t at) {
    return wide ? static_cast<const double*>(table)[at] : double(static_cast<const T*>(table)[at]);
  }
  __device__ double x(int64_t i, int c) const { return number(args.x, args.wide, i * args.dim + c); }

  // ||x_i - x_j||^2 and <x_i, x_j> of edge e.
  __device__ void products(int e, double& interval, double& product) const {
    const int64_t i = base + node[e], j = sender[e];
    if (args.wide)
      sum_products<true>(i, j, interval, product);
    else
      sum_products<false>(i, j, interval, product);
  }

  // What x_i - x_j is divided by on its way into d_ij.
  __device__ double norm(int e) const {
    if (!has_norm(args.direction)) return 1.0;
    double interval = 0, product = 0;
    products(e, interval, product);
    return sqrt(interval + args.norm_inside) + args.norm_offset;
  }
  __device__ double direction(int64_t i, int64_t j, double norm, int c) const {
    return args.direction == Direction::sender ? x(j, c) : (x(i, c) - x(j, c)) / norm;
  }

  // s_ij, A_i and B_j where they are inputs, and a_ij.
  __device__ void read_inputs(T* column) const {
    const int invariants = args.invariants();
    if (invariants > 0)
      for (int e = threadIdx.x; e < kEdges; e += kChainThreads) {
        double interval = 0, product = 0;
        if (e < count) products(e, interval, product);
        if (args.interval) column[e] = finish(interval);
        if (args.product) column[(invariants - 1) * kStride + e] = finish(product);
      }
    column += invariants * kStride;
    if (args.end_inputs > 0) {
      if (args.receiver) {
        read_end(args.receiver, args.receiver_stride, column, [&](int e) { return receiver(e); });
        column += args.width * kStride;
      }
      if (args.sender) {
        read_end(args.sender, args.sender_stride, column, [&](int e) { return sender[e]; });
        column += args.width * kStride;
      }
    }
    if (args.edge_width > 0) read_table(args.edge_attr, args.edge_width, column);
  }

 private:
  template <class Node>
  __device__ void read_end(const T* table, int64_t stride, T* column, Node&& at) const {
    over_rows(kEdges, args.width,
              [&](int e, int c) { column[c * kStride + e] = e < count ? table[at(e) * stride + c] : T(0); });
  }
  template <bool kCompensated>
  __device__ void sum_products(int64_t i, int64_t j, double& interval, double& product) const {
    IntervalAndProduct<kCompensated, double, DeviceFma> sums;
    for (int c = 0; c < args.dim; ++c) sums.add(x(i, c), x(j, c), args.metric[c]);
    interval = sums.interval();
    product = sums.product();
  }
  // psi is taken in the precision of the coordinates.
  __device__ T finish(double z) const {
    if (!args.psi) return T(z);
    return args.wide ? T(psi(z)) : T(psi(T(z)));
  }

  __device__ void read_window() {
    const GraphView& g = args.graph;
    const int64_t before = g.edges_before(base);
    for (int l = threadIdx.x; l <= nodes; l += kChainThreads) {
      first[l] = g.edges_before(base + l) - before;
      if (l < nodes) event[l] = g.complete() ? g.event_of(base + l) : 0;
    }
    __syncthreads();
    total = first[nodes];
  }

  __device__ void read_edges() {
    for (int e = threadIdx.x; e < kEdges; e += kChainThreads) {
      const int64_t slot = begin + e;
      node[e] = 0;
      sender[e] = 0;
      edge[e] = base + slot;  // rows
      if (nodes == 0 || slot >= total) continue;
      int low = 0, high = nodes;  // the last receiver with first <= slot
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (first[middle] <= slot ? low : high) = middle;
      }
      const Row row = args.graph.received(base + low, event[low]);
      node[e] = low;
      sender[e] = row.node(slot - first[low]);
      edge[e] = row.edge(slot - first[low]);
    }
  }
};

// Starts kernel(form) for a network that has one.
template <class T, class Kernel>
cudaError_t start_chain(const ChainArgs<T>& args, bool backward, cudaStream_t stream, Kernel&& kernel) {
  const ChainRoom<T> room(args, backward);
  cudaError_t error = cudaErrorInvalidConfiguration;
  with_chain_form(args, room, [&](auto form) {
    error = cudaSuccess;
    if (args.blocks == 0) return;
    if (!form.shared_weights) error = launch<kChainThreads>(pack_kernel<T>, grid_for(args.layers, 1), 0, stream, args);
    if (error == cudaSuccess)
      error = launch<kChainThreads>(kernel(form), grid_for(args.blocks, 1),
                                    room.bytes(kWarp * form.per_lane, form.shared_weights), stream, args, room);
  });
  return error;
}

}  // namespace
}  // namespace ek
