// Passes over a tile: some rows of a network on edges or rows, see tiles.h. Of two kinds: a thread takes a row of a
// group (edges, in edge_tile_passes.h) or a channel of it (sums over rows); or, derived from RowPass, the lanes of a
// warp take the channels of a row. S: how the layers' outputs are stored, T: what is computed with.
#pragma once

#include <cmath>

#include "../core/graph.h"
#include "../core/storage.h"
#include "../simd/activation_kind.h"

#if defined(__CUDACC__)
#define EK_RUN __device__ __forceinline__
#else
#define EK_RUN inline
#endif

namespace ek {

#if !defined(__CUDACC__)
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline void narrow(float x, float& out) { out = x; }
inline void narrow(double x, double& out) { out = x; }
#endif

inline constexpr int64_t kTileThreads = 256, kTileGroup = 64;  // rows of a group: one each of threads, or summed
inline int64_t tile_groups(int64_t rows, int64_t size) { return (rows + size - 1) / size; }

// Items: rows. run(row, lanes): channels lanes.lane, + kLanes, ... are the caller's; lanes.sum adds up over lanes.
struct RowPass {};
struct OneLane {
  static constexpr int kLanes = 1;
  static constexpr int lane = 0;
  template <class V>
  V sum(V v) const {
    return v;
  }
};

// use(c, load(c)) for the caller's channels: loads of several come before the first use, which may store where later
// ones load from; a GPU then waits for memory once.
template <class Lanes, class Load, class Use>
EK_RUN void over_channels(int64_t width, Lanes lanes, Load&& load, Use&& use) {
  constexpr int kAhead = Lanes::kLanes > 1 ? 4 : 1;
  for (int64_t first = lanes.lane; first < width; first += kAhead * Lanes::kLanes) {
    decltype(load(first)) loaded[kAhead] = {};
    for (int k = 0; k < kAhead; ++k)
      if (first + k * Lanes::kLanes < width) loaded[k] = load(first + k * Lanes::kLanes);
    for (int k = 0; k < kAhead; ++k)
      if (first + k * Lanes::kLanes < width) use(first + k * Lanes::kLanes, loaded[k]);
  }
}
template <class T>
struct Loaded {  // numbers as they lie in memory
  T a{}, b{}, c{};
};

// f(activation), with value(a) and slope(a); see tile_activation.h.
template <class T, class F>
EK_RUN void over_activation(Activation kind, double slope, F&& f);

// --- layers ---
// norm(z + b) of a row: none, LayerNorm, or a measured batch norm as scale and shift
template <class S, class T>
struct TileNormed : RowPass {
  int64_t width = 0;
  S* z = nullptr;                              // [rows, width]
  const T* bias = nullptr;                     // [width] or null, as the next
  const T *scale = nullptr, *shift = nullptr;  // of a batch norm
  bool layer_norm = false;
  double eps = 0;
  const T *gamma = nullptr, *beta = nullptr;
  Activation activation = Activation::identity;
  double slope = 0;

  EK_RUN T value(T v, int64_t c) const { return bias ? v + bias[c] : v; }
  template <class Lanes>
  EK_RUN void moments(int64_t at, Lanes lanes, T& mean, T& rate) const {
    T sum = 0, square = 0;
    const auto load = [&](int64_t c) { return T(widen(z[at + c])); };
    over_channels(width, lanes, load, [&](int64_t c, T v) { sum += value(v, c); });
    mean = lanes.sum(sum) / T(width);
    over_channels(width, lanes, load, [&](int64_t c, T v) {
      const T d = value(v, c) - mean;
      square += d * d;
    });
    rate = T(1) / sqrt(lanes.sum(square) / T(width) + T(eps));
  }
  EK_RUN T normed(T v, int64_t c, T mean, T rate) const {
    v = value(v, c);
    if (scale) return v * scale[c] + shift[c];
    if (!layer_norm) return v;
    v = (v - mean) * rate;
    if (gamma) v *= gamma[c];
    return beta ? v + beta[c] : v;
  }
};

// A layer behind its product; of a first layer on edges, with the ends' tables, whose sum becomes z.
template <class S, class T>
struct TileLayer : TileNormed<S, T> {
  const T* product = nullptr;  // of u_ij, [rows, width] or null
  const T* table[2] = {};      // A, B [n, width] or null
  const int64_t* end[2] = {};  // receivers, senders
  S* out = nullptr;            // [rows, width], z or another

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    const int64_t at = row * this->width;
    if (table[0]) {
      const T *a = table[0] + end[0][row] * this->width, *b = table[1] + end[1][row] * this->width;
      const auto load = [&](int64_t c) { return Loaded<T>{a[c], b[c], product ? product[at + c] : T(0)}; };
      over_channels(this->width, lanes, load,
                    [&](int64_t c, Loaded<T> v) { narrow(product ? v.a + v.b + v.c : v.a + v.b, this->z[at + c]); });
    }
    T mean = 0, rate = 0;
    if (this->layer_norm) this->moments(at, lanes, mean, rate);
    over_activation<T>(this->activation, this->slope, [&](auto act) {
      over_channels(
          this->width, lanes, [&](int64_t c) { return T(widen(this->z[at + c])); },
          [&](int64_t c, T v) { narrow(act.value(this->normed(v, c, mean, rate)), out[at + c]); });
    });
  }
};

// From the gradient of a layer's output to that of the activation's argument.
template <class S, class T>
struct TileSlope : TileNormed<S, T> {
  S* grad = nullptr;
  T* stats = nullptr;  // [rows, 2]: LayerNorm's mean and rate

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    const int64_t at = row * this->width;
    T mean = 0, rate = 0;
    if (this->layer_norm) this->moments(at, lanes, mean, rate);
    if (this->layer_norm && lanes.lane == 0) stats[2 * row] = mean, stats[2 * row + 1] = rate;
    over_activation<T>(this->activation, this->slope, [&](auto act) {
      over_channels(
          this->width, lanes, [&](int64_t c) { return Loaded<T>{widen(grad[at + c]), widen(this->z[at + c])}; },
          [&](int64_t c, Loaded<T> v) { narrow(v.a * act.slope(this->normed(v.b, c, mean, rate)), grad[at + c]); });
    });
  }
};

// Through the norm: to the gradient of z.
template <class S, class T>
struct TileThroughNorm : TileNormed<S, T> {
  S* grad = nullptr;
  const T* stats = nullptr;
  const T *level = nullptr, *slope_of_z = nullptr;  // of a batch norm: what its statistics bring

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    const int64_t at = row * this->width;
    const auto load = [&](int64_t c) { return Loaded<T>{widen(grad[at + c]), widen(this->z[at + c])}; };
    if (!this->layer_norm)
      return over_channels(this->width, lanes, load, [&](int64_t c, Loaded<T> v) {
        narrow(v.a * this->scale[c] + level[c] + slope_of_z[c] * this->value(v.b, c), grad[at + c]);
      });
    const T mean = stats[2 * row], rate = stats[2 * row + 1];
    const auto gain = [&](int64_t c) { return this->gamma ? this->gamma[c] : T(1); };
    const auto unit = [&](T v, int64_t c) { return (this->value(v, c) - mean) * rate; };
    T sum = 0, along = 0;
    over_channels(this->width, lanes, load, [&](int64_t c, Loaded<T> v) {
      sum += v.a * gain(c);
      along += v.a * gain(c) * unit(v.b, c);
    });
    sum = lanes.sum(sum) / T(this->width);
    along = lanes.sum(along) / T(this->width);
    over_channels(this->width, lanes, load, [&](int64_t c, Loaded<T> v) {
      narrow(rate * (v.a * gain(c) - sum - unit(v.b, c) * along), grad[at + c]);
    });
  }
};

template <class S, class T>
struct TileGate : RowPass {
  int64_t width = 0;
  const S* m = nullptr;
  const T *weight = nullptr, *bias = nullptr;
  S* out = nullptr;
  // Backward: the gradient of the gated message becomes that of m; pull [rows] is that of the sigmoid's argument.
  S *grad = nullptr, *pull = nullptr;

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    const int64_t at = row * width;
    T dot = 0, along = 0;
    const auto load = [&](int64_t c) { return Loaded<T>{widen(m[at + c]), grad ? T(widen(grad[at + c])) : T(0)}; };
    over_channels(width, lanes, load, [&](int64_t c, Loaded<T> v) { dot += v.a * weight[c], along += v.a * v.b; });
    dot = lanes.sum(dot);
    if (bias) dot += bias[0];
    const T open = T(1) / (T(1) + exp(-dot));
    if (!grad) {
      return over_channels(width, lanes, load, [&](int64_t c, Loaded<T> v) { narrow(open * v.a, out[at + c]); });
    }
    const T q = open * (T(1) - open) * lanes.sum(along);
    if (lanes.lane == 0) narrow(q, pull[row]);
    over_channels(width, lanes, load,
                  [&](int64_t c, Loaded<T> v) { narrow(open * v.b + q * weight[c], grad[at + c]); });
  }
};

// --- between rows, nodes and edges ---
// Adds rows to those of their owners, one after the other. The rows of an owner are neighbours, in this order.
template <class S, class T>
struct TileRowSums : RowPass {
  int64_t rows = 0, width = 0;
  const int64_t *owner = nullptr, *order = nullptr;  // order: the rows' numbers, or null: as they lie
  const S* from = nullptr;
  T* to = nullptr;  // [n, width]

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    const int64_t node = owner[row];
    if (row > 0 && owner[row - 1] == node) return;
    const int64_t end = end_of(row);
    constexpr int kAhead = Lanes::kLanes > 1 ? 4 : 1;  // channels of a lane at a time
    for (int64_t first = lanes.lane; first < width; first += kAhead * Lanes::kLanes) {
      T sum[kAhead] = {};
      const auto over = [&](auto&& f) {
        for (int k = 0; k < kAhead; ++k)
          if (first + k * Lanes::kLanes < width) f(first + k * Lanes::kLanes, sum[k]);
      };
      over([&](int64_t c, T& s) { s = to[node * width + c]; });
      for (int64_t r = row; r < end; ++r) {
        const int64_t at = (order ? order[r] : r) * width;
        over([&](int64_t c, T& s) { s += T(widen(from[at + c])); });
      }
      over([&](int64_t c, T& s) { to[node * width + c] = s; });
    }
  }
  // Of the owner's rows that begin with this one: steps of growing length, then halves.
  EK_RUN int64_t end_of(int64_t row) const {
    const int64_t node = owner[row];
    int64_t in = row, out = row + 1;
    while (out < rows && owner[out] == node) {
      const int64_t step = 2 * (out - row);
      in = out;
      out = row + step;
    }
    if (out > rows) out = rows;
    while (out - in > 1) {
      const int64_t mid = in + (out - in) / 2;
      (owner[mid] == node ? in : out) = mid;
    }
    return out;
  }
};

// A gradient of rows, from that of their receivers and that of their edges, either may be null; added to what is there.
template <class S, class T>
struct TileSeed : RowPass {
  int64_t width = 0;
  const int64_t *receiver = nullptr, *edge = nullptr;  // edge null: rows as they lie
  const T *nodes = nullptr, *edges = nullptr;
  bool add = false;
  S* grad = nullptr;

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    const int64_t of_node = nodes ? receiver[row] * width : 0, of_edge = (edge ? edge[row] : row) * width;
    const auto load = [&](int64_t c) {
      return Loaded<T>{add ? T(widen(grad[row * width + c])) : T(0), nodes ? nodes[of_node + c] : T(0),
                       edges ? edges[of_edge + c] : T(0)};
    };
    over_channels(width, lanes, load, [&](int64_t c, Loaded<T> v) { narrow(v.a + v.b + v.c, grad[row * width + c]); });
  }
};

// Rows to their places; or added to what is there.
template <class S, class T>
struct TileStore : RowPass {
  int64_t count = 0, stride = 0;
  const S* from = nullptr;
  const int64_t* edge = nullptr;  // or null: as they lie
  bool add = false;
  T* to = nullptr;  // [*, count]

  template <class Lanes>
  EK_RUN void run(int64_t row, Lanes lanes) const {
    T* t = to + (edge ? edge[row] : row) * count;
    const auto load = [&](int64_t c) { return Loaded<T>{T(widen(from[row * stride + c])), add ? t[c] : T(0)}; };
    over_channels(count, lanes, load, [&](int64_t c, Loaded<T> v) { t[c] = add ? v.a + v.b : v.a; });
  }
};

// Rows of nodes over their degree.
template <class T>
struct TileMean : RowPass {
  GraphView graph;
  int64_t width = 0;
  const T* from = nullptr;
  T* to = nullptr;

  template <class Lanes>
  EK_RUN void run(int64_t node, Lanes lanes) const {
    const int64_t degree = graph.received(node, graph.complete() ? graph.event_of(node) : 0).count;
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes)
      to[node * width + c] = from[node * width + c] / T(degree > 1 ? degree : 1);
  }
};

}  // namespace ek
