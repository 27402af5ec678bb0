// The shares of the backward pass, and what each adds to nodes and weights that it does not own.
#pragma once

#include "network.h"

namespace ek {
namespace {

template <class T>
struct PartialLayer {
  int64_t in = 0, out = 0;
  T *weight = nullptr, *bias = nullptr;  // [out, padded][in, padded], [out, padded]

  void lay_out(Arena& arena, int64_t in_width, int64_t out_width) {
    in = in_width;
    out = out_width;
    weight = arena.take<T>(padded<T>(out) * padded<T>(in));
    bias = arena.take<T>(padded<T>(out));
  }
};

// All zero when a chunk begins.
template <class T>
struct Partial {
  T* columns = nullptr;  // [invariants + edge_width][H, padded]
  PartialLayer<T> hidden[kMessageDepth - 1], head;
  T *gate = nullptr, *gate_bias = nullptr, *head_out = nullptr;
  T* zeros = nullptr;   // stays zero: the bias of products that have none
  T* sender = nullptr;  // [nodes][H, padded]
  double* x = nullptr;  // [nodes][dim]
  int64_t bytes = 0;

  template <class X>
  Partial(const MessageArgs<T, X>& args, int64_t nodes, const void* base) {
    Arena arena(const_cast<void*>(base));
    columns = arena.take<T>((args.invariants() + args.edge_width) * padded<T>(args.width));
    int64_t width = args.width, widest = width;
    for (int l = 0; l < args.depth - 1; ++l) {
      hidden[l].lay_out(arena, width, args.hidden[l].width);
      width = args.hidden[l].width;
      if (width > widest) widest = width;
    }
    if (args.gate_weight) {
      gate = arena.take<T>(padded<T>(width));
      gate_bias = arena.take<T>(1);
    }
    if (wants_coordinates(args, true)) {
      head.lay_out(arena, width, args.head.width);
      head_out = arena.take<T>(padded<T>(args.head.width));
    }
    zeros = arena.take<T>(padded<T>(widest));
    if (args.grad_sender) sender = arena.take<T>(nodes * padded<T>(args.width));
    if (args.grad_x) x = arena.take<double>(nodes * args.dim);
    bytes = arena.used();
  }
};

// Chunks of receivers with about the same number of edges, and the senders each meets. Two neighbours become one
// while all partials together hold many more rows than there are nodes.
inline MessagePlan share_receivers(const GraphView& g) {
  const int64_t n = g.num_nodes;
  MessagePlan plan;
  if (n == 0) return plan;
  const int64_t total = g.edges_before(n) + n;
  plan.chunks = MessagePlan::chunks_of(total);
  for (int k = 1; k < plan.chunks; ++k) {
    int64_t lo = plan.first[k - 1], hi = n;
    while (lo < hi) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (g.edges_before(mid) + mid < total / plan.chunks * k)
        lo = mid + 1;
      else
        hi = mid;
    }
    plan.first[k] = lo;
  }
  plan.first[plan.chunks] = n;
  int64_t rows = 0;
  for (int k = 0; k < plan.chunks; ++k) {
    const int64_t begin = plan.first[k], end = plan.first[k + 1];
    int64_t low = n, high = 0;
    if (g.complete() && begin < end) {
      low = g.ptr[g.event_of(begin)];
      high = g.ptr[g.event_of(end - 1) + 1];
    } else if (begin < end) {
      for (int64_t e = g.in.ptr[begin]; e < g.in.ptr[end]; ++e) {
        low = g.in.other[e] < low ? g.in.other[e] : low;
        high = g.in.other[e] >= high ? g.in.other[e] + 1 : high;
      }
    }
    plan.low[k] = low < high ? low : 0;
    plan.high[k] = low < high ? high : 0;
    rows += plan.high[k] - plan.low[k];
  }
  while (plan.chunks > 1 && rows > 4 * n) {
    rows = 0;
    plan.chunks /= 2;
    for (int k = 0; k < plan.chunks; ++k) {
      const int a = 2 * k, b = a + 1;
      const bool left = plan.low[a] < plan.high[a], right = plan.low[b] < plan.high[b];
      const int64_t low = !right || (left && plan.low[a] < plan.low[b]) ? plan.low[a] : plan.low[b];
      plan.first[k + 1] = plan.first[b + 1];
      plan.high[k] = plan.high[a] > plan.high[b] ? plan.high[a] : plan.high[b];
      plan.low[k] = low;
      rows += plan.high[k] - plan.low[k];
    }
  }
  return plan;
}

template <class T, class X>
Partial<T> partial_of(const MessageArgs<T, X>& args, const MessagePlan& plan, const void* partials, int chunk) {
  return Partial<T>(args, plan.high[chunk] - plan.low[chunk], static_cast<const char*>(partials) + plan.offset[chunk]);
}

// partial_of_chunk(k): chunk k's rows of senders and of x.
template <class T, class X, class PartialOf>
void add_partial_nodes(const MessageArgs<T, X>& args, const MessagePlan& plan, PartialOf&& partial_of_chunk,
                       int64_t begin, int64_t end) {
  const int64_t H = args.width, Hp = padded<T>(H);
  if (args.grad_sender) std::memset(args.grad_sender + begin * H, 0, (end - begin) * H * sizeof(T));
  for (int k = 0; k < plan.chunks; ++k) {
    const auto partial = partial_of_chunk(k);
    const int64_t first = begin > plan.low[k] ? begin : plan.low[k], last = end < plan.high[k] ? end : plan.high[k];
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i - plan.low[k];
      if (args.grad_sender) {
        T* to = args.grad_sender + i * H;
        for_vectors<T>(
            H, [&](int64_t c, auto io) { io.store(to + c, io.load(to + c) + load(partial.sender + row * Hp + c)); });
      }
      if (args.grad_x)
        for (int c = 0; c < args.dim; ++c)
          args.grad_x[i * args.dim + c] = X(args.grad_x[i * args.dim + c] + partial.x[row * args.dim + c]);
    }
  }
}

// out[r * row_step + c * column_step] = sum over chunks of piece(partial)[r * stride + c], in float64
template <class T, class X, class Piece>
void add_piece(const MessageArgs<T, X>& args, const MessagePlan& plan, const void* partials, Piece&& piece,
               int64_t rows, int64_t columns, int64_t stride, T* out, int64_t row_step, int64_t column_step) {
  if (!out) return;
  const T* from[MessagePlan::kMostChunks];
  for (int k = 0; k < plan.chunks; ++k) from[k] = piece(partial_of(args, plan, partials, k));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      double sum = 0;
      for (int k = 0; k < plan.chunks; ++k) sum += from[k][r * stride + c];
      out[r * row_step + c * column_step] = T(sum);
    }
}

// Of a head whose signs were kept the sums G and g are of what t passes on, w_x left out:
//   W_x' = w_x G,  b_x' = w_x g,  w_x' = W_x . G + b_x g    for each channel of the head
template <class T, class X>
void add_kept_head(const MessageArgs<T, X>& args, const MessagePlan& plan, const void* partials) {
  const int64_t in = args.message_width(), stride = padded<T>(in);
  const MessageLayer<T>& head = args.head;
  PartialLayer<T> of[MessagePlan::kMostChunks];
  for (int k = 0; k < plan.chunks; ++k) of[k] = partial_of(args, plan, partials, k).head;
  const auto total = [&](T* PartialLayer<T>::* piece, int64_t at) {
    double sum = 0;
    for (int k = 0; k < plan.chunks; ++k) sum += (of[k].*piece)[at];
    return sum;
  };
  for (int64_t c = 0; c < head.width; ++c) {
    double to_out = 0;
    const double out = args.head_out[c];
    for (int64_t k = 0; k < in; ++k) {
      const double g = total(&PartialLayer<T>::weight, c * stride + k);
      head.grad_weight[c * in + k] = T(out * g);
      to_out += head.weight[c * in + k] * g;
    }
    const double g = total(&PartialLayer<T>::bias, c);
    head.grad_bias[c] = T(out * g);
    args.grad_head_out[c] = T(to_out + (head.bias ? head.bias[c] * g : 0));
  }
}

template <class T, class X>
void add_partial_weights(const MessageArgs<T, X>& args, const MessagePlan& plan, const void* partials) {
  using P = Partial<T>;
  const int64_t H = args.width, Hp = padded<T>(H), n = args.message_width();
  const int invariants = args.invariants();
  auto add = [&](auto&& piece, int64_t rows, int64_t columns, T* out, int64_t row_step, int64_t column_step) {
    add_piece(args, plan, partials, piece, rows, columns, padded<T>(columns), out, row_step, column_step);
  };
  auto vector = [&](auto&& piece, int64_t count, T* out) { add(piece, 1, count, out, 0, 1); };
  auto layer = [&](auto&& piece, const MessageLayer<T>& l, int64_t in) {
    add([&](const P& p) { return piece(p).weight; }, l.width, in, l.grad_weight, in, 1);
    vector([&](const P& p) { return piece(p).bias; }, l.width, l.grad_bias);
  };
  add([](const P& p) { return p.columns; }, invariants, H, args.grad_invariant_weight, 1, invariants);
  add([&](const P& p) { return p.columns + invariants * Hp; }, args.edge_width, H, args.grad_edge_weight, 1,
      args.edge_width);
  for (int l = 0; l < args.depth - 1; ++l)
    layer([&](const P& p) { return p.hidden[l]; }, args.hidden[l], l ? args.hidden[l - 1].width : H);
  if (args.gate_weight) {
    vector([](const P& p) { return p.gate; }, n, args.grad_gate_weight);
    vector([](const P& p) { return p.gate_bias; }, 1, args.grad_gate_bias);
  }
  if (!args.head_out) return;
  if (wants_coordinates(args, true) && args.kept_head) {
    add_kept_head(args, plan, partials);
  } else if (wants_coordinates(args, true)) {
    layer([](const P& p) { return p.head; }, args.head, n);
    vector([](const P& p) { return p.head_out; }, args.head.width, args.grad_head_out);
  } else {  // the head had no part in the outputs
    auto zero = [](T* p, int64_t count) {
      if (p) std::memset(p, 0, count * sizeof(T));
    };
    zero(args.head.grad_weight, args.head.width * n);
    zero(args.head.grad_bias, args.head.width);
    zero(args.grad_head_out, args.head.width);
  }
}

}  // namespace
}  // namespace ek
