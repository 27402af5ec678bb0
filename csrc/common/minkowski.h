// Products under a diagonal metric, formed as if in twice the working precision, so that E^2 - p^2 keeps the mass.
//
// float32 coordinates: differences and products in float64, where they are exact or nearly so.
// float64 coordinates: the compensated dot product (Ogita, Rump, Oishi 2005, "Dot2"): each product is split by an
// FMA into a rounded part and its error, each sum by a branch-free two-sum, and the errors are added at the end.
#pragma once

#include "graph.h"

namespace ek {

// V: double, or lanes of double. Fma: how V multiplies and adds with one rounding.
template <class V, class Fma>
struct CompensatedSum {
  V value{}, error{};

  EK_HD void add(V term) {
    const V s = value + term, t = s - value;
    error += (value - (s - t)) + (term - t);
    value = s;
  }
  EK_HD void add_product(V a, V b) {
    const V p = a * b;
    error += Fma::apply(a, b, -p);
    add(p);
  }
  EK_HD V total() const { return value + error; }
};

#if defined(__CUDACC__)
struct DeviceFma {
  static __device__ inline double apply(double a, double b, double c) { return ::fma(a, b, c); }
};
#endif

// eta [D]: diagonal of the metric, each entry exact in the working precision.
// Returns ||a - b||^2 and <a, b>.
template <bool kCompensated, class V, class Fma>
EK_HD void interval_and_product(const V* a, const V* b, const double* eta, int D, V& interval, V& product) {
  if constexpr (kCompensated) {
    CompensatedSum<V, Fma> square, dot;
    for (int c = 0; c < D; ++c) {
      const V d = a[c] - b[c], t = d - a[c];
      const V e = (a[c] - (d - t)) - (b[c] + t);  // a - b = d + e exactly
      const V ed = d * eta[c];
      square.add_product(ed, d);
      square.error += ed * e * 2.0;
      dot.add_product(a[c] * eta[c], b[c]);
    }
    interval = square.total();
    product = dot.total();
  } else {
    V square{}, dot{};
    for (int c = 0; c < D; ++c) {
      const V d = a[c] - b[c];
      square += d * d * eta[c];
      dot += a[c] * b[c] * eta[c];
    }
    interval = square;
    product = dot;
  }
}

}  // namespace ek
