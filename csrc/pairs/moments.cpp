// Both kernels read a number once and do next to nothing with it.
#include "../core/isa.h"
#include "flat.h"
#include "rows.h"

namespace ek {
namespace {

inline Vec<double> load_doubles(const double* p) { return load(p); }
inline Vec<double> load_doubles(const float* p) {
  typedef float Half __attribute__((vector_size(EK_VECTOR_BYTES / 2)));
  Half x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, Vec<double>);
}

}  // namespace

template <class Isa, class T>
int64_t RowMomentsCpu<Isa, T>::scratch_size(int64_t channels) {
  return 3 * pattern_size<double>(channels);
}

template <class Isa, class T>
void RowMomentsCpu<Isa, T>::add_up(const RowMomentsArgs<T>& a, double* scratch, double* sums, int64_t begin,
                                   int64_t end) {
  constexpr int W = lanes<double>;
  const int64_t C = a.channels, size = pattern_size<double>(C), count = (end - begin) * C;
  const T* x = a.x + begin * C;
  double *origin = scratch, *first = origin + size, *second = first + size;
  for (int64_t c = 0; c < C; ++c) sums[c] = double(x[c]);
  repeat_row(sums, C, origin);
  for (int64_t k = 0; k < 2 * size; k += W) store(first + k, Vec<double>{});
  over_pattern<double>(count, C, [&](int64_t v, int64_t k, int64_t stop, int64_t step) {
    const Vec<double> about = load(origin + v * W);
    Vec<double> sum = load(first + v * W), square = load(second + v * W);
    auto add = [&](Vec<double> d) {
      sum += d;
      square = mul_add(d, d, square);
    };
    for (; k + W <= stop; k += step) add(load_doubles(x + k) - about);
    if (k < stop) {
      T some[W] = {};
      for (int64_t l = 0; l < stop - k; ++l) some[l] = x[k + l];
      add(Tail<double>(stop - k).keep(load_doubles(some) - about));
    }
    store(first + v * W, sum);
    store(second + v * W, square);
  });
  fold_pattern(first, C, sums);
  fold_pattern(second, C, sums + C);
}

template <class Isa, class T>
void RowMomentsCpu<Isa, T>::finish(const RowMomentsArgs<T>& a, const double* sums, int64_t step) {
  const int64_t C = a.channels;
  for (int64_t o = 0; o < C; ++o) {
    double total = 0, centre = 0, square = 0;  // rows so far, their mean, the sum of their squared deviations
    const double* s = sums;
    for (int64_t begin = 0; begin < a.rows; begin += step, s += 2 * C) {
      const double count = double(a.rows - begin < step ? a.rows - begin : step);
      const double shift = s[o] / count, apart = double(a.x[begin * C + o]) + shift - centre;
      const double within = s[C + o] - s[o] * shift;
      square += within + apart * apart * (total * count / (total + count));
      total += count;
      centre += apart * (count / total);
    }
    a.moments[o] = centre;
    a.moments[C + o] = a.rows > 0 ? square / double(a.rows) : 0;
  }
}

template <class Isa, class T>
int64_t RowAffineCpu<Isa, T>::packed_size(int64_t channels) {
  return 2 * pattern_size<T>(channels);
}

template <class Isa, class T>
void RowAffineCpu<Isa, T>::pack(const RowAffineArgs<T>& a, T* packed) {
  repeat_row(a.scale, a.channels, packed);
  repeat_row(a.shift, a.channels, packed + pattern_size<T>(a.channels));
}

template <class Isa, class T>
void RowAffineCpu<Isa, T>::run(const RowAffineArgs<T>& a, const T* packed, int64_t begin, int64_t end) {
  constexpr int W = lanes<T>;
  const T *x = a.x + begin * a.channels, *shifts = packed + pattern_size<T>(a.channels);
  T* out = a.out + begin * a.channels;
  over_pattern<T>((end - begin) * a.channels, a.channels, [&](int64_t v, int64_t k, int64_t stop, int64_t step) {
    const Vec<T> scale = load(packed + v * W), shift = load(shifts + v * W);
    for (; k + W <= stop; k += step) store(out + k, mul_add(load(x + k), scale, shift));
    if (k >= stop) return;
    const Tail<T> tail(stop - k);
    tail.store(out + k, mul_add(tail.load(x + k), scale, shift));
  });
}

template struct RowMomentsCpu<EK_ISA, float>;
template struct RowMomentsCpu<EK_ISA, double>;
template struct RowAffineCpu<EK_ISA, float>;
template struct RowAffineCpu<EK_ISA, double>;

}  // namespace ek
