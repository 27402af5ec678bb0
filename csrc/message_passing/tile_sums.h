// Passes that add up the rows of a tile, in float64 and in order, and what a measured norm makes of such sums.
#pragma once

#include "tile_passes.h"

namespace ek {

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
