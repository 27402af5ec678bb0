// Invariants of one node against a block of neighbours: the inner loop of every kernel in this folder.
#pragma once

#include "../core/graph.h"
#include "../core/minkowski.h"
#include "../simd/vector_fma.h"

namespace ek {
namespace {

constexpr int W = lanes<double>;
constexpr int kBlock = 16;  // edges at a time: one AVX-512 register of float
static_assert(kBlock % W == 0 && kBlock % lanes<float> == 0);

// One receiver (or owner) x and up to kBlock neighbours, component by component, in float64.
template <int kDim>
struct Block {
  double x[kDim], y[kDim][kBlock];
  double interval[kBlock], product[kBlock];

  template <class T>
  void load_node(const T* row, int dim) {
    for (int c = 0; c < dim; ++c) x[c] = row[c];
  }
  template <class T>
  void load_neighbours(const T* coordinates, const Row& row, int64_t first, int count, int dim) {
    for (int l = 0; l < kBlock; ++l) {
      const T* p = coordinates + row.node(first + (l < count ? l : 0)) * dim;
      for (int c = 0; c < dim; ++c) y[c][l] = p[c];
    }
  }
  template <bool kCompensated>
  void products(const double* metric, int dim) {
    for (int l = 0; l < kBlock; l += W) {
      vdouble a[kDim], b[kDim], square, dot;
      for (int c = 0; c < dim; ++c) {
        a[c] = splat(x[c]);
        b[c] = load(y[c] + l);
      }
      interval_and_product<kCompensated, vdouble, VectorFma>(a, b, metric, dim, square, dot);
      store(interval + l, square);
      store(product + l, dot);
    }
  }
};

}  // namespace
}  // namespace ek
