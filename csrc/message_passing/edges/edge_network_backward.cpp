// A block of edges is computed again and differentiated while its channels are in cache: against the one product per
// layer of the forward pass three, one of them again.
#include "../../core/isa.h"
#include "../channels/partials.h"
#include "../channels/points.h"
#include "layers.h"

namespace ek {
namespace {

// What a chunk adds to weights and to senders; all zero when it begins.
template <class T>
struct ChainPartial {
  T *weight[kMostLayers], *bias[kMostLayers];  // [out][in, padded], [out]
  T* sender = nullptr;                         // [nodes][H, padded]
  double* x = nullptr;                         // [nodes][dim]
  int64_t bytes = 0;

  template <class X>
  ChainPartial(const EdgeNetworkArgs<T, X>& args, int64_t nodes, const void* base) {
    Arena arena(const_cast<void*>(base));
    for (int k = 0; k < args.layers; ++k) {
      weight[k] = arena.take<T>(args.channels[k] * padded<T>(args.inputs(k)));
      bias[k] = arena.take<T>(args.channels[k]);
    }
    if (args.grad_sender) sender = arena.take<T>(nodes * padded<T>(args.width));
    if (args.grad_x) x = arena.take<double>(nodes * args.dim);
    bytes = arena.used();
  }
};

template <class T, class X>
ChainPartial<T> chain_partial(const EdgeNetworkArgs<T, X>& args, const MessagePlan& plan, const void* partials,
                              int chunk) {
  return ChainPartial<T>(args, plan.high[chunk] - plan.low[chunk],
                         static_cast<const char*>(partials) + plan.offset[chunk]);
}

inline MessagePlan share_rows(int64_t rows) {
  MessagePlan plan;
  if (rows == 0) return plan;
  plan.chunks = MessagePlan::chunks_of(rows);
  for (int k = 1; k <= plan.chunks; ++k) plan.first[k] = k < plan.chunks ? rows / plan.chunks * k : rows;
  return plan;
}

// The backward pass of one chunk.
template <class T, class X>
struct ChainChunk {
  const EdgeNetworkArgs<T, X>& args;
  const PackedChain<T> packed;
  ChainScratch<T> s;
  const ChainPartial<T> partial;
  const int64_t low;  // first node of the partial's rows
  Geometry<X> geometry;
  PointGradient<X> points;

  void run(int64_t begin, int64_t end) {
    const bool moves = args.head && args.grad_coordinates;
    for_blocks(args, begin, end, [&](EdgeBlock& block) {
      geometry.prepare(args, block, moves, s.input);
      run_chain<true>(args, packed, block, s, [](int) {});
      if (args.grad_x) points.clear(args.dim);
      if (args.grad_sender)
        for (int e = 0; e < block.count; ++e)
          prefetch_row(partial.sender + (block.sender[e] - low) * padded<T>(args.width), args.width);
      bool flows = false;  // until then the gradient is zero
      for (int k = args.layers - 1; k >= 0; --k) {
        if (moves && k == args.layers - 1) {
          points.through_update(args, block, geometry, s.h[k], s.grad);
          for (int e = block.count; e < kEdges; ++e) s.grad[e] = 0;
          flows = true;
        }
        if (k == args.edges_at && args.grad_edges) {
          read_edges(block, args.grad_edges, args.channels[k], s.rows);
          receive(args.channels[k], flows);
        }
        if (k == args.messages_at && args.grad_messages) {
          read_table(block, args.grad_messages, args.channels[k], block.receiver, args.channels[k], s.rows);
          clear_rows(block, args.channels[k], s.rows);
          receive(args.channels[k], flows);
        }
        if (flows) through_layer(k);
      }
      if (!flows) std::memset(s.grad, 0, args.channels[0] * kEdges * sizeof(T));
      to_ends(block);
      if (args.grad_x) points.add(args, block, partial.x, low);
    });
  }

 private:
  // Adds what stands in rows to the gradient.
  void receive(int64_t channels, bool& flows) {
    flows ? to_channels<true>(s.rows, channels, s.grad) : to_channels<false>(s.rows, channels, s.grad);
    flows = true;
  }

  // grad: from layer k's outputs to those of the layer before; of the first, to z.
  void through_layer(int k) {
    constexpr int W = lanes<T>;
    const int64_t in = args.inputs(k), out = args.channels[k];
    const Slope<T> slope{s.d[k], args.step[k].activation == Activation::relu ? s.h[k] : nullptr};
    if (args.step[k].norm)
      through_norm(slope, s.normal[k], s.inverse[k], out, s.grad);
    else if (slope.any())
      for (int64_t c = 0; c < out * kEdges; c += W) store(s.grad + c, slope(c, load(s.grad + c)));
    to_rows(k ? s.h[k - 1] : s.input, in, s.rows);
    add_weights(s.grad, out, s.rows, in, partial.weight[k]);
    add_bias(s.grad, out, partial.bias[k]);
    if (k == 0) return;
    apply<From::nothing>(s.grad, out, packed.transposed[k], static_cast<const T*>(nullptr), s.spare, in);
    T* const swap = s.grad;
    s.grad = s.spare;
    s.spare = swap;
  }

  // The gradient of z to A, B, s_ij and a_ij.
  void to_ends(const EdgeBlock& block) {
    const bool ends = args.grad_receiver || args.grad_sender, inputs = ends && args.end_inputs > 0;
    const bool to_points = args.grad_x && args.invariants() > 0;
    if (ends && !inputs) {
      to_rows(s.grad, args.width, s.rows);
      add_ends(block, s.rows, s.rows);
    }
    if (!to_points && !inputs && !args.grad_edge_attr) return;
    apply<From::nothing>(s.grad, args.channels[0], packed.transposed[0], static_cast<const T*>(nullptr), s.spare,
                         args.inputs(0));
    const T* g = s.spare;
    for (int which = 0; which < 2; ++which) {
      if (!(which == 0 ? args.interval : args.product)) continue;
      if (to_points) points.through_invariant(args, geometry, which, g);
      g += kEdges;
    }
    if (!inputs && !args.grad_edge_attr) return;
    to_rows(g, args.end_inputs + args.edge_width, s.rows);
    const auto from = [&](int64_t channel) { return Rows<T>{s.rows.data + channel, s.rows.stride}; };
    if (inputs) add_ends(block, s.rows, from(args.receiver ? args.width : 0));
    if (args.grad_edge_attr) write_edges(block, from(args.end_inputs), args.edge_width, args.grad_edge_attr);
  }

  void add_ends(const EdgeBlock& block, Rows<T> receiver, Rows<T> sender) {
    const int64_t width = args.width, stride = padded<T>(width);
    if (args.grad_sender)
      for (int64_t k = 0; k < stride; k += lanes<T>) {
        T* const to = partial.sender - low * stride + k;
        for (int e = 0; e < block.count; ++e) {
          T* const row = to + block.sender[e] * stride;
          store(row, load(row) + load(sender[e] + k));
        }
      }
    if (args.grad_receiver && args.rows >= 0) write_edges(block, receiver, width, args.grad_receiver);
    if (args.grad_receiver && args.rows < 0) aggregate(block, receiver, width, false, s.carry_grad, args.grad_receiver);
  }
};

}  // namespace

template <class Isa, class T, class X>
MessagePlan EdgeNetworkCpu<Isa, T, X>::plan(const Args& args) {
  MessagePlan plan = args.rows >= 0 ? share_rows(args.rows) : share_receivers(args.graph);
  for (int k = 0; k < plan.chunks; ++k)
    plan.offset[k + 1] = plan.offset[k] + ChainPartial<T>(args, plan.high[k] - plan.low[k], nullptr).bytes;
  return plan;
}

template <class Isa, class T, class X>
void EdgeNetworkCpu<Isa, T, X>::backward(const Args& args, const void* packed, const MessagePlan& plan, int chunk,
                                         void* partials, void* scratch) {
  const int64_t begin = plan.first[chunk], end = plan.first[chunk + 1];
  char* base = static_cast<char*>(partials) + plan.offset[chunk];
  std::memset(base, 0, plan.offset[chunk + 1] - plan.offset[chunk]);
  // receivers without an edge
  if (args.grad_receiver && args.rows < 0)
    std::memset(args.grad_receiver + begin * args.width, 0, (end - begin) * args.width * sizeof(T));
  if (args.grad_x) std::memset(args.grad_x + begin * args.dim, 0, (end - begin) * args.dim * sizeof(X));
  ChainChunk<T, X> work{args,
                        PackedChain<T>(args, true, const_cast<void*>(packed)),
                        ChainScratch<T>(args, true, scratch),
                        chain_partial(args, plan, partials, chunk),
                        plan.low[chunk],
                        {},
                        {}};
  work.run(begin, end);
}

template <class Isa, class T, class X>
void EdgeNetworkCpu<Isa, T, X>::reduce_nodes(const Args& args, const MessagePlan& plan, const void* partials,
                                             int64_t begin, int64_t end) {
  add_partial_nodes(args, plan, [&](int k) { return chain_partial(args, plan, partials, k); }, begin, end);
}

template <class Isa, class T, class X>
void EdgeNetworkCpu<Isa, T, X>::reduce_weights(const Args& args, const MessagePlan& plan, const void* partials) {
  T* out = args.grad_weights;
  for (int k = 0; k < args.layers; ++k) {
    const int64_t in = args.inputs(k), stride = padded<T>(in);
    const T *weight[MessagePlan::kMostChunks], *bias[MessagePlan::kMostChunks];
    for (int c = 0; c < plan.chunks; ++c) {
      const ChainPartial<T> partial = chain_partial(args, plan, partials, c);
      weight[c] = partial.weight[k];
      bias[c] = partial.bias[k];
    }
    auto add = [&](const T* const* from, int64_t at) {
      double sum = 0;
      for (int c = 0; c < plan.chunks; ++c) sum += from[c][at];
      *out++ = T(sum);
    };
    for (int64_t o = 0; o < args.channels[k]; ++o)
      for (int64_t i = 0; i < in; ++i) add(weight, o * stride + i);
    for (int64_t o = 0; o < args.channels[k]; ++o) add(bias, o);
  }
}

#define EK_INSTANTIATE(T, X)                                                                                          \
  template MessagePlan EdgeNetworkCpu<EK_ISA, T, X>::plan(const EdgeNetworkArgs<T, X>&);                              \
  template void EdgeNetworkCpu<EK_ISA, T, X>::backward(const EdgeNetworkArgs<T, X>&, const void*, const MessagePlan&, \
                                                       int, void*, void*);                                            \
  template void EdgeNetworkCpu<EK_ISA, T, X>::reduce_nodes(const EdgeNetworkArgs<T, X>&, const MessagePlan&,          \
                                                           const void*, int64_t, int64_t);                            \
  template void EdgeNetworkCpu<EK_ISA, T, X>::reduce_weights(const EdgeNetworkArgs<T, X>&, const MessagePlan&,        \
                                                             const void*);
EK_INSTANTIATE(float, float)
EK_INSTANTIATE(float, double)
EK_INSTANTIATE(double, double)
#undef EK_INSTANTIATE

}  // namespace ek
