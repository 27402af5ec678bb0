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

// ||a - b||^2 and <a, b>, one coordinate after the other. eta: the metric's entry, exact in the working precision.
template <bool kCompensated, class V, class Fma>
struct IntervalAndProduct;

template <class V, class Fma>
struct IntervalAndProduct<true, V, Fma> {
  CompensatedSum<V, Fma> square, dot;

  EK_HD void add(V a, V b, double eta) {
    const V d = a - b, t = d - a;
    const V e = (a - (d - t)) - (b + t);  // a - b = d + e exactly
    const V ed = d * eta;
    square.add_product(ed, d);
    square.error += ed * e * 2.0;
    dot.add_product(a * eta, b);
  }
  EK_HD V interval() const { return square.total(); }
  EK_HD V product() const { return dot.total(); }
};

template <class V, class Fma>
struct IntervalAndProduct<false, V, Fma> {
  V square{}, dot{};

  EK_HD void add(V a, V b, double eta) {
    const V d = a - b;
    square += d * d * eta;
    dot += a * b * eta;
  }
  EK_HD V interval() const { return square; }
  EK_HD V product() const { return dot; }
};

// eta [D]: diagonal of the metric.
template <bool kCompensated, class V, class Fma>
EK_HD void interval_and_product(const V* a, const V* b, const double* eta, int D, V& interval, V& product) {
  IntervalAndProduct<kCompensated, V, Fma> sums;
  for (int c = 0; c < D; ++c) sums.add(a[c], b[c], eta[c]);
  interval = sums.interval();
  product = sums.product();
}

}  // namespace ek
