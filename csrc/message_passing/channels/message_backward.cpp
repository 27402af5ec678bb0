// A block of edges is computed again and differentiated while its rows are in cache: against the two products of the
// forward pass (edge network and head) six, two of them again, two for the rows, two for the weights; five where the
// forward pass kept the signs of the head.
#include "../../core/isa.h"
#include "partials.h"
#include "points.h"

namespace ek {
namespace {

// The backward pass of one chunk.
template <class T, class X>
struct Chunk {
  static constexpr int W = lanes<T>;

  const MessageArgs<T, X>& args;
  const Packed<T> packed;
  Scratch<T> s;
  const Partial<T> partial;
  const int64_t low;  // first node of the partial's rows
  Geometry<X> geometry;
  EdgeBlock block;
  PointGradient<X> points;

  int64_t width() const { return args.message_width(); }
  Rows<T> last() const { return s.h[args.depth - 1]; }  // messages without the gate

  void run(int64_t begin, int64_t end) {
    const bool head = wants_coordinates(args, true);
    EdgeCursor cursor(args.graph, begin, end);
    while (cursor.next(block)) {
      geometry.prepare(args, block, head, s.coefficient);
      compute_messages<true>(args, packed, block, s);
      if (args.grad_x) points.clear(args.dim);
      seed();
      if (head) through_head();
      if (args.gate_weight) through_gate();
      through_hidden();
      to_nodes();
      if (args.grad_x || args.grad_edge_attr) through_columns();
      if (args.grad_x) points.add(args, block, partial.x, low);
    }
  }

  // grad <- gradient of m from the outputs M and m
  void seed() {
    const int64_t n = width();
    const Rows<T> grad = s.grad;
    for (int k = 0; k < block.segments; ++k) {
      const Segment& segment = block.segment[k];
      const T scale = args.mean_messages ? T(segment.degree) : T(1);
      const T* from = args.grad_messages ? args.grad_messages + segment.receiver * n : nullptr;
      for_vectors<T>(n, [&](int64_t c, auto io) {
        const Vec<T> g = from ? io.load(from + c) / scale : Vec<T>{};
        for (int e = segment.begin, end = segment.end; e < end; ++e) store(grad[e] + c, g);
      });
    }
    if (!args.grad_edges) return;
    for (int e = 0; e < block.count; ++e) {
      const T* from = args.grad_edges + block.edge[e] * n;
      for_vectors<T>(n, [&](int64_t c, auto io) { store(grad[e] + c, load(grad[e] + c) + io.load(from + c)); });
    }
  }

  // grad += gradient of m from the head
  void through_head() {
    const PackedLayer<T>& layer = packed.head;
    if (args.kept_head) {
      for (int e = 0; e < block.count; ++e) std::memcpy(s.t + e, args.kept_of(block.edge[e]), sizeof(T));
    } else {
      compute_head<true>(args, packed, block, s);
      if (args.head_tanh) apply_tanh(s.t);
    }
    points.through_update(args, block, geometry, s.t, s.factor);
    if (args.head_tanh)
      for (int e = 0; e < block.count; ++e) s.factor[e] *= T(1) - s.t[e] * s.t[e];
    const Rows<T> g = s.spare;
    if (args.kept_head) {
      through_signs(g);
    } else {
      if (args.grad_head_out) add_rows(s.head, layer.out, s.factor, block.count, partial.head_out);
      for (int e = 0; e < block.count; ++e) {
        const Vec<T> factor = broadcast(s.factor[e]);
        for (int64_t k = 0; k < layer.out; k += W) store(g[e] + k, factor * load(packed.head_out + k));
      }
      through_activation(g, s.head_d, layer.out);
    }
    through_layer<Into::sum>(args.head, layer, partial.head, g, s.message, s.grad);
  }

  // g <- the factor of t where a channel of the head was not cut off. w_x is in the transposed weights, and is put on
  // the sums of weights and biases at the end.
  void through_signs(Rows<T> g) const {
    for (int e = 0; e < block.count; ++e) {
      const int32_t* words = args.kept_of(block.edge[e]) + sizeof(T) / 4;
      const Bits<T> factor = bits(splat(s.factor[e]));
      for (int64_t k = 0; k < args.head.width; k += W)
        store(g[e] + k, from_bits(factor & masked_lanes<T>(uint32_t(words[k / 32]) >> (k % 32))));
    }
  }

  // grad: from the gated messages to those without the gate
  void through_gate() {
    const Rows<T> h = last(), grad = s.grad;
    const int64_t n = width();
    const T* const weight = packed.gate;
    T factor[kEdges];
    for (int e = 0; e < block.count; ++e) {
      Vec<T> dot{};
      for (int64_t k = 0; k < n; k += W) dot = mul_add(load(grad[e] + k), load(h[e] + k), dot);
      factor[e] = add_lanes(dot) * (s.gate[e] * (T(1) - s.gate[e]));
    }
    if (args.grad_gate_weight) add_rows(h, n, factor, block.count, partial.gate);
    if (args.grad_gate_bias) {
      T sum = 0;
      for (int e = 0; e < block.count; ++e) sum += factor[e];
      *partial.gate_bias += sum;
    }
    for (int e = 0; e < block.count; ++e) {
      const Vec<T> gate = broadcast(s.gate[e]), g = broadcast(factor[e]);
      for (int64_t k = 0; k < n; k += W) store(grad[e] + k, mul_add(gate, load(grad[e] + k), g * load(weight + k)));
    }
  }

  // grad: from the last layer's output to z
  void through_hidden() {
    for (int l = args.depth - 1; l >= 0; --l) {
      const int64_t n = l > 0 ? packed.hidden[l - 1].out : args.width;
      through_activation(s.grad, s.d[l], n);
      if (l == 0) break;
      through_layer<Into::place>(args.hidden[l - 1], packed.hidden[l - 1], partial.hidden[l - 1], s.grad, s.h[l - 1],
                                 s.spare);
      const Rows<T> swap = s.grad;
      s.grad = s.spare;
      s.spare = swap;
    }
  }

  // Where the slope of an activation is zero nothing passes, not even infinity.
  void through_activation(Rows<T> g, Rows<T> d, int64_t n) const {
    const int count = block.count;
    if (args.activation == Activation::relu) {
      for (int e = 0; e < count; ++e)
        for (int64_t k = 0; k < n; k += W) store(g[e] + k, load(d[e] + k) <= T(0) ? Vec<T>{} : load(g[e] + k));
    } else {
      for (int e = 0; e < count; ++e)
        for (int64_t k = 0; k < n; k += W) {
          const Vec<T> slope = load(d[e] + k);
          store(g[e] + k, slope == T(0) ? Vec<T>{} : load(g[e] + k) * slope);
        }
    }
  }

  // g, the gradient of a layer's output, to its weight and bias, and to its input: out. Products of bfloat16 numbers
  // are those of the forward pass's layers.
  template <Into kInto>
  void through_layer(const MessageLayer<T>& layer, const PackedLayer<T>& weights, const PartialLayer<T>& sums,
                     Rows<T> g, Rows<T> in, Rows<T> out) {
    if (layer.grad_bias) add_rows<T>(g, sums.out, nullptr, block.count, sums.bias);
    multiply_rounded<kInto>(g, weights.out, weights.transposed, partial.zeros, out, weights.in, block.count,
                            args.bfloat16, s.rounded.data);
    if (layer.grad_weight) add_weights(sums, g, in);
  }

  void add_weights(const PartialLayer<T>& sums, Rows<T> g, Rows<T> in) {
    const Rows<T> grad{sums.weight, padded<T>(sums.in)};
    const int64_t count = block.count;
    if constexpr (kHasPairs<T>)
      if (args.bfloat16) return outer_rounded(g, sums.out, in, sums.in, count, grad, s.rounded.data);
    outer(g, sums.out, in, sums.in, count, grad);
  }

  // The gradient of z to A, B, S and Q.
  void to_nodes() {
    const int64_t n = args.width, Hp = padded<T>(n);
    const int invariants = args.invariants();
    for (int c = 0; c < invariants + args.edge_width; ++c)
      if (c < invariants ? args.grad_invariant_weight : args.grad_edge_weight)
        add_rows(s.grad, n, s.coefficient + int64_t(c) * kEdges, block.count, partial.columns + c * Hp);
    if (args.grad_sender)
      for (int e = 0; e < block.count; ++e) {
        T* const to = partial.sender + (block.sender[e] - low) * Hp;
        const T* const from = s.grad[e];
        for (int64_t k = 0; k < Hp; k += W) store(to + k, load(to + k) + load(from + k));
      }
    if (args.grad_receiver) aggregate(block, s.grad, n, false, s.carry, args.grad_receiver);
  }

  // The gradient of z to s_ij and a_ij, and from s_ij to x.
  void through_columns() {
    const int64_t n = args.width, Hp = padded<T>(n);
    T g[kEdges] = {};
    int c = 0;
    if (args.grad_x)
      for (int which = 0; which < 2; ++which) {
        if (!(which == 0 ? args.interval : args.product)) continue;
        dot_rows(s.grad, packed.columns + Hp * c++, n, block.count, g);
        points.through_invariant(args, geometry, which, g);
      }
    if (!args.grad_edge_attr) return;
    for (int64_t q = 0; q < args.edge_width; ++q) {
      dot_rows(s.grad, packed.columns + Hp * (args.invariants() + q), n, block.count, g);
      for (int e = 0; e < block.count; ++e) args.grad_edge_attr[block.edge[e] * args.edge_width + q] = g[e];
    }
  }
};

}  // namespace

template <class Isa, class T, class X>
MessagePlan MessageCpu<Isa, T, X>::plan(const Args& args) {
  MessagePlan plan = share_receivers(args.graph);
  for (int k = 0; k < plan.chunks; ++k)
    plan.offset[k + 1] = plan.offset[k] + Partial<T>(args, plan.high[k] - plan.low[k], nullptr).bytes;
  return plan;
}

template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::backward(const Args& args, const void* packed, const MessagePlan& plan, int chunk,
                                     void* partials, void* scratch) {
  const int64_t begin = plan.first[chunk], end = plan.first[chunk + 1];
  char* base = static_cast<char*>(partials) + plan.offset[chunk];
  std::memset(base, 0, plan.offset[chunk + 1] - plan.offset[chunk]);
  // receivers without an edge
  if (args.grad_receiver)
    std::memset(args.grad_receiver + begin * args.width, 0, (end - begin) * args.width * sizeof(T));
  if (args.grad_x) std::memset(args.grad_x + begin * args.dim, 0, (end - begin) * args.dim * sizeof(X));
  Chunk<T, X> work{args,
                   Packed<T>(args, true, const_cast<void*>(packed)),
                   Scratch<T>(args, true, scratch),
                   Partial<T>(args, plan.high[chunk] - plan.low[chunk], base),
                   plan.low[chunk],
                   {},
                   {},
                   {}};
  work.run(begin, end);
  release_tiles();
}

template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::reduce_nodes(const Args& args, const MessagePlan& plan, const void* partials, int64_t begin,
                                         int64_t end) {
  add_partial_nodes(args, plan, [&](int k) { return partial_of(args, plan, partials, k); }, begin, end);
}
template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::reduce_weights(const Args& args, const MessagePlan& plan, const void* partials) {
  add_partial_weights(args, plan, partials);
}

#define EK_INSTANTIATE(T, X)                                                                                       \
  template MessagePlan MessageCpu<EK_ISA, T, X>::plan(const MessageArgs<T, X>&);                                   \
  template void MessageCpu<EK_ISA, T, X>::backward(const MessageArgs<T, X>&, const void*, const MessagePlan&, int, \
                                                   void*, void*);                                                  \
  template void MessageCpu<EK_ISA, T, X>::reduce_nodes(const MessageArgs<T, X>&, const MessagePlan&, const void*,  \
                                                       int64_t, int64_t);                                          \
  template void MessageCpu<EK_ISA, T, X>::reduce_weights(const MessageArgs<T, X>&, const MessagePlan&, const void*);
EK_INSTANTIATE(float, float)
EK_INSTANTIATE(float, double)
EK_INSTANTIATE(double, double)
#undef EK_INSTANTIATE

}  // namespace ek
