// A pair of float64 four-momenta costs some 45 operations, all of them compensation but 8; bytes: one number written.
#include "minkowski_products.h"

#include "../core/dimension.h"
#include "../core/isa.h"
#include "../core/minkowski.h"
#include "../simd/vector_fma.h"
#include "particles.h"

namespace ek {
namespace {

constexpr int64_t kBlock = 64;  // senders whose coordinates are kept, component by component

inline void store_some(float* p, int64_t count, vdouble v) {
  for (int64_t l = 0; l < lanes<double> && l < count; ++l) p[l] = float(v[l]);
}
inline void store_some(double* p, int64_t count, vdouble v) { store_first(p, v, count); }

template <int kDim, class T>
void run_range(const Rank2ProductsArgs<T>& a, int64_t begin, int64_t end) {
  constexpr int W = lanes<double>;
  const int dim = kDim < kMaxDim ? kDim : a.dim;
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    double y[kDim][kBlock] = {};
    for (int64_t j0 = 0; j0 < n; j0 += kBlock) {
      const int64_t count = n - j0 < kBlock ? n - j0 : kBlock;
      for (int64_t j = 0; j < count; ++j)
        for (int c = 0; c < dim; ++c) y[c][j] = double(a.x[(node + j0 + j) * dim + c]);
      for (int64_t i = p0; i < p1; ++i) {
        T* out = a.out + pair + i * n + j0;
        for (int64_t j = 0; j < count; j += W) {
          IntervalAndProduct<sizeof(T) == 8, vdouble, VectorFma> sums;  // of which no interval is asked for, nor made
          for (int c = 0; c < dim; ++c) sums.add(splat(double(a.x[(node + i) * dim + c])), load(&y[c][j]), a.metric[c]);
          store_some(out + j, count - j, sums.product());
        }
      }
    }
  });
}

}  // namespace

template <class Isa, class T>
void Rank2ProductsCpu<Isa, T>::run(const Rank2ProductsArgs<T>& a, int64_t begin, int64_t end) {
  with_dimension(a.dim, [&](auto dim) { run_range<decltype(dim)::value>(a, begin, end); });
}

template struct Rank2ProductsCpu<EK_ISA, float>;
template struct Rank2ProductsCpu<EK_ISA, double>;

}  // namespace ek
