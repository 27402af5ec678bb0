// The edge network on a block of edges: weights in the kernels' order, rows in scratch, and the steps from node
// tables to messages that the forward and the backward pass share.
#pragma once

#include "../../simd/more_activations.h"
#include "edges.h"

namespace ek {
namespace {

// Hands out 64-byte-aligned pieces of a buffer; on a null base it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += round_up(count * int64_t(sizeof(T)), 64);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  uintptr_t base_;
  int64_t used_ = 0;
};

template <class T, class X>
bool wants_coordinates(const MessageArgs<T, X>& args, bool backward) {
  return args.head_out && (backward ? args.grad_coordinates != nullptr : args.coordinates != nullptr);
}

template <class T>
struct PackedLayer {
  int64_t in = 0, out = 0;
  T *panels = nullptr, *bias = nullptr, *transposed = nullptr;

  void lay_out(Arena& arena, int64_t in_width, int64_t out_width, bool backward) {
    in = in_width;
    out = out_width;
    panels = arena.take<T>(packed_size<T>(in, out));
    bias = arena.take<T>(padded<T>(out));
    if (backward) transposed = arena.take<T>(packed_size<T>(out, in));
  }
  // outputs: what the transposed weights of each output are multiplied by, or null.
  void fill(const MessageLayer<T>& layer, bool bfloat16, bool two_parts, const T* outputs = nullptr) const {
    for (int part = 0; part <= int(two_parts); ++part)
      pack(
          in, out, [&](int64_t k, int64_t o) { return layer.weight[o * in + k]; }, bfloat16, part,
          part == 0 ? panels : reinterpret_cast<T*>(pairs(part)));
    for (int64_t o = 0; o < padded<T>(out); ++o) bias[o] = layer.bias && o < out ? layer.bias[o] : T(0);
    if (transposed)
      pack(
          out, in, [&](int64_t o, int64_t k) { return layer.weight[o * in + k] * (outputs ? outputs[o] : T(1)); },
          bfloat16, 0, transposed);
  }
  int64_t pair_count() const { return (in + 1) / 2; }
  // Both parts together take the place of the numbers.
  Bfloat16Pair* pairs(int part = 0) const {
    return reinterpret_cast<Bfloat16Pair*>(panels) + part * pair_count() * padded<T>(out);
  }

 private:
  // part 1: what rounding to bfloat16 takes away
  template <class Weight>
  static void pack(int64_t in, int64_t out, Weight&& weight, bool bfloat16, [[maybe_unused]] int part, T* to) {
    if (!bfloat16) return pack_panels(in, out, weight, to);
    if constexpr (kHasPairs<T>) {
      const auto number = [&](int64_t k, int64_t o) {
        const float x = k < in ? weight(k, o) : 0;
        return part == 0 ? x : x - round_to_bfloat16(x);
      };
      const auto pair = [&](int64_t k, int64_t o) { return bfloat16_pair(number(2 * k, o), number(2 * k + 1, o)); };
      pack_panels((in + 1) / 2, out, pair, reinterpret_cast<Bfloat16Pair*>(to));
    } else {
      pack_panels(in, out, [&](int64_t k, int64_t o) { return round_to_bfloat16(weight(k, o)); }, to);
    }
  }
};

template <class T>
struct Packed {
  T* columns = nullptr;  // [invariants + edge_width][H]: the columns of S and Q
  PackedLayer<T> hidden[kMessageDepth - 1], head;
  T *gate = nullptr, *head_out = nullptr;
  int64_t bytes = 0;

  template <class X>
  Packed(const MessageArgs<T, X>& args, bool backward, void* base) {
    Arena arena(base);
    columns = arena.take<T>((args.invariants() + args.edge_width) * padded<T>(args.width));
    int64_t width = args.width;
    for (int l = 0; l < args.depth - 1; ++l) {
      hidden[l].lay_out(arena, width, args.hidden[l].width, backward);
      width = args.hidden[l].width;
    }
    if (args.gate_weight) gate = arena.take<T>(padded<T>(width));
    if (wants_coordinates(args, backward)) {
      head.lay_out(arena, width, args.head.width, backward);
      head_out = arena.take<T>(padded<T>(args.head.width));
    }
    bytes = arena.used();
  }

  static void copy_padded(const T* from, int64_t step, int64_t count, T* to) {
    for (int64_t k = 0; k < padded<T>(count); ++k) to[k] = k < count ? from[k * step] : T(0);
  }
  template <class X>
  void fill(const MessageArgs<T, X>& args) const {
    const int64_t H = args.width, Hp = padded<T>(H);
    const int invariants = args.invariants();
    for (int c = 0; c < invariants; ++c) copy_padded(args.invariant_weight + c, invariants, H, columns + c * Hp);
    for (int64_t c = 0; c < args.edge_width; ++c)
      copy_padded(args.edge_weight + c, args.edge_width, H, columns + (invariants + c) * Hp);
    for (int l = 0; l < args.depth - 1; ++l) hidden[l].fill(args.hidden[l], args.bfloat16, args.two_parts);
    if (gate) copy_padded(args.gate_weight, 1, args.message_width(), gate);
    if (head_out) {
      head.fill(args.head, args.bfloat16, args.two_parts, args.kept_head ? args.head_out : nullptr);
      copy_padded(args.head_out, 1, args.head.width, head_out);
    }
  }
};

template <class T>
struct Scratch {
  Rows<T> h[kMessageDepth], d[kMessageDepth];  // activations and their derivatives (relu: the activations again)
  Rows<T> message, head, head_d;               // m; act(W_x m + b_x) and its derivative
  Rows<T> grad, spare;                         // spare, forward: what rounding takes away
  Rows<T> rounded;                             // backward: factors of bfloat16 products, which are read again
  T* coefficient = nullptr;                    // [invariants + edge_width][kEdges]: s_ij and a_ij
  T *gate = nullptr, *t = nullptr, *factor = nullptr;  // [kEdges]
  T* carry = nullptr;                                  // the row of a receiver whose edges are spread over blocks
  int64_t bytes = 0;

  template <class X>
  Scratch(const MessageArgs<T, X>& args, bool backward, void* base) {
    Arena arena(base);
    int64_t widest = args.width;
    for (int l = 0; l < args.depth - 1; ++l)
      if (args.hidden[l].width > widest) widest = args.hidden[l].width;
    if (wants_coordinates(args, backward) && args.head.width > widest) widest = args.head.width;
    int64_t stride = padded<T>(widest);
    if (stride * sizeof(T) % 1024 == 0) stride += lanes<T>;  // else rows compete for few cache sets
    auto rows = [&] { return Rows<T>{arena.take<T>(stride * kEdges), stride}; };
    const bool relu = args.activation == Activation::relu;
    if (backward) {
      for (int l = 0; l < args.depth; ++l) {
        h[l] = rows();
        d[l] = relu ? h[l] : rows();
      }
      message = args.gate_weight ? rows() : h[args.depth - 1];
      head = rows();
      head_d = relu ? head : rows();
      grad = rows();
      spare = rows();
      if constexpr (kHasPairs<T>)
        if (args.bfloat16) rounded = {arena.take<T>(stride * outer_room(kEdges)), stride};
    } else {
      h[0] = rows();
      h[1] = rows();
      h[2] = h[0];
      if (args.two_parts) spare = rows();
      message = h[args.depth - 1];
      head = h[args.depth % 2];
    }
    coefficient = arena.take<T>((args.invariants() + args.edge_width) * kEdges);
    gate = arena.take<T>(kEdges);
    t = arena.take<T>(kEdges);
    factor = arena.take<T>(kEdges);
    carry = arena.take<T>(stride);
    bytes = arena.used();
  }
};

// The vectors of a node table's row: f(offset, io) with io.load, io.store and io.keep.
template <class T, class F>
inline void for_vectors(int64_t width, F&& f) {
  for (int64_t k = 0; k < width; k += lanes<T>) f(k, Tail<T>(width - k));
}

// out[e] = w . rows[e]
template <class T>
inline void dot_rows(Rows<T> rows, const T* w, int64_t width, int64_t count, T* out) {
  for (int64_t e = 0; e < count; ++e) {
    Vec<T> s = load(rows[e]) * load(w);
    for (int64_t k = lanes<T>; k < width; k += lanes<T>) s = mul_add(load(rows[e] + k), load(w + k), s);
    out[e] = add_lanes(s);
  }
}

// rows <- act(rows); d <- act'(rows) if kGrad
template <bool kGrad, class T>
inline void activate(Activation kind, double slope, Rows<T> rows, Rows<T> d, int64_t width, int64_t count) {
  if (padded<T>(width) == rows.stride) {  // nothing between the rows: they are one
    width = rows.stride * count;
    count = 1;
  }
  with_activation<T>(kind, slope, [&](auto act) {
    for (int64_t e = 0; e < count; ++e)
      for (int64_t k = 0; k < width; k += lanes<T>) {
        if constexpr (kGrad) {
          Vec<T> derivative;
          store(rows[e] + k, act.both(load(rows[e] + k), derivative));
          store(d[e] + k, derivative);
        } else {
          store(rows[e] + k, act.value(load(rows[e] + k)));
        }
      }
  });
}

template <class T>
inline void apply_sigmoid(T* p) {
  for (int e = 0; e < kEdges; e += lanes<T>) store(p + e, logistic<T>(load(p + e)));
}
template <class T>
inline void apply_tanh(T* p) {
  for (int e = 0; e < kEdges; e += lanes<T>) store(p + e, tanh_of<T>(load(p + e)));
}

template <int last, class T>
inline void load_row(const T* p, Tail<T> tail, Vec<T>* v) {
#pragma GCC unroll 8
  for (int q = 0; q < last; ++q) v[q] = load(p + q * lanes<T>);
  v[last] = tail.load(p + last * lanes<T>);
}

// rows[e] = A_i + B_j + sum of columns, coefficient by coefficient. kColumns of them stay in registers.
template <int kColumns, bool kRelu, class T, class X>
inline void gather(const MessageArgs<T, X>& args, const EdgeBlock& block, const T* columns, int64_t count,
                   const T* coefficients, Rows<T> rows) {
  constexpr int W = lanes<T>;
  const int64_t H = args.width, Hp = padded<T>(H);
  for_panels<kPanel>(int(Hp / W), [&](auto panel, int first) {
    constexpr int last = decltype(panel)::value - 1;
    const int64_t k0 = int64_t(first) * W;
    const Tail<T> tail(H - k0 - last * W);
    Vec<T> column[kColumns + 1][last + 1], a[last + 1], z[last + 1];
    for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 8
      for (int q = 0; q <= last; ++q) column[c][q] = load(columns + c * Hp + k0 + q * W);
    // copies: a store through a plain pointer may, for all the compiler knows, change what is behind a reference
    const T* const sender = args.sender + k0;
    const T* const coefficient = coefficients;
    const T* const more = columns + k0;
    const Rows<T> to{rows.data + k0, rows.stride};
    for (int s = 0; s < block.segments; ++s) {
      load_row<last>(args.receiver + block.segment[s].receiver * H + k0, tail, a);
      const int end = block.segment[s].end;
      for (int e = block.segment[s].begin; e < end; ++e) {
        load_row<last>(sender + block.sender[e] * H, tail, z);
#pragma GCC unroll 8
        for (int q = 0; q <= last; ++q) z[q] += a[q];
#pragma GCC unroll 2
        for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 8
          for (int q = 0; q <= last; ++q) z[q] = mul_add(broadcast(coefficient[c * kEdges + e]), column[c][q], z[q]);
        if (kColumns == 0)
          for (int64_t c = 0; c < count; ++c)
#pragma GCC unroll 8
            for (int q = 0; q <= last; ++q)
              z[q] = mul_add(broadcast(coefficient[c * kEdges + e]), load(more + c * Hp + q * W), z[q]);
        z[last] = tail.keep(z[last]);  // zero times an infinite coefficient
#pragma GCC unroll 8
        for (int q = 0; q <= last; ++q) store(to[e] + q * W, kRelu ? max_of(Vec<T>{}, z[q]) : z[q]);
      }
    }
  });
}

// Adds the block's rows to their receivers, edge by edge, and writes the receivers that are complete.
template <class T>
inline void aggregate(const EdgeBlock& block, Rows<T> rows, int64_t width, bool mean, T* carry, T* table) {
  constexpr int W = lanes<T>;
  for_panels<kPanel>(int(padded<T>(width) / W), [&](auto panel, int first) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t k0 = int64_t(first) * W;
    if (!mean && block.short_rows()) {
      const Tail<T> tail(width - k0 - (kWidth - 1) * W);
      Vec<T> acc[kWidth];
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[v] = load(carry + k0 + v * W);
      for (int e = 0; e < block.count; ++e) {
        const Bits<T> keep = Bits<T>{} + decltype(Bits<T>{}[0] + 0)(block.keep[e]);
        T* const out = table + block.receiver[e] * width + k0;
#pragma GCC unroll 8
        for (int v = 0; v < kWidth; ++v) {
          acc[v] = from_bits(bits(acc[v]) & keep) + load(rows[e] + k0 + v * W);
          v < kWidth - 1 ? store(out + v * W, acc[v]) : tail.store(out + v * W, acc[v]);
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) store(carry + k0 + v * W, acc[v]);
      return;
    }
    for (int s = 0; s < block.segments; ++s) {
      const Segment& segment = block.segment[s];
      Vec<T> acc[kWidth];
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[v] = segment.opens ? Vec<T>{} : load(carry + k0 + v * W);
      for (int e = segment.begin; e < segment.end; ++e)
#pragma GCC unroll 8
        for (int v = 0; v < kWidth; ++v) acc[v] += load(rows[e] + k0 + v * W);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) {
        const int64_t k = k0 + v * W, left = width - k;
        T* out = table + segment.receiver * width + k;
        if (!segment.closes) {
          store(carry + k, acc[v]);
          continue;
        }
        if (mean) acc[v] = acc[v] / T(segment.degree);
        Tail<T>(left).store(out, acc[v]);
      }
    }
  });
}

#if defined(EK_TILES)
// out = layer(in), numbers in two parts of bfloat16 each: of the four products the smallest is left out. An infinity
// gives NaN.
template <class T>
inline void multiply_two_parts(const PackedLayer<T>& layer, Rows<T> in, Rows<T> rest, Rows<T> out, int64_t count) {
  static_assert(kEdges % 2 == 0);
  const Rows<Bfloat16Pair> first{pack_pairs<true>(in.data, count * in.stride, in.data, rest.data), in.stride / 2};
  const Rows<Bfloat16Pair> second{reinterpret_cast<Bfloat16Pair*>(rest.data), in.stride / 2};
  const int64_t pairs = layer.pair_count();
  multiply<Into::place>(second, pairs, layer.pairs(0), layer.bias, out, layer.out, count);
  multiply<Into::sum>(first, pairs, layer.pairs(1), layer.bias, out, layer.out, count);
  multiply<Into::sum>(first, pairs, layer.pairs(0), layer.bias, out, layer.out, count);
}
#endif

// out = in times panels, plus bias. With bfloat16, rows of in are packed in pairs at `rounded`, which may be in itself,
// or, on CPUs that have no pairs, rounded where they are.
template <Into kInto, class T>
inline void multiply_rounded(Rows<T> in, int64_t in_channels, const T* panels, const T* bias, Rows<T> out,
                             int64_t out_channels, int64_t count, bool bfloat16, [[maybe_unused]] T* rounded) {
  if (bfloat16) {
    if constexpr (kHasPairs<T>) {
      static_assert(kEdges % 2 == 0);
      const Rows<Bfloat16Pair> pairs{pack_pairs(in.data, count * in.stride, rounded), in.stride / 2};
      const auto weights = reinterpret_cast<const Bfloat16Pair*>(panels);
      return multiply<kInto>(pairs, (in_channels + 1) / 2, weights, bias, out, out_channels, count);
    }
    for (int64_t e = 0; e < count; ++e)
      for (int64_t k = 0; k < in_channels; ++k) in[e][k] = round_to_bfloat16(in[e][k]);
  }
  multiply<kInto>(in, in_channels, panels, bias, out, out_channels, count);
}

// out = act(layer(in)); d = the derivative of act, but for relu, where out tells.
template <bool kGrad, class T, class X>
inline void apply_layer(const MessageArgs<T, X>& args, const PackedLayer<T>& layer, const Scratch<T>& s, Rows<T> in,
                        Rows<T> out, Rows<T> d, int64_t count) {
#if defined(EK_TILES)
  if constexpr (kHasPairs<T>)
    if (args.two_parts) {
      multiply_two_parts(layer, in, s.spare, out, count);
      return activate<kGrad>(args.activation, args.slope, out, d, layer.out, count);
    }
#endif
  const auto multiply_into = [&](auto into) {
    multiply_rounded<decltype(into)::value>(in, layer.in, layer.panels, layer.bias, out, layer.out, count,
                                            args.bfloat16, kGrad ? s.rounded.data : in.data);
  };
  if (args.activation == Activation::relu) return multiply_into(std::integral_constant<Into, Into::relu>{});
  multiply_into(std::integral_constant<Into, Into::place>{});
  activate<kGrad>(args.activation, args.slope, out, d, layer.out, count);
}

// From a block's coefficients to its messages without the gate (h[depth - 1]), the gate's values and, with kGrad,
// everything the backward pass needs on the way. With a gate, message holds the gated messages.
template <bool kGrad, class T, class X>
inline void compute_messages(const MessageArgs<T, X>& args, const Packed<T>& packed, const EdgeBlock& block,
                             Scratch<T>& s) {
  const int columns = args.invariants() + int(args.edge_width);
  for (int64_t q = 0; q < args.edge_width; ++q)
    for (int e = 0; e < block.count; ++e)
      s.coefficient[(args.invariants() + q) * kEdges + e] = args.edge_attr[block.edge[e] * args.edge_width + q];
  const bool relu = args.activation == Activation::relu;  // cheap enough to be done on the way
  if (relu) {
    columns == 2 ? gather<2, true>(args, block, packed.columns, columns, s.coefficient, s.h[0])
                 : gather<0, true>(args, block, packed.columns, columns, s.coefficient, s.h[0]);
  } else {
    columns == 1 ? gather<1, false>(args, block, packed.columns, columns, s.coefficient, s.h[0])
                 : gather<0, false>(args, block, packed.columns, columns, s.coefficient, s.h[0]);
    activate<kGrad>(args.activation, args.slope, s.h[0], s.d[0], args.width, block.count);
  }
  for (int l = 0; l < args.depth - 1; ++l)
    apply_layer<kGrad>(args, packed.hidden[l], s, s.h[l], s.h[l + 1], s.d[l + 1], block.count);
  if (!args.gate_weight) return;
  const Rows<T> h = s.h[args.depth - 1], message = s.message;
  const int64_t width = args.message_width();
  dot_rows(h, packed.gate, width, block.count, s.gate);
  if (args.gate_bias)
    for (int e = 0; e < kEdges; ++e) s.gate[e] += *args.gate_bias;
  apply_sigmoid(s.gate);
  for (int e = 0; e < block.count; ++e) {
    const Vec<T> gate = broadcast(s.gate[e]);
    for (int64_t k = 0; k < width; k += lanes<T>) store(message[e] + k, load(h[e] + k) * gate);
  }
}

// The head's output t, before its tanh.
template <bool kGrad, class T, class X>
inline void compute_head(const MessageArgs<T, X>& args, const Packed<T>& packed, const EdgeBlock& block,
                         Scratch<T>& s) {
  const PackedLayer<T>& layer = packed.head;
  apply_layer<kGrad>(args, layer, s, s.message, s.head, s.head_d, block.count);
  dot_rows(s.head, packed.head_out, layer.out, block.count, s.t);
}

}  // namespace
}  // namespace ek
