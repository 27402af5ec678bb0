// A particle costs 9 in width multiply-adds forward, twice that backward: with n particles to an event 9 / (2 n) of
// the mix. Blocks of particles are multiplied with three matrices [3 in, width], one a slot; an event with two of
// [2 in, width]. All of them stand in one packed array of 13 in rows.
#include "nodes.h"

#include "../core/isa.h"
#include "matrix_product.h"

namespace ek {
namespace {

constexpr int64_t kBlock = 32;  // particles worked on together
constexpr int kSlots = 3, kParts = 3, kOfEvent = 2;

// The map that takes part (0 the diagonal, 1 columns, 2 rows) to slot (0 the diagonal, 1 columns, 2 rows), and the one
// that takes the trace (0) or the total (1) everywhere (0) or to the diagonal (1). Map k has factor k - 5.
constexpr int map_of_node(int part, int slot) { return 2 + 3 * part + slot; }
constexpr int map_of_event(int part, int slot) { return 11 + 2 * part + slot; }

// Matrix m of the packed five: its parts, and the map of each.
constexpr int parts_of(int m) { return m < kSlots ? kParts : kOfEvent; }
constexpr int map_of(int m, int part) { return m < kSlots ? map_of_node(part, m) : map_of_event(part, m - kSlots); }
constexpr int kMatrices = kSlots + 2;
constexpr int first_row(int m) { return m < kSlots ? m * kParts : kSlots * kParts + (m - kSlots) * kOfEvent; }
constexpr int kRowsOfAll = first_row(kMatrices - 1) + kOfEvent;  // times in

template <class T>
struct Layout {
  int64_t C, D, Cp, Dp;
  explicit Layout(const Rank2NodesArgs<T>& a) : C(a.in), D(a.width), Cp(padded<T>(a.in)), Dp(padded<T>(a.width)) {}

  // packed, backward: a matrix transposed is [width, parts in]
  int64_t packed(int m, bool backward) const {
    int64_t at = 0;
    for (int k = 0; k < m; ++k) at += backward ? D * padded<T>(parts_of(k) * C) : parts_of(k) * C * Dp;
    return at;
  }
  // partial sums of the backward pass: the matrices [parts in][Dp], bias, diag_bias [Dp], scale, shift [Cp]
  int64_t matrix(int m) const { return first_row(m) * C * Dp; }
  int64_t bias() const { return kRowsOfAll * C * Dp; }
  int64_t diag_bias() const { return bias() + Dp; }
  int64_t scale() const { return diag_bias() + Dp; }
  int64_t shift() const { return scale() + Cp; }
  int64_t partial() const { return shift() + Cp; }
  // scratch: A' of a block [kBlock][3 C], its gradient, a slot's input, its gradient [kBlock][3 C padded]; gradients of
  // the slot [kBlock][Dp]; of the event: trace and total, their gradients [2][Cp], inputs [2 C padded] and gradient
  // of one matrix, values for rows and the diagonal [2][Dp]
  int64_t wide() const { return padded<T>(3 * C); }
  int64_t event() const { return 4 * kBlock * wide() + kBlock * Dp; }
  int64_t scratch() const { return event() + 4 * Cp + 2 * padded<T>(2 * C) + 2 * Dp; }
};

// One event: its numbers, and A' of its particles.
template <class T>
struct Event {
  const Rank2NodesArgs<T>& a;
  Layout<T> l;
  int64_t b, node, n;
  T *now, *grad_now, *input, *grad_input, *grad_slot, *sums, *grad_sums, *event_input, *grad_event_input, *values;

  Event(const Rank2NodesArgs<T>& args, int64_t event, T* scratch)
      : a(args), l(args), b(event), node(args.graph.ptr[event]), n(args.graph.ptr[event + 1] - node) {
    const int64_t block = kBlock * l.wide();
    now = scratch, grad_now = now + block, input = grad_now + block, grad_input = input + block;
    grad_slot = grad_input + block;
    sums = scratch + l.event(), grad_sums = sums + 2 * l.Cp;
    event_input = grad_sums + 2 * l.Cp, grad_event_input = event_input + padded<T>(2 * l.C);
    values = grad_event_input + padded<T>(2 * l.C);
  }
  const T* factor(int map) const { return a.factors + (b * 10 + map - 5) * l.C; }
  T count_of(int part) const { return part == 0 ? T(1) : T(n); }

  // A' of the particles first .. first + count - 1 into `now`
  void normalise(int64_t first, int64_t count) const {
    const int64_t C = l.C;
    for (int64_t i = 0; i < count; ++i)
      for (int part = 0; part < kParts; ++part) {
        const T* from = a.aggregates + ((node + first + i) * kParts + part) * C;
        T* to = now + i * l.wide() + part * C;
        const T times = count_of(part);
#pragma GCC ivdep
        for (int64_t c = 0; c < C; ++c) to[c] = from[c];
        if (a.scale)
#pragma GCC ivdep
          for (int64_t c = 0; c < C; ++c) to[c] = to[c] * a.scale[c] + times * a.shift[c];
      }
  }

  // trace and total
  void add_up() const {
    const int64_t C = l.C;
    for (int64_t c = 0; c < 2 * l.Cp; ++c) sums[c] = 0;
    for (int64_t i = 0; i < n; ++i) {
      const T* from = a.aggregates + (node + i) * kParts * C;
#pragma GCC ivdep
      for (int64_t c = 0; c < C; ++c) {
        sums[c] += from[c];
        sums[l.Cp + c] += from[2 * C + c];
      }
    }
    if (a.scale)
      for (int64_t c = 0; c < C; ++c) {
        sums[c] = sums[c] * a.scale[c] + T(n) * a.shift[c];
        sums[l.Cp + c] = sums[l.Cp + c] * a.scale[c] + T(n) * T(n) * a.shift[c];
      }
  }
  void make_event_input(int slot) const {
    for (int part = 0; part < kOfEvent; ++part) {
      const T* f = factor(map_of_event(part, slot));
#pragma GCC ivdep
      for (int64_t c = 0; c < l.C; ++c) event_input[part * l.C + c] = sums[part * l.Cp + c] * f[c];
    }
  }
  void make_input(int slot, int64_t count) const {
    const int64_t C = l.C;
    for (int64_t i = 0; i < count; ++i) {
      const T* from = now + i * l.wide();
      T* to = input + i * l.wide();
      const T *f = factor(map_of_node(1, slot)), *g = factor(map_of_node(2, slot));
#pragma GCC ivdep
      for (int64_t c = 0; c < C; ++c) to[c] = from[c];
#pragma GCC ivdep
      for (int64_t c = 0; c < C; ++c) to[C + c] = from[C + c] * f[c];
#pragma GCC ivdep
      for (int64_t c = 0; c < C; ++c) to[2 * C + c] = from[2 * C + c] * g[c];
    }
  }
};

// out[r] = (start or 0) + x[r] matrix, rows a stride apart
template <class T>
inline void multiply_block(const T* x, int64_t stride, int64_t rows, int64_t in, const T* packed, const T* start,
                           int64_t width, T* out, int64_t out_stride) {
  constexpr int W = lanes<T>;
  for_panels<kMostWidth>(int(padded<T>(width) / W), [&](auto panel, int begin) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t channel = int64_t(begin) * W;
    const Tail<T> tail(width - channel - (kWidth - 1) * W);
    const Factor<T> factor{x, stride, packed + panel_offset<T>(in, begin)};
    multiply_rows<kWidth>(&factor, 1, rows, in, start ? start + channel : start,
                          [&](int64_t r, Vec<T>(&y)[kWidth]) { store_row(out + r * out_stride + channel, y, tail); });
  });
}

}  // namespace

template <class Isa, class T>
int64_t Rank2NodesCpu<Isa, T>::packed_size(const Rank2NodesArgs<T>& a) {
  const Layout<T> l(a);
  const int64_t forward = l.packed(kMatrices, false), backward = l.packed(kMatrices, true);
  return forward > backward ? forward : backward;
}

template <class Isa, class T>
void Rank2NodesCpu<Isa, T>::pack(const Rank2NodesArgs<T>& a, bool backward, T* packed) {
  const Layout<T> l(a);
  for (int m = 0; m < kMatrices; ++m) {
    T* to = packed + l.packed(m, backward);
    const int64_t rows = parts_of(m) * l.C;
    const T* parts[kParts];  // each as if its rows were those of the matrix
    for (int part = 0; part < parts_of(m); ++part) parts[part] = a.maps + (map_of(m, part) - part) * l.C * l.D;
    auto element = [&](int64_t row, int64_t o) {
      const int part = (row >= l.C) + (row >= 2 * l.C);
      return parts[part][row * l.D + o];
    };
    if (backward)
      pack_matrix(l.D, rows, [&](int64_t k, int64_t o) { return element(o, k); }, to);
    else
      pack_matrix(rows, l.D, element, to);
  }
}

template <class Isa, class T>
int64_t Rank2NodesCpu<Isa, T>::scratch_size(const Rank2NodesArgs<T>& a) {
  return Layout<T>(a).scratch();
}

template <class Isa, class T>
void Rank2NodesCpu<Isa, T>::forward(const Rank2NodesArgs<T>& a, const T* packed, T* scratch, int64_t begin,
                                    int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const Event<T> e(a, b, scratch);
    const Layout<T>& l = e.l;
    e.add_up();
    for (int slot = 0; slot < 2; ++slot) {
      e.make_event_input(slot);
      T* value = e.values + slot * l.Dp;
      const T* bias = slot == 0 ? a.bias : a.diag_bias;
      for (int64_t d = 0; d < l.Dp; ++d) value[d] = 0;
      multiply_block(e.event_input, int64_t(0), 1, kOfEvent * l.C, packed + l.packed(kSlots + slot, false), value, l.D,
                     value, l.Dp);
      if (bias)
        for (int64_t d = 0; d < l.D; ++d) value[d] += bias[d];
    }
    for (int64_t i = 0; i < e.n; i += kBlock) {
      const int64_t count = e.n - i < kBlock ? e.n - i : kBlock;
      e.normalise(i, count);
      for (int slot = 0; slot < kSlots; ++slot) {
        const T* start = slot == 1 ? nullptr : e.values + (slot == 0 ? l.Dp : 0);
        e.make_input(slot, count);
        multiply_block(e.input, l.wide(), count, kParts * l.C, packed + l.packed(slot, false), start, l.D,
                       a.table + ((e.node + i) * kSlots + slot) * l.D, kSlots * l.D);
      }
    }
  }
}

template <class Isa, class T>
int64_t Rank2NodesCpu<Isa, T>::partial_size(const Rank2NodesArgs<T>& a) {
  return Layout<T>(a).partial();
}

template <class Isa, class T>
void Rank2NodesCpu<Isa, T>::backward(const Rank2NodesArgs<T>& a, const T* packed, T* partial, T* scratch, int64_t begin,
                                     int64_t end) {
  const Layout<T> layout(a);
  for (int64_t k = 0; k < layout.partial(); ++k) partial[k] = 0;
  if (a.width == 0) return;
  for (int64_t b = begin; b < end; ++b) {
    const Event<T> e(a, b, scratch);
    const Layout<T>& l = e.l;
    const int64_t C = l.C, D = l.D;
    T* grad_factors = a.grad_factors + b * 10 * C;
    for (int64_t k = 0; k < 10 * C; ++k) grad_factors[k] = 0;
    for (int64_t k = 0; k < 2 * l.Cp; ++k) e.grad_sums[k] = 0;
    for (int64_t k = 0; k < 2 * l.Dp; ++k) e.values[k] = 0;
    // of the event's values: everywhere, then the diagonal
    for (int64_t i = 0; i < e.n; ++i) {
      const T* g = a.grad_table + (e.node + i) * kSlots * D;
#pragma GCC ivdep
      for (int64_t d = 0; d < D; ++d) {
        e.values[d] += g[2 * D + d];
        e.values[l.Dp + d] += g[d];
      }
    }
    e.add_up();
    for (int slot = 0; slot < 2; ++slot) {
      const T* value = e.values + slot * l.Dp;
      T* bias = partial + (slot == 0 ? l.bias() : l.diag_bias());
      for (int64_t d = 0; d < l.Dp; ++d) bias[d] += value[d];
      e.make_event_input(slot);
      const Sweep<T> sweep{e.event_input, 0, 0, value, 0, 0, 1, 1};
      weight_gradient(kOfEvent * C, D, &sweep, 1, partial + l.matrix(kSlots + slot));
      multiply_block(value, int64_t(0), 1, D, packed + l.packed(kSlots + slot, true), static_cast<const T*>(nullptr),
                     kOfEvent * C, e.grad_event_input, 0);
      for (int part = 0; part < kOfEvent; ++part) {
        const int map = map_of_event(part, slot);
        const T *f = e.factor(map), *g = e.grad_event_input + part * C, *sum = e.sums + part * l.Cp;
        T *to_factor = grad_factors + (map - 5) * C, *to_sum = e.grad_sums + part * l.Cp;
#pragma GCC ivdep
        for (int64_t c = 0; c < C; ++c) {
          to_factor[c] = g[c] * sum[c];
          to_sum[c] += g[c] * f[c];
        }
      }
    }
    for (int64_t i = 0; i < e.n; i += kBlock) {
      const int64_t count = e.n - i < kBlock ? e.n - i : kBlock;
      e.normalise(i, count);
      for (int64_t r = 0; r < count; ++r) {
        T* to = e.grad_now + r * l.wide();
#pragma GCC ivdep
        for (int64_t c = 0; c < C; ++c) {
          to[c] = e.grad_sums[c];
          to[C + c] = 0;
          to[2 * C + c] = e.grad_sums[l.Cp + c];
        }
      }
      for (int slot = 0; slot < kSlots; ++slot) {
        for (int64_t r = 0; r < count; ++r) {
          const T* g = a.grad_table + ((e.node + i + r) * kSlots + slot) * D;
          T* to = e.grad_slot + r * l.Dp;
          for (int64_t d = 0; d < l.Dp; ++d) to[d] = d < D ? g[d] : T(0);
        }
        e.make_input(slot, count);
        const Sweep<T> sweep{e.input, 0, l.wide(), e.grad_slot, 0, l.Dp, 1, count};
        weight_gradient(kParts * C, D, &sweep, 1, partial + l.matrix(slot));
        multiply_block(e.grad_slot, l.Dp, count, D, packed + l.packed(slot, true), static_cast<const T*>(nullptr),
                       kParts * C, e.grad_input, l.wide());
        for (int64_t r = 0; r < count; ++r) {
          const T *g = e.grad_input + r * l.wide(), *now = e.now + r * l.wide();
          T* to = e.grad_now + r * l.wide();
#pragma GCC ivdep
          for (int64_t c = 0; c < C; ++c) to[c] += g[c];
          for (int part = 1; part < kParts; ++part) {
            const int map = map_of_node(part, slot);
            const T* f = e.factor(map);
            T* to_factor = grad_factors + (map - 5) * C;
#pragma GCC ivdep
            for (int64_t c = 0; c < C; ++c) {
              to_factor[c] += g[part * C + c] * now[part * C + c];
              to[part * C + c] += g[part * C + c] * f[c];
            }
          }
        }
      }
      for (int64_t r = 0; r < count; ++r)
        for (int part = 0; part < kParts; ++part) {
          const int64_t row = ((e.node + i + r) * kParts + part) * C;
          const T *g = e.grad_now + r * l.wide() + part * C, times = e.count_of(part);
          T *out = a.grad_aggregates + row, *to_scale = partial + l.scale(), *to_shift = partial + l.shift();
          if (!a.scale) {
#pragma GCC ivdep
            for (int64_t c = 0; c < C; ++c) out[c] = g[c];
            continue;
          }
          const T* raw = a.aggregates + row;
#pragma GCC ivdep
          for (int64_t c = 0; c < C; ++c) {
            out[c] = g[c] * a.scale[c];
            to_scale[c] += g[c] * raw[c];
            to_shift[c] += g[c] * times;
          }
        }
    }
  }
}

template <class Isa, class T>
void Rank2NodesCpu<Isa, T>::add_up(const Rank2NodesArgs<T>& a, T* partials, int64_t chunks) {
  const Layout<T> l(a);
  if (chunks > 0) add_chunks(partials, l.partial(), chunks);
  auto total = [&](int64_t k) { return chunks > 0 ? partials[k] : T(0); };
  for (int m = 0; m < kMatrices; ++m)
    for (int part = 0; part < parts_of(m); ++part)
      for (int64_t c = 0; c < l.C; ++c)
        for (int64_t d = 0; d < l.D; ++d)
          a.grad_maps[(map_of(m, part) * l.C + c) * l.D + d] = total(l.matrix(m) + (part * l.C + c) * l.Dp + d);
  for (int64_t d = 0; d < l.D; ++d) {
    a.grad_bias[d] = total(l.bias() + d);
    a.grad_diag_bias[d] = total(l.diag_bias() + d);
  }
  for (int64_t c = 0; c < l.C && a.scale; ++c) {
    a.grad_scale[c] = total(l.scale() + c);
    a.grad_shift[c] = total(l.shift() + c);
  }
}

template struct Rank2NodesCpu<EK_ISA, float>;
template struct Rank2NodesCpu<EK_ISA, double>;

}  // namespace ek
