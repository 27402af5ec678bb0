// Moves of weights between the layout of a layer and those of the kernels, and batch norms of given statistics folded
// into the layer before them. Passes, as in edge_norm.h.
#pragma once

#include <cmath>

#include "../core/graph.h"

namespace ek {

// Items: rows. to[r][c] = from[r][c], or adds, or scales by row.
template <class T>
struct CopyColumns {
  const T* from = nullptr;
  T* to = nullptr;
  int64_t count = 0, from_stride = 0, to_stride = 0;
  bool add = false;

  template <int kStep>
  EK_HD void run(int64_t r, int64_t first) const {
    const T* f = from + r * from_stride;
    T* t = to + r * to_stride;
    for (int64_t c = first; c < count; c += kStep) t[c] = add ? t[c] + f[c] : f[c];
  }
};

// Items: output channels. scale (W x + b - mean) / sqrt(variance + eps) + shift as W' x + b'.
template <class T>
struct FoldNorm {
  const T *weight = nullptr, *bias = nullptr, *norm_weight = nullptr, *norm_bias = nullptr;
  const T *mean = nullptr, *variance = nullptr;
  int64_t inputs = 0;
  double eps = 0;
  T *out_weight = nullptr, *out_bias = nullptr;

  EK_HD double rate(int64_t o) const { return 1 / sqrt(double(variance[o]) + eps); }
  EK_HD double gain(int64_t o) const { return norm_weight ? double(norm_weight[o]) : 1.0; }
  EK_HD double centred(int64_t o) const { return (bias ? double(bias[o]) : 0.0) - double(mean[o]); }

  template <int kStep>
  EK_HD void run(int64_t o, int64_t first) const {
    const double scale = rate(o) * gain(o);
    for (int64_t k = first; k < inputs; k += kStep)
      out_weight[o * inputs + k] = T(scale * double(weight[o * inputs + k]));
    if (first == 0) out_bias[o] = T(scale * centred(o) + (norm_bias ? double(norm_bias[o]) : 0.0));
  }
};

// Items: output channels. From the gradients of W' and b', which become those of W and b.
template <class T>
struct FoldNormGradient {
  FoldNorm<T> fold;
  T *grad_weight = nullptr, *grad_bias = nullptr;  // of W' and b' on entry
  // Absent where not wanted.
  T *grad_norm_weight = nullptr, *grad_norm_bias = nullptr, *grad_mean = nullptr, *grad_variance = nullptr;

  template <int kStep>
  EK_HD void run(int64_t o, int64_t first) const {
    if (first > 0) return;  // few numbers
    const double rate = fold.rate(o), gain = fold.gain(o), shift = double(grad_bias[o]);
    double to_scale = shift * fold.centred(o);
    for (int64_t k = 0; k < fold.inputs; ++k) {
      T& g = grad_weight[o * fold.inputs + k];
      to_scale += double(g) * double(fold.weight[o * fold.inputs + k]);
      g = T(double(g) * rate * gain);
    }
    if (grad_norm_weight) grad_norm_weight[o] = T(to_scale * rate);
    if (grad_norm_bias) grad_norm_bias[o] = T(shift);
    if (grad_mean) grad_mean[o] = T(-shift * rate * gain);
    if (grad_variance) grad_variance[o] = T(-0.5 * to_scale * gain * rate * rate * rate);
    grad_bias[o] = T(shift * rate * gain);
  }
};

}  // namespace ek
