// The chain on a block of edges: weights in the kernels' order, channels in scratch, and the way from node tables and
// edge memory to the layers' outputs, which the forward and the backward pass share.
#pragma once

#include "../channels/network.h"
#include "edge_network.h"
#include "lanes.h"

namespace ek {
namespace {

template <class T>
struct PackedChain {
  T *weight[kMostLayers], *bias[kMostLayers], *transposed[kMostLayers];
  int64_t bytes = 0;

  template <class X>
  PackedChain(const EdgeNetworkArgs<T, X>& args, bool backward, void* base) {
    Arena arena(base);
    for (int k = 0; k < args.layers; ++k) {
      weight[k] = arena.take<T>(args.inputs(k) * args.channels[k]);
      bias[k] = arena.take<T>(args.channels[k]);
      transposed[k] = backward ? arena.take<T>(args.inputs(k) * args.channels[k]) : nullptr;
    }
    bytes = arena.used();
  }

  template <class X>
  void fill(const EdgeNetworkArgs<T, X>& args, bool backward) const {
    const T* from = args.weights;
    for (int k = 0; k < args.layers; ++k) {
      const int64_t in = args.inputs(k), out = args.channels[k];
      pack_tiles(in, out, [&](int64_t i, int64_t o) { return from[o * in + i]; }, weight[k]);
      if (backward) pack_tiles(out, in, [&](int64_t o, int64_t i) { return from[o * in + i]; }, transposed[k]);
      std::memcpy(bias[k], from + in * out, out * sizeof(T));
      from += (in + 1) * out;
    }
  }
};

// Channels are kEdges apart. Forward, two layers' outputs take turns; backward, all are kept.
template <class T>
struct ChainScratch {
  T* input = nullptr;                             // of the first layer
  T *h[kMostLayers], *d[kMostLayers];             // outputs; derivatives of activations but ReLU, whose are h's signs
  T *normal[kMostLayers], *inverse[kMostLayers];  // LayerNorm's outputs and scales, where there is one
  T *grad = nullptr, *spare = nullptr;            // backward
  Rows<T> rows;                                   // channels contiguous, on their way in or out
  T *carry = nullptr, *carry_grad = nullptr;      // of a receiver whose edges are spread over blocks
  int64_t bytes = 0;

  template <class X>
  ChainScratch(const EdgeNetworkArgs<T, X>& args, bool backward, void* base) {
    Arena arena(base);
    const int64_t widest = args.widest(), stride = padded<T>(widest);
    auto channels = [&](int64_t count) { return arena.take<T>(count * kEdges); };
    input = channels(args.inputs(0));
    T* turn[2] = {};
    if (!backward)
      for (T*& t : turn) t = channels(widest);
    for (int k = 0; k < args.layers; ++k) {
      const Step step = args.step[k];
      const bool active = step.activation != Activation::identity;
      h[k] = backward ? channels(args.channels[k]) : turn[k % 2];
      d[k] = backward && active && step.activation != Activation::relu ? channels(args.channels[k]) : nullptr;
      normal[k] = !step.norm ? nullptr : backward && active ? channels(args.channels[k]) : h[k];
      inverse[k] = step.norm ? channels(1) : nullptr;
    }
    if (backward) {
      grad = channels(widest);
      spare = channels(widest);
    }
    rows = {arena.take<T>((stride + lanes<T>)*kEdges), stride + lanes<T>};  // and what is written in whole vectors
    carry = arena.take<T>(stride);
    carry_grad = arena.take<T>(stride);
    bytes = arena.used();
  }
};

// Walks the rows [begin, end) of a table.
class RowCursor {
 public:
  RowCursor(int64_t begin, int64_t end) : row_(begin), end_(end) {}
  bool next(EdgeBlock& block) {
    block.segments = 0;
    block.count = end_ - row_ < kEdges ? int(end_ - row_) : kEdges;
    for (int e = 0; e < block.count; ++e) block.edge[e] = row_ + e;
    row_ += block.count;
    return block.count > 0;
  }

 private:
  int64_t row_, end_;
};

template <class T>
inline void prefetch_row(const T* row, int64_t channels) {
  for (int64_t k = 0; k < channels; k += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + k);
}

// Edges come in no order that hardware could foresee: what a block will read is asked for one block ahead.
template <class T, class X>
inline void prefetch(const EdgeNetworkArgs<T, X>& args, const EdgeBlock& block) {
  for (int e = 0; e < block.count; ++e) {
    if (args.edge_attr) prefetch_row(args.edge_attr + block.edge[e] * args.edge_width, args.edge_width);
    if (args.sender) prefetch_row(args.sender + block.sender[e] * args.sender_stride, args.width);
    if (args.x) prefetch_row(args.x + block.sender[e] * args.dim, args.dim);
    if (args.grad_edges) {
      const int64_t width = args.channels[args.edges_at];
      prefetch_row(args.grad_edges + block.edge[e] * width, width);
    }
  }
}

template <class T, class X, class Cursor, class F>
inline void walk(const EdgeNetworkArgs<T, X>& args, Cursor cursor, F&& f) {
  EdgeBlock blocks[2];
  bool more = cursor.next(blocks[0]);
  for (int k = 0; more; k ^= 1) {
    more = cursor.next(blocks[k ^ 1]);
    if (more) prefetch(args, blocks[k ^ 1]);
    f(blocks[k]);
  }
}

// Calls f(block) for the blocks of the receivers, or rows, [begin, end).
template <class T, class X, class F>
inline void for_blocks(const EdgeNetworkArgs<T, X>& args, int64_t begin, int64_t end, F&& f) {
  if (args.rows >= 0)
    walk(args, RowCursor(begin, end), f);
  else
    walk(args, EdgeCursor(args.graph, begin, end), f);
}

template <class T>
inline void clear_rows(const EdgeBlock& block, int64_t channels, Rows<T> rows) {
  for (int e = block.count; e < kEdges; ++e)
    for (int64_t k = 0; k < channels; k += lanes<T>) store(rows[e] + k, Vec<T>{});
}

// Calls f(channels, first) for pieces of whole vectors and, at the end, of smaller powers of two.
template <class T, class F>
inline void for_pieces(int64_t channels, F&& f) {
  int64_t k = 0;
  for (; k + lanes<T> <= channels; k += lanes<T>) f(std::integral_constant<int, lanes<T>>{}, k);
  const auto rest = [&](auto piece) {
    if (!(channels & piece)) return;
    f(piece, k);
    k += piece;
  };
  if constexpr (lanes<T> > 8) rest(std::integral_constant<int, 8>{});
  if constexpr (lanes<T> > 4) rest(std::integral_constant<int, 4>{});
  if constexpr (lanes<T> > 2) rest(std::integral_constant<int, 2>{});
  rest(std::integral_constant<int, 1>{});
}

// Arguments by value: a copy may, for all the compiler knows, change what is behind a reference.
template <int kCount, class T>
inline void copy_rows(int count, const T* table, const int64_t* row, int64_t stride, Rows<T> rows) {
  for (int e = 0; e < count; ++e) std::memcpy(rows[e], table + row[e] * stride, kCount * sizeof(T));
}
template <int kCount, class T>
inline void copy_rows(int count, Rows<T> rows, const int64_t* row, int64_t stride, T* table) {
  for (int e = 0; e < count; ++e) std::memcpy(table + row[e] * stride, rows[e], kCount * sizeof(T));
}

// The block's rows of a table, from channel `at` of rows on. Narrow ones are read as they are: a vector's masked load
// and its store across two lines cost more.
template <class T>
inline void read_table(const EdgeBlock& block, const T* table, int64_t stride, const int64_t* row, int64_t channels,
                       Rows<T> rows, int64_t at = 0) {
  for_pieces<T>(channels, [&](auto piece, int64_t k) {
    copy_rows<decltype(piece)::value>(block.count, table + k, row, stride, Rows<T>{rows.data + at + k, rows.stride});
  });
}

// Rows of a table of edges; beyond the block's last edge, zeros.
template <class T>
inline void read_edges(const EdgeBlock& block, const T* table, int64_t channels, Rows<T> rows) {
  read_table(block, table, channels, block.edge, channels, rows);
  clear_rows(block, channels, rows);
}

// A_i, B_j and a_ij side by side, of those that are inputs; beyond the block's last edge, zeros. Returns how many.
template <class T, class X>
inline int64_t read_inputs(const EdgeNetworkArgs<T, X>& args, const EdgeBlock& block, Rows<T> rows) {
  int64_t at = 0;
  const auto append = [&](const T* table, int64_t stride, const int64_t* row, int64_t channels) {
    read_table(block, table, stride, row, channels, rows, at);
    at += channels;
  };
  if (args.end_inputs > 0) {
    if (args.receiver)
      append(args.receiver, args.receiver_stride, args.rows >= 0 ? block.edge : block.receiver, args.width);
    if (args.sender) append(args.sender, args.sender_stride, block.sender, args.width);
  }
  if (args.edge_width > 0) append(args.edge_attr, args.edge_width, block.edge, args.edge_width);
  if (at > 0) clear_rows(block, at, rows);
  return at;
}

template <class T>
inline void write_edges(const EdgeBlock& block, Rows<T> rows, int64_t channels, T* table) {
  for_pieces<T>(channels, [&](auto piece, int64_t k) {
    copy_rows<decltype(piece)::value>(block.count, Rows<T>{rows.data + k, rows.stride}, block.edge, channels,
                                      table + k);
  });
}

// A_i + B_j, of those there are; beyond the block's last edge, zeros.
template <class T, class X>
inline void read_ends(const EdgeNetworkArgs<T, X>& args, const EdgeBlock& block, Rows<T> rows) {
  const int64_t width = args.width, stride = args.sender_stride;
  for_vectors<T>(width, [&](int64_t k, auto io) {
    const T* const sender = args.sender ? args.sender + k : nullptr;
    const T* const receiver = args.receiver ? args.receiver + k : nullptr;
    for (int e = 0; e < block.count; ++e) {
      const Vec<T> a = receiver ? io.load(receiver + block.receiver[e] * args.receiver_stride) : Vec<T>{};
      store(rows[e] + k, sender ? a + io.load(sender + block.sender[e] * stride) : a);
    }
  });
  clear_rows(block, width, rows);
}

template <bool kGrad, class Act, class T>
inline void activate_channels(Act act, const T* z, T* h, T* d, int64_t count) {
  for (int64_t k = 0; k < count; k += lanes<T>) {
    if constexpr (kGrad) {
      Vec<T> derivative;
      store(h + k, act.both(load(z + k), derivative));
      store(d + k, derivative);
    } else {
      store(h + k, act.value(load(z + k)));
    }
  }
}
// h <- act(z); d <- act'(z) if kGrad. h and z may be the same.
template <bool kGrad, class T>
inline void activate_channels(Activation kind, double slope, const T* z, T* h, T* d, int64_t channels) {
  with_activation<T>(kind, slope, [&](auto act) { activate_channels<kGrad>(act, z, h, d, channels * kEdges); });
}

// From a block's geometry to the layers' outputs; after(k) is called as soon as layer k's are in s.h[k].
template <bool kGrad, class T, class X, class After>
inline void run_chain(const EdgeNetworkArgs<T, X>& args, const PackedChain<T>& packed, const EdgeBlock& block,
                      ChainScratch<T>& s, After&& after) {
  const int invariants = args.invariants();
  for (int c = 0; c < invariants; ++c)
    for (int e = block.count; e < kEdges; ++e) s.input[c * kEdges + e] = 0;
  to_channels<false>(s.rows, read_inputs(args, block, s.rows), s.input + invariants * kEdges);
  const T* in = s.input;
  for (int k = 0; k < args.layers; ++k) {
    const Step step = args.step[k];
    const int64_t out = args.channels[k];
    const bool active = step.activation != Activation::identity, relu = step.activation == Activation::relu;
    T* z = kGrad && active && step.norm ? s.normal[k] : s.h[k];
    const auto product = [&](auto positive) {
      if (k == 0 && args.ends_added()) {
        read_ends(args, block, s.rows);
        to_channels<false>(s.rows, out, z);
        apply<From::sum, positive>(in, args.inputs(0), packed.weight[0], packed.bias[0], z, out);
      } else {
        apply<From::bias, positive>(in, args.inputs(k), packed.weight[k], packed.bias[k], z, out);
      }
    };
    if (relu && !step.norm) {
      product(std::true_type{});
    } else {
      product(std::false_type{});
      if (step.norm) normalise(z, out, s.inverse[k]);
      if (relu)
        activate_channels<false>(step.activation, args.slope, z, s.h[k], s.d[k], out);
      else if (active)
        activate_channels<kGrad>(step.activation, args.slope, z, s.h[k], s.d[k], out);
    }
    in = s.h[k];
    after(k);
  }
}

}  // namespace
}  // namespace ek
