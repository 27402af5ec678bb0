// 35 x 60 channels, 15 maps: 31,500 numbers a layer and batch, each made of four and read back once.
#include "maps.h"

#include "../core/isa.h"
#include "../simd/dense.h"

namespace ek {
namespace {

inline int64_t place(const int64_t* places, int64_t k) { return places ? places[k] : k; }

// f(first, vector -> load/store helper) over a row of `count` numbers, the last vector in part.
template <class T, class F>
inline void over_row(int64_t count, F&& f) {
  constexpr int W = lanes<T>;
  for (int64_t k = 0; k < count; k += W) f(k, Tail<T>(count - k < W ? count - k : W));
}

// f(begin, end) for blocks of the rows of the coefficients that stay in cache while they are read once a map.
template <class F>
inline void over_blocks(int64_t rows, F&& f) {
  constexpr int64_t kBlock = 64;
  for (int64_t begin = 0; begin < rows; begin += kBlock) f(begin, rows - begin < kBlock ? rows : begin + kBlock);
}

template <class T>
inline T dot(const T* x, const T* y, int64_t count) {
  Vec<T> total{};
  over_row<T>(count, [&](int64_t k, Tail<T> tail) { total = mul_add(tail.load(x + k), tail.load(y + k), total); });
  return add_lanes(total);
}

// to += x * factor
template <class T>
inline void add_scaled(const T* x, T factor, int64_t count, T* to) {
  over_row<T>(count, [&](int64_t k, Tail<T> tail) {
    tail.store(to + k, mul_add(tail.load(x + k), splat(factor), tail.load(to + k)));
  });
}

// [columns, rows] from [rows, columns]
template <class T>
inline void transpose(const T* x, int64_t rows, int64_t columns, T* out) {
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < rows; ++r) out[c * rows + r] = x[r * columns + c];
}

template <class T>
inline void clear(T* p, int64_t count) {
  for (int64_t k = 0; k < count; ++k) p[k] = 0;
}

template <class T>
inline T log_of_size(const FactorsArgs<T>& a, int64_t event) {
  return T(__builtin_log(double(a.size_of(event) / T(a.nbar))));
}

}  // namespace

template <class Isa, class T>
int64_t MapsCpu<Isa, T>::scratch_size(const MapsArgs<T>& a) {
  return 2 * a.width * a.kept;  // coefs01 transposed, and its gradient
}

template <class Isa, class T>
void MapsCpu<Isa, T>::make(const MapsArgs<T>& a, T* scratch) {
  const int64_t C = a.in, D = a.width;
  if (a.kept < a.maps) clear(a.out, a.maps * C * D);
  if (!a.coefs01) {
    over_blocks(C * D, [&](int64_t begin, int64_t end) {
      for (int64_t k = 0; k < a.kept; ++k) {
        T* to = a.out + place(a.places, k) * C * D;
        for (int64_t r = begin; r < end; ++r) to[r] = a.coefs[r * a.kept + k];
      }
    });
    return;
  }
  transpose(a.coefs01, D, a.kept, scratch);
  for (int64_t k = 0; k < a.kept; ++k)
    for (int64_t c = 0; c < C; ++c) {
      const T x = a.coefs[c * a.kept + k], *y = scratch + k * D;
      const T *first = a.coefs10 + c * D, *second = a.coefs11 + c * D;
      T* to = a.out + (place(a.places, k) * C + c) * D;
#pragma GCC ivdep
      for (int64_t d = 0; d < D; ++d) to[d] = x * first[d] + y[d] * second[d];
    }
}

template <class Isa, class T>
void MapsCpu<Isa, T>::backward(const MapsArgs<T>& a, T* scratch) {
  const int64_t C = a.in, D = a.width;
  if (!a.coefs01) {
    over_blocks(C * D, [&](int64_t begin, int64_t end) {
      for (int64_t k = 0; k < a.kept; ++k) {
        const T* from = a.grad + place(a.places, k) * C * D;
        for (int64_t r = begin; r < end; ++r) a.grad_coefs[r * a.kept + k] = from[r];
      }
    });
    return;
  }
  T* grad01 = scratch + D * a.kept;
  transpose(a.coefs01, D, a.kept, scratch);
  clear(grad01, D * a.kept);
  clear(a.grad_coefs10, C * D);
  clear(a.grad_coefs11, C * D);
  for (int64_t k = 0; k < a.kept; ++k)
    for (int64_t c = 0; c < C; ++c) {
      const T *g = a.grad + (place(a.places, k) * C + c) * D, *y = scratch + k * D, *second = a.coefs11 + c * D;
      a.grad_coefs[c * a.kept + k] = dot(g, a.coefs10 + c * D, D);
      add_scaled(g, a.coefs[c * a.kept + k], D, a.grad_coefs10 + c * D);
      T *to = a.grad_coefs11 + c * D, *to01 = grad01 + k * D;
#pragma GCC ivdep
      for (int64_t d = 0; d < D; ++d) {
        to[d] += g[d] * y[d];
        to01[d] += g[d] * second[d];
      }
    }
  transpose(grad01, a.kept, D, a.grad_coefs01);
}

template <class Isa, class T>
int64_t MapsCpu<Isa, T>::scratch_size(const FactorsArgs<T>& a) {
  return a.maps * a.in;
}

template <class Isa, class T>
void MapsCpu<Isa, T>::make(const FactorsArgs<T>& a, T* alpha) {
  if (a.alpha) transpose(a.alpha, a.in, a.maps, alpha);
  for (int64_t b = 0; b < a.events; ++b) {
    const T norm = a.mean ? a.size_of(b) : T(a.nbar), powers[3] = {T(1), T(1) / norm, T(1) / (norm * norm)};
    const Vec<T> log = splat(log_of_size(a, b));
    for (int64_t k = 0; k < a.maps; ++k) {
      const T power = powers[a.powers[k]], *exponent = alpha + k * a.in;
      over_row<T>(a.in, [&](int64_t c, Tail<T> tail) {
        const Vec<T> f = a.alpha ? exp_of<T>(tail.load(exponent + c) * log) * power : splat(power);
        tail.store(a.out + (b * a.maps + k) * a.in + c, f);
      });
    }
  }
}

template <class Isa, class T>
void MapsCpu<Isa, T>::backward(const FactorsArgs<T>& a) {
  clear(a.grad_alpha, a.in * a.maps);
  for (int64_t b = 0; b < a.events; ++b) {
    const T log = log_of_size(a, b);
    for (int64_t k = 0; k < a.maps; ++k)
      for (int64_t c = 0; c < a.in; ++c) {
        const int64_t at = (b * a.maps + k) * a.in + c;
        a.grad_alpha[c * a.maps + k] += a.grad[at] * a.out[at] * log;
      }
  }
}

template struct MapsCpu<EK_ISA, float>;
template struct MapsCpu<EK_ISA, double>;

}  // namespace ek
