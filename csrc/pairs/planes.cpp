// The mix of pairs of few channels, with lanes across senders. A strip of a few rows i of an event is laid out in
// planes, one a channel, [rows][n]: those of T_ij, and those of T_ji. What the strip gives is made of planes.
#include "../core/isa.h"
#include "../simd/transpose.h"
#include "pairs.h"
#include "particles.h"
#include "shuffles.h"

namespace ek {
namespace {

// Rows [i0, i0 + rows) of an event: as many as a vector has lanes, or fewer.
template <class T>
struct Strip {
  static constexpr int W = lanes<T>;
  int64_t pair, n, i0, rows;

  int64_t columns() const { return padded<T>(n); }
  int64_t plane() const { return W * columns(); }

  // `count` numbers behind `from`, zeros behind them: get(k, tail) loads from k on.
  template <class Get>
  static void load_run(int64_t from, int64_t count, int64_t vectors, Vec<T>* x, Get&& get) {
    if (count >= vectors * W) {
      for (int64_t v = 0; v < vectors; ++v) x[v] = get(from + v * W, [](const T* p) { return load(p); });
      return;
    }
    for (int64_t v = 0; v < vectors; ++v) {
      const Tail<T> tail(count > v * W ? count - v * W : 0);
      x[v] = get(from + v * W, [&](const T* p) { return tail.load(p); });
    }
  }
  // planes[c][r][j] of pairs (i0 + r, j); behind the last pair zeros
  template <class Get>
  void rows_to_planes(const Channels<T>& shuffle, int64_t channels, T* planes, Get&& get) const {
    Vec<T> x[kFew<T>];
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < n; j += W) {
        load_run((pair + (i0 + r) * n + j) * channels, (n - j) * channels, channels, x, get);
        shuffle.split(x);
        for (int64_t c = 0; c < channels; ++c) store(planes + c * plane() + r * columns() + j, x[c]);
      }
  }
  // planes[c][r][j] of pairs (j, i0 + r): those of a j lie together, channels and all
  template <class Get>
  void columns_to_planes(int64_t channels, T* planes, Get&& get) const {
    Vec<T> square[W];
    for (int64_t j = 0; j < n; j += W)
      for (int64_t first = 0; first < rows * channels; first += W) {
        const int64_t count = rows * channels - first;
        for (int64_t l = 0; l < W; ++l)
          load_run((pair + (j + l) * n + i0) * channels + first, j + l < n ? count : 0, 1, square + l, get);
        transpose<T>(square);
        int64_t r = first / channels, c = first % channels;
        for (int64_t q = 0; q < W && q < count; ++q) {
          store(planes + c * plane() + r * columns() + j, square[q]);
          if (++c == channels) c = 0, ++r;
        }
      }
  }
};

// out_ij = act(x_ij identity + x_ji transpose + what broadcast makes of a table), for a strip.
template <class T>
struct StripMix {
  int64_t in, width;
  const T *identity, *transpose;  // element (k, o) at k in_step + o out_step; one may be absent
  int64_t in_step, out_step;
  const T *x, *mirror;  // planes
  const T* table;       // [n][3][width] of the event, or absent
  T* columns;           // scratch: the table's columns, planes [width][columns]
  T slope;
  T* out;

  // The event's columns, before its first strip.
  void start(int64_t n) const {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t o = 0; o < width; ++o) columns[o * padded<T>(n) + j] = table ? table[(j * 3 + 1) * width + o] : T(0);
  }

  void run(const Strip<T>& s, const Channels<T>& shuffle) const {
    for_tiles<kFew<T>>(in, [&](auto channels, int64_t) { run<decltype(channels)::value>(s, shuffle); });
  }

 private:
  template <int kIn>
  void run(const Strip<T>& s, const Channels<T>& shuffle) const {
    constexpr int W = lanes<T>;
    const int64_t stride = s.columns(), plane = s.plane(), width = this->width;
    const T *identity = this->identity, *transpose = this->transpose, slope = this->slope;
    Vec<T> rows[kFew<T>] = {}, diagonal[kFew<T>] = {}, sums[kFew<T>] = {};
    for (int64_t r = 0; r < s.rows; ++r) {
      const int64_t i = s.i0 + r;
      for (int64_t o = 0; table && o < width; ++o) {
        rows[o] = broadcast(table[(i * 3 + 2) * width + o]);
        diagonal[o] = broadcast(table[i * 3 * width + o]);
      }
      for (int64_t j = 0; j < s.n; j += W) {
        const T *here = x + r * stride + j, *there = mirror + r * stride + j;
        const Bits<T> own = lane_numbers<T>() == number<T>(i - j);
        for (int64_t o = 0; o < width; ++o) {
          Vec<T> sum = load(columns + o * stride + j) + rows[o] + from_bits(bits(diagonal[o]) & own);
          const int64_t at = o * out_step;
          if (identity)
#pragma GCC unroll 8
            for (int k = 0; k < kIn; ++k)
              sum = mul_add(load(here + k * plane), broadcast(identity[at + k * in_step]), sum);
          if (transpose)
#pragma GCC unroll 8
            for (int k = 0; k < kIn; ++k)
              sum = mul_add(load(there + k * plane), broadcast(transpose[at + k * in_step]), sum);
          sums[o] = act(sum, slope);
        }
        shuffle.join(sums);
        T* to = out + (s.pair + i * s.n + j) * width;
        const int64_t count = (s.n - j) * width;
        if (count >= width * W)
          for (int64_t v = 0; v < width; ++v) store(to + v * W, sums[v]);
        else
          for (int64_t v = 0; v * W < count; ++v) Tail<T>(count - v * W).store(to + v * W, sums[v]);
      }
    }
  }
};

template <class T>
class NarrowMix {
 public:
  NarrowMix(const Rank2MixArgs<T>& args, int64_t longest, void* scratch)
      : a(args), shuffle_in_(args.in), shuffle_out_(args.width) {
    T* p = static_cast<T*>(scratch);
    auto take = [&](int64_t channels, int64_t rows) {
      T* const from = p;
      p += channels * rows * padded<T>(longest);
      return from;
    };
    constexpr int W = lanes<T>;
    const int64_t of_grad = grad_channels(a);
    x_ = take(a.in, W);
    mirror_ = take(a.in, W);
    grad_ = take(of_grad, W);
    grad_mirror_ = take(of_grad, W);
    columns_ = p;
  }
  static int64_t bytes(const Rank2MixArgs<T>& a, int64_t longest) {
    const int64_t most = a.in > a.width ? a.in : a.width;
    return (2 * lanes<T> * (a.in + grad_channels(a)) + most) * padded<T>(longest) * int64_t(sizeof(T));
  }

  void forward(int64_t begin, int64_t end) const {
    over_strips(begin, end, [&](const Strip<T>& s, int64_t node, bool first) {
      load_tensor(s, a.identity != nullptr);
      const StripMix<T> mix{a.in, a.width, a.identity,           a.transpose, a.width, 1,
                            x_,   mirror_, table(a.width, node), columns_,    a.slope, a.out};
      if (first) mix.start(s.n);
      mix.run(s, shuffle_out_);
    });
  }

  // Adds to the weights' gradients, [in][padded width] each.
  void backward(int64_t begin, int64_t end, T* to_identity, T* to_transpose) const {
    over_strips(begin, end, [&](const Strip<T>& s, int64_t node, bool first) {
      auto get = [&](int64_t k, auto load) {
        return a.activated ? through(load(a.grad + k), load(a.activated + k), a.slope) : load(a.grad + k);
      };
      s.rows_to_planes(shuffle_out_, a.width, grad_, get);
      if (a.grad_identity || a.grad_transpose) {
        load_tensor(s, a.grad_identity != nullptr);
        add_weights(s, to_identity, to_transpose);
      }
      if (!a.grad_tensor) return;
      if (a.transpose) s.columns_to_planes(a.width, grad_mirror_, get);
      const StripMix<T> mix{a.width, a.in,         a.identity,        a.transpose, 1,    a.width,
                            grad_,   grad_mirror_, table(a.in, node), columns_,    T(1), a.grad_tensor};
      if (first) mix.start(s.n);
      mix.run(s, shuffle_in_);
    });
  }

 private:
  static int64_t grad_channels(const Rank2MixArgs<T>& a) { return a.grad ? a.width : 0; }

  template <class F>
  void over_strips(int64_t begin, int64_t end, F&& f) const {
    constexpr int W = lanes<T>;
    over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
      for (int64_t i = p0; i < p1; i += W) f(Strip<T>{pair, n, i, p1 - i < W ? p1 - i : W}, node, i == p0);
    });
  }
  const T* table(int64_t width, int64_t node) const { return a.table ? a.table + node * 3 * width : nullptr; }

  void load_tensor(const Strip<T>& s, bool rows) const {
    auto get = [&](int64_t k, auto load) { return load(a.tensor + k); };
    if (rows) s.rows_to_planes(shuffle_in_, a.in, x_, get);
    if (a.transpose) s.columns_to_planes(a.in, mirror_, get);
  }

  void add_weights(const Strip<T>& s, T* to_identity, T* to_transpose) const {
    constexpr int W = lanes<T>;
    const int64_t plane = s.plane(), most = padded<T>(a.width);
    for (int64_t k = 0; k < a.in; ++k)
      for (int64_t o = 0; o < a.width; ++o) {
        const T *x = x_ + k * plane, *mirror = mirror_ + k * plane, *g = grad_ + o * plane;
        Vec<T> here{}, there{};
        for (int64_t at = 0; at < s.rows * s.columns(); at += W) {
          const Vec<T> by = load(g + at);
          if (a.grad_identity) here = mul_add(load(x + at), by, here);
          if (a.grad_transpose) there = mul_add(load(mirror + at), by, there);
        }
        if (a.grad_identity) to_identity[k * most + o] += add_lanes(here);
        if (a.grad_transpose) to_transpose[k * most + o] += add_lanes(there);
      }
  }

  const Rank2MixArgs<T>& a;
  const Channels<T> shuffle_in_, shuffle_out_;
  T *x_, *mirror_, *grad_, *grad_mirror_, *columns_;
};

}  // namespace

// With more channels the way to planes and back costs more than full vectors bring.
template <class Isa, class T>
bool Rank2PlanesCpu<Isa, T>::fits(const Rank2MixArgs<T>& a) {
  return a.in > 0 && a.width > 0 && a.in + a.width <= kFew<T>;
}

template <class Isa, class T>
int64_t Rank2PlanesCpu<Isa, T>::scratch_bytes(const Rank2MixArgs<T>& a) {
  return NarrowMix<T>::bytes(a, longest_event(a.graph));
}

template <class Isa, class T>
void Rank2PlanesCpu<Isa, T>::forward(const Rank2MixArgs<T>& a, void* scratch, int64_t begin, int64_t end) {
  NarrowMix<T>(a, longest_event(a.graph), scratch).forward(begin, end);
}

template <class Isa, class T>
void Rank2PlanesCpu<Isa, T>::backward(const Rank2MixArgs<T>& a, void* scratch, int64_t begin, int64_t end,
                                      T* to_identity, T* to_transpose) {
  NarrowMix<T>(a, longest_event(a.graph), scratch).backward(begin, end, to_identity, to_transpose);
}

template struct Rank2PlanesCpu<EK_ISA, float>;
template struct Rank2PlanesCpu<EK_ISA, double>;

}  // namespace ek
