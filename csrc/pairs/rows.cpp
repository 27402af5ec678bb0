#include "rows.h"

#include "../core/isa.h"
#include "matrix_product.h"

namespace ek {
namespace {

constexpr int64_t kBlock = 64;  // rows of a gradient that are copied, padded, at a time

}  // namespace

template <class Isa, class T>
int64_t RowsCpu<Isa, T>::packed_size(const RowsArgs<T>& a) {
  return panels_size<T>(a.in, a.width);
}

template <class Isa, class T>
void RowsCpu<Isa, T>::pack(const RowsArgs<T>& a, T* packed) {
  pack_rows(a.in, a.width, a.weight, packed);
}

template <class Isa, class T>
void RowsCpu<Isa, T>::product(const RowsArgs<T>& a, const T* packed, int64_t begin, int64_t end) {
  constexpr int W = lanes<T>;
  for_panels<kMostWidth>(int(padded<T>(a.width) / W), [&](auto panel, int first_vector) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t channel = int64_t(first_vector) * W;
    const Tail<T> tail(a.width - channel - (kWidth - 1) * W);
    const Factor<T> factor{a.x + begin * a.in, a.in, packed + panel_offset<T>(a.in, first_vector)};
    const T* none = nullptr;
    multiply_rows<kWidth>(&factor, 1, end - begin, a.in, none, [&](int64_t e, Vec<T>(&x)[kWidth]) {
      store_row(a.out + (begin + e) * a.width + channel, x, tail);
    });
  });
}

template <class Isa, class T>
int64_t RowsCpu<Isa, T>::partial_size(const RowsArgs<T>& a) {
  return a.in * padded<T>(a.width);
}

template <class Isa, class T>
int64_t RowsCpu<Isa, T>::scratch_size(const RowsArgs<T>& a) {
  return kBlock * padded<T>(a.width);
}

template <class Isa, class T>
void RowsCpu<Isa, T>::outer(const RowsArgs<T>& a, T* partial, T* scratch, int64_t begin, int64_t end) {
  constexpr int W = lanes<T>;
  const int64_t stride = padded<T>(a.width), last = stride - W;
  const Tail<T> tail(a.width - last);
  for (int64_t k = 0; k < partial_size(a); k += W) store(partial + k, Vec<T>{});
  if (a.width == 0) return;
  for (int64_t b = begin; b < end; b += kBlock) {
    const int64_t count = end - b < kBlock ? end - b : kBlock;
    for (int64_t e = 0; e < count; ++e) {
      const T* from = a.grad + (b + e) * a.width;
      for (int64_t k = 0; k < last; k += W) store(scratch + e * stride + k, load(from + k));
      store(scratch + e * stride + last, tail.load(from + last));
    }
    const Sweep<T> sweep{a.x + b * a.in, 0, a.in, scratch, 0, stride, 1, count};
    weight_gradient(a.in, a.width, &sweep, 1, partial);
  }
}

template <class Isa, class T>
void RowsCpu<Isa, T>::add_up(const RowsArgs<T>& a, T* partials, int64_t chunks) {
  if (chunks > 0) add_chunks(partials, partial_size(a), chunks);
  for (int64_t r = 0; r < a.in; ++r)
    for (int64_t o = 0; o < a.width; ++o)
      a.out[r * a.width + o] = chunks > 0 ? partials[r * padded<T>(a.width) + o] : T(0);
}

template struct RowsCpu<EK_ISA, float>;
template struct RowsCpu<EK_ISA, double>;

}  // namespace ek
