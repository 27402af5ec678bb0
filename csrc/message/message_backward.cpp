// Compiled once per instruction set; no torch header and no standard container in here.
//
// A block of edges is computed again and differentiated while its rows are in cache: against the two products of the
// forward pass (edge network and head) six, two of them again, two for the rows, two for the weights.
#include "../common/isa.h"
#include "partials.h"

namespace ek {
namespace {

// The backward pass of one chunk.
template <class T, class X>
struct Chunk {
  static constexpr int W = lanes<T>;
  using Lanes = typename Geometry<X>::Lanes;

  const MessageArgs<T, X>& args;
  const Packed<T> packed;
  Scratch<T> s;
  const Partial<T> partial;
  const int64_t low;  // first node of the partial's rows
  Geometry<X> geometry;
  EdgeBlock block;
  double carry_x[kMessageDim] = {};
  Lanes to_receiver[kMessageDim], to_sender[kMessageDim];  // gradients of x by edge

  int64_t width() const { return args.message_width(); }
  Rows<T> last() const { return s.h[args.depth - 1]; }  // messages without the gate

  void run(int64_t begin, int64_t end) {
    const bool head = wants_coordinates(args, true);
    EdgeCursor cursor(args.graph, begin, end);
    while (cursor.next(block)) {
      geometry.prepare(args, block, head, s.coefficient);
      compute_messages<true>(args, packed, block, s);
      if (args.grad_x)
        for (int c = 0; c < args.dim; ++c)
          for (int e = 0; e < kEdges; ++e) to_receiver[c][e] = to_sender[c][e] = 0;
      seed();
      if (head) through_head();
      if (args.gate_weight) through_gate();
      through_hidden();
      to_nodes();
      if (args.grad_x || args.grad_edge_attr) through_columns();
      if (args.grad_x) add_x();
    }
  }

  // grad <- gradient of m from the outputs M and m
  void seed() {
    const int64_t n = width();
    for (int k = 0; k < block.segments; ++k) {
      const Segment& segment = block.segment[k];
      const T scale = args.mean_messages ? T(segment.degree) : T(1);
      const T* from = args.grad_messages ? args.grad_messages + segment.receiver * n : nullptr;
      for_vectors<T>(n, [&](int64_t c, auto io) {
        const Vec<T> g = from ? io.load(from + c) / scale : Vec<T>{};
        for (int e = segment.begin; e < segment.end; ++e) store(s.grad[e] + c, g);
      });
    }
    if (!args.grad_edges) return;
    for (int e = 0; e < block.count; ++e) {
      const T* from = args.grad_edges + block.edge[e] * n;
      for_vectors<T>(n, [&](int64_t c, auto io) { store(s.grad[e] + c, load(s.grad[e] + c) + io.load(from + c)); });
    }
  }

  // Through X = sum clamp(t d): the gradient of t, and what d passes on to x.
  void through_update(const T* t, T* grad_t) {
    Lanes grad_y[kMessageDim];
    for (int c = 0; c < args.dim; ++c) {
      for (int k = 0; k < block.segments; ++k) {
        const Segment& segment = block.segment[k];
        double g = args.grad_coordinates[segment.receiver * args.dim + c];
        if (args.mean_coordinates) g /= segment.degree;
        for (int e = segment.begin; e < segment.end; ++e) {
          const double y = t[e] * geometry.direction[c][e];
          grad_y[c][e] = (y >= -args.clamp && y <= args.clamp) || args.clamp == __builtin_inf() ? g : 0.0;
        }
      }
    }
    for (int e = 0; e < block.count; ++e) {
      double g = 0;
      for (int c = 0; c < args.dim; ++c) g += grad_y[c][e] * geometry.direction[c][e];
      grad_t[e] = T(g);
    }
    if (!args.grad_x) return;
    for (int e = 0; e < block.count; ++e) {
      const double norm = geometry.has_norm(args.direction) ? geometry.norm[e] : 1.0;
      double along = 0;  // what the norm itself passes on
      if (args.direction == Direction::norm_plus_one && geometry.interval[e] != 0) {
        for (int c = 0; c < args.dim; ++c) along += grad_y[c][e] * t[e] * geometry.direction[c][e];
        along /= norm - 1.0;
      }
      for (int c = 0; c < args.dim; ++c) {
        const double g = (grad_y[c][e] * t[e] - along * args.metric[c] * geometry.direction[c][e] * norm) / norm;
        if (args.direction != Direction::sender) to_receiver[c][e] = g;
        to_sender[c][e] = args.direction == Direction::sender ? g : -g;
      }
    }
    if (args.direction == Direction::sender) return;
    for (int k = 0; k < block.segments; ++k)  // of a self-loop x_i - x_j is 0, whatever x: no gradient, even over epsilon
      for (int e = block.segment[k].begin; e < block.segment[k].end; ++e)
        if (block.sender[e] == block.segment[k].receiver)
          for (int c = 0; c < args.dim; ++c) to_receiver[c][e] = to_sender[c][e] = 0;
  }

  // grad += gradient of m from the head
  void through_head() {
    const PackedLayer<T>& layer = packed.head;
    compute_head<true>(args, packed, block, s);
    if (args.head_tanh) apply_tanh(s.t);
    through_update(s.t, s.factor);
    if (args.head_tanh)
      for (int e = 0; e < block.count; ++e) s.factor[e] *= T(1) - s.t[e] * s.t[e];
    if (args.grad_head_out) add_rows(s.head, layer.out, s.factor, block.count, partial.head_out);
    for (int e = 0; e < block.count; ++e) {
      const Vec<T> g = broadcast(s.factor[e]);
      for (int64_t k = 0; k < layer.out; k += W)
        store(s.head_d[e] + k, chain(g * load(packed.head_out + k), load(s.head_d[e] + k)));
    }
    add_weights(args.head, partial.head, s.head_d, s.message);
    multiply<true>(s.head_d, layer.out, layer.transposed, partial.zeros, s.grad, layer.in, block.count);
  }

  // grad: from the gated messages to those without the gate
  void through_gate() {
    const Rows<T> h = last();
    for (int e = 0; e < block.count; ++e) {
      Vec<T> dot{};
      for (int64_t k = 0; k < width(); k += W) dot = mul_add(load(s.grad[e] + k), load(h[e] + k), dot);
      s.factor[e] = add_lanes(dot) * (s.gate[e] * (T(1) - s.gate[e]));
    }
    if (args.grad_gate_weight) add_rows(h, width(), s.factor, block.count, partial.gate);
    if (args.grad_gate_bias) {
      T sum = 0;
      for (int e = 0; e < block.count; ++e) sum += s.factor[e];
      *partial.gate_bias += sum;
    }
    for (int e = 0; e < block.count; ++e) {
      const Vec<T> gate = broadcast(s.gate[e]), g = broadcast(s.factor[e]);
      for (int64_t k = 0; k < width(); k += W)
        store(s.grad[e] + k, mul_add(gate, load(s.grad[e] + k), g * load(packed.gate + k)));
    }
  }

  // grad: from the last layer's output to z
  void through_hidden() {
    for (int l = args.depth - 1; l >= 0; --l) {
      const int64_t n = l > 0 ? packed.hidden[l - 1].out : args.width;
      for (int e = 0; e < block.count; ++e)
        for (int64_t k = 0; k < n; k += W) store(s.grad[e] + k, chain(load(s.grad[e] + k), load(s.d[l][e] + k)));
      if (l == 0) break;
      const PackedLayer<T>& layer = packed.hidden[l - 1];
      add_weights(args.hidden[l - 1], partial.hidden[l - 1], s.grad, s.h[l - 1]);
      multiply<false>(s.grad, layer.out, layer.transposed, partial.zeros, s.spare, layer.in, block.count);
      const Rows<T> swap = s.grad;
      s.grad = s.spare;
      s.spare = swap;
    }
  }

  // Gradient through an activation; where its slope is zero nothing passes, not even infinity.
  static Vec<T> chain(Vec<T> g, Vec<T> slope) { return slope == T(0) ? Vec<T>{} : g * slope; }

  void add_weights(const MessageLayer<T>& layer, const PartialLayer<T>& sums, Rows<T> g, Rows<T> in) {
    if (layer.grad_weight) outer(g, sums.out, in, sums.in, block.count, Rows<T>{sums.weight, padded<T>(sums.in)});
    if (layer.grad_bias) add_rows<T>(g, sums.out, nullptr, block.count, sums.bias);
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
        T* to = partial.sender + (block.sender[e] - low) * Hp;
        for (int64_t k = 0; k < Hp; k += W) store(to + k, load(to + k) + load(s.grad[e] + k));
      }
    if (args.grad_receiver) aggregate(block, s.grad, n, false, s.carry, args.grad_receiver);
  }

  // The gradient of z to s_ij and a_ij, and from s_ij to x.
  void through_columns() {
    const int64_t n = args.width, Hp = padded<T>(n);
    T g[kEdges];
    int c = 0;
    if (args.grad_x)
      for (int which = 0; which < 2; ++which) {
        if (!(which == 0 ? args.interval : args.product)) continue;
        dot_rows(s.grad, packed.columns + Hp * c++, n, block.count, g);
        const double* z = which == 0 ? geometry.interval : geometry.product;
        for (int e = 0; e < block.count; ++e) {
          const double slope = args.psi ? g[e] / (1.0 + __builtin_fabs(z[e])) : double(g[e]);
          for (int d = 0; d < args.dim; ++d) {
            const double xi = geometry.receiver[d][e], xj = geometry.sender[d][e], scale = slope * args.metric[d];
            to_receiver[d][e] += scale * (which == 0 ? 2.0 * (xi - xj) : xj);
            to_sender[d][e] += scale * (which == 0 ? 2.0 * (xj - xi) : xi);
          }
        }
      }
    if (!args.grad_edge_attr) return;
    for (int64_t q = 0; q < args.edge_width; ++q) {
      dot_rows(s.grad, packed.columns + Hp * (args.invariants() + q), n, block.count, g);
      for (int e = 0; e < block.count; ++e) args.grad_edge_attr[block.edge[e] * args.edge_width + q] = g[e];
    }
  }

  void add_x() {
    const int dim = args.dim;
    for (int k = 0; k < block.segments; ++k) {
      const Segment& segment = block.segment[k];
      for (int c = 0; c < dim; ++c) {
        double sum = segment.opens ? 0.0 : carry_x[c];
        for (int e = segment.begin; e < segment.end; ++e) sum += to_receiver[c][e];
        carry_x[c] = sum;
        if (segment.closes) args.grad_x[segment.receiver * dim + c] = X(sum);
      }
    }
    for (int e = 0; e < block.count; ++e) {
      double* to = partial.x + (block.sender[e] - low) * dim;
      for (int c = 0; c < dim; ++c) to[c] += to_sender[c][e];
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
  if (args.grad_receiver) std::memset(args.grad_receiver + begin * args.width, 0, (end - begin) * args.width * sizeof(T));
  if (args.grad_x) std::memset(args.grad_x + begin * args.dim, 0, (end - begin) * args.dim * sizeof(X));
  Chunk<T, X> work{args,
                   Packed<T>(args, true, const_cast<void*>(packed)),
                   Scratch<T>(args, true, scratch),
                   Partial<T>(args, plan.high[chunk] - plan.low[chunk], base),
                   plan.low[chunk],
                   {}, {}, {}, {}, {}};
  work.run(begin, end);
}

template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::reduce_nodes(const Args& args, const MessagePlan& plan, const void* partials,
                                         int64_t begin, int64_t end) {
  add_partial_nodes(args, plan, partials, begin, end);
}
template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::reduce_weights(const Args& args, const MessagePlan& plan, const void* partials) {
  add_partial_weights(args, plan, partials);
}

#define EK_INSTANTIATE(T, X)                                                                                     \
  template MessagePlan MessageCpu<EK_ISA, T, X>::plan(const MessageArgs<T, X>&);                                 \
  template void MessageCpu<EK_ISA, T, X>::backward(const MessageArgs<T, X>&, const void*, const MessagePlan&, int, \
                                                   void*, void*);                                                \
  template void MessageCpu<EK_ISA, T, X>::reduce_nodes(const MessageArgs<T, X>&, const MessagePlan&, const void*, \
                                                       int64_t, int64_t);                                        \
  template void MessageCpu<EK_ISA, T, X>::reduce_weights(const MessageArgs<T, X>&, const MessagePlan&, const void*);
EK_INSTANTIATE(float, float)
EK_INSTANTIATE(float, double)
EK_INSTANTIATE(double, double)
#undef EK_INSTANTIATE

}  // namespace ek
