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

  EK_RUN T value(int64_t at, int64_t c) const { return bias ? widen(z[at + c]) + bias[c] : widen(z[at + c]); }
  template <class Lanes>
  EK_RUN void moments(int64_t at, Lanes lanes, T& mean, T& rate) const {
    T sum = 0, square = 0;
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes) sum += value(at, c);
    mean = lanes.sum(sum) / T(width);
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes) {
      const T d = value(at, c) - mean;
      square += d * d;
    }
    rate = T(1) / sqrt(lanes.sum(square) / T(width) + T(eps));
  }
  EK_RUN T normed(int64_t at, int64_t c, T mean, T rate) const {
    T v = value(at, c);
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
      for (int64_t c = lanes.lane; c < this->width; c += Lanes::kLanes) {
        const T sum = a[c] + b[c];
        narrow(product ? sum + product[at + c] : sum, this->z[at + c]);
      }
    }
    T mean = 0, rate = 0;
    if (this->layer_norm) this->moments(at, lanes, mean, rate);
    over_activation<T>(this->activation, this->slope, [&](auto act) {
      for (int64_t c = lanes.lane; c < this->width; c += Lanes::kLanes)
        narrow(act.value(this->normed(at, c, mean, rate)), out[at + c]);
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
      for (int64_t c = lanes.lane; c < this->width; c += Lanes::kLanes)
        narrow(T(widen(grad[at + c])) * act.slope(this->normed(at, c, mean, rate)), grad[at + c]);
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
    const auto g = [&](int64_t c) { return T(widen(grad[at + c])) * (this->gamma ? this->gamma[c] : T(1)); };
    if (!this->layer_norm) {
      for (int64_t c = lanes.lane; c < this->width; c += Lanes::kLanes)
        narrow(T(widen(grad[at + c])) * this->scale[c] + level[c] + slope_of_z[c] * this->value(at, c), grad[at + c]);
      return;
    }
    const T mean = stats[2 * row], rate = stats[2 * row + 1];
    T sum = 0, along = 0;
    for (int64_t c = lanes.lane; c < this->width; c += Lanes::kLanes) {
      sum += g(c);
      along += g(c) * (this->value(at, c) - mean) * rate;
    }
    sum = lanes.sum(sum) / T(this->width);
    along = lanes.sum(along) / T(this->width);
    for (int64_t c = lanes.lane; c < this->width; c += Lanes::kLanes)
      narrow(rate * (g(c) - sum - (this->value(at, c) - mean) * rate * along), grad[at + c]);
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
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes) {
      dot += T(widen(m[at + c])) * weight[c];
      if (grad) along += T(widen(m[at + c])) * T(widen(grad[at + c]));
    }
    dot = lanes.sum(dot);
    if (bias) dot += bias[0];
    const T open = T(1) / (T(1) + exp(-dot));
    if (!grad) {
      for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes) narrow(open * T(widen(m[at + c])), out[at + c]);
      return;
    }
    const T q = open * (T(1) - open) * lanes.sum(along);
    if (lanes.lane == 0) narrow(q, pull[row]);
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes)
      narrow(open * T(widen(grad[at + c])) + q * weight[c], grad[at + c]);
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
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes) {
      T sum = to[node * width + c];
      for (int64_t r = row; r < rows && owner[r] == node; ++r)
        sum += T(widen(from[(order ? order[r] : r) * width + c]));
      to[node * width + c] = sum;
    }
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
    for (int64_t c = lanes.lane; c < width; c += Lanes::kLanes) {
      T g = add ? T(widen(grad[row * width + c])) : T(0);
      if (nodes) g += nodes[receiver[row] * width + c];
      if (edges) g += edges[(edge ? edge[row] : row) * width + c];
      narrow(g, grad[row * width + c]);
    }
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
    for (int64_t c = lanes.lane; c < count; c += Lanes::kLanes)
      t[c] = add ? t[c] + T(widen(from[row * stride + c])) : T(widen(from[row * stride + c]));
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

// --- sums over rows, in float64 ---
// Items: groups. Sums of g, and of g times z + b, of which a row's mean and rate may be taken. g: [rows, width], or one
// number for a row.
template <class S, class T>
struct TileSums {
  int64_t rows = 0, width = 0;
  const S* g = nullptr;
  bool of_row = false;
  const S* z = nullptr;  // or null: sums of g alone
  const T *bias = nullptr, *stats = nullptr;
  double* partial = nullptr;  // [groups, 2, width]

  template <int kStep>
  EK_RUN void run(int64_t group, int64_t thread) const {
    const int64_t begin = group * kTileGroup, end = rows < begin + kTileGroup ? rows : begin + kTileGroup;
    for (int64_t c = thread; c < width; c += kStep) {
      double sum = 0, product = 0;
      for (int64_t r = begin; r < end; ++r) {
        const T one = widen(g[of_row ? r : r * width + c]);
        sum += double(one);
        if (!z) continue;
        T v = widen(z[r * width + c]);
        if (bias) v += bias[c];
        if (stats) v = (v - stats[2 * r]) * stats[2 * r + 1];
        product += double(one) * double(v);
      }
      partial[2 * group * width + c] = sum;
      partial[(2 * group + 1) * width + c] = product;
    }
  }
};
// Items: columns. Adds the groups' partial sums.
struct TileMerge : RowPass {
  int64_t groups = 0, columns = 0;
  const double* partial = nullptr;
  double* sums = nullptr;

  template <class Lanes>
  EK_RUN void run(int64_t c, Lanes lanes) const {
    double sum = 0;
    for (int64_t k = lanes.lane; k < groups; k += Lanes::kLanes) sum += partial[k * columns + c];
    sum = lanes.sum(sum);
    if (lanes.lane == 0) sums[c] += sum;
  }
};

// Items: groups. Mean of z + b, and its squares around that.
template <class S, class T>
struct TileMoments {
  int64_t rows = 0, width = 0;
  const S* z = nullptr;
  const T* bias = nullptr;
  double* partial = nullptr;  // [groups, 2, width]

  template <int kStep>
  EK_RUN void run(int64_t group, int64_t thread) const {
    const int64_t begin = group * kTileGroup, end = rows < begin + kTileGroup ? rows : begin + kTileGroup;
    for (int64_t c = thread; c < width; c += kStep) {
      const double b = bias ? double(bias[c]) : 0;
      double sum = 0, square = 0;
      for (int64_t r = begin; r < end; ++r) sum += double(widen(z[r * width + c])) + b;
      const double mean = sum / double(end - begin);
      for (int64_t r = begin; r < end; ++r) {
        const double d = double(widen(z[r * width + c])) + b - mean;
        square += d * d;
      }
      partial[2 * group * width + c] = mean;
      partial[(2 * group + 1) * width + c] = square;
    }
  }
};
// Items: channels. Joins those of the groups with what `before` rows gave.
struct TileMergeMoments : RowPass {
  int64_t rows = 0, before = 0, width = 0;
  const double* partial = nullptr;
  double* moments = nullptr;  // [2, width]: mean, squares

  template <class Lanes>
  EK_RUN void run(int64_t c, Lanes lanes) const {
    const int64_t groups = (rows + kTileGroup - 1) / kTileGroup;
    const auto count = [&](int64_t k) { return double(k + 1 < groups ? kTileGroup : rows - k * kTileGroup); };
    double mean = 0, square = 0;
    for (int64_t k = lanes.lane; k < groups; k += Lanes::kLanes) mean += count(k) * partial[2 * k * width + c];
    mean = lanes.sum(mean) / double(rows);
    for (int64_t k = lanes.lane; k < groups; k += Lanes::kLanes) {
      const double d = partial[2 * k * width + c] - mean;
      square += partial[(2 * k + 1) * width + c] + count(k) * d * d;
    }
    square = lanes.sum(square);
    if (lanes.lane > 0) return;
    const double d = mean - moments[c], all = double(before + rows);
    moments[c] += d * double(rows) / all;
    moments[width + c] += square + d * d * double(before) * double(rows) / all;
  }
};

// One item. A measured norm, forward: statistics from moments, where those are given, then scale and shift; backward,
// where sums are given: gradients of gamma and beta, and what the statistics bring to that of z, level + slope z.
template <class T>
struct TileNormFold {
  int64_t width = 0, rows = 0;
  const double* moments = nullptr;
  double *mean = nullptr, *variance = nullptr;
  T *running_mean = nullptr, *unbiased = nullptr;
  const T *gamma = nullptr, *beta = nullptr;
  double eps = 0;
  T *scale = nullptr, *shift = nullptr;
  const double *sums = nullptr, *to_mean = nullptr, *to_variance = nullptr;
  T *grad_gamma = nullptr, *grad_beta = nullptr, *level = nullptr, *slope_of_z = nullptr;

  template <int kStep>
  EK_RUN void run(int64_t, int64_t thread) const {
    const double count = double(rows > 1 ? rows : 1);
    for (int64_t c = thread; c < width; c += kStep) {
      if (moments) {
        mean[c] = moments[c];
        variance[c] = moments[width + c] / count;
        running_mean[c] = T(mean[c]);
        unbiased[c] = T(moments[width + c] / double(rows > 1 ? rows - 1 : 1));
      }
      const double rate = 1 / sqrt(variance[c] + eps), gain = gamma ? double(gamma[c]) : 1;
      scale[c] = T(gain * rate);
      shift[c] = T((beta ? double(beta[c]) : 0) - mean[c] * gain * rate);
      if (!sums) continue;
      const double along = sums[c], across = sums[width + c] - along * mean[c];
      if (grad_gamma) grad_gamma[c] = T(across * rate);
      if (grad_beta) grad_beta[c] = T(along);
      const double of_mean = -along * gain * rate + (to_mean ? to_mean[c] : 0);
      const double of_variance = -0.5 * across * gain * rate * rate * rate + (to_variance ? to_variance[c] : 0);
      slope_of_z[c] = T(2 * of_variance / count);
      level[c] = T((of_mean - 2 * of_variance * mean[c]) / count);
    }
  }
};

}  // namespace ek
