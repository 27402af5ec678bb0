// A row costs in x width multiply-adds forward and twice that backward; bytes: in + width numbers forward, 2 in + 2
// width backward.
#include "../core/isa.h"
#include "matrix_product.h"
#include "particles.h"
#include "rows.h"

namespace ek {
namespace {

constexpr int64_t kBlock = 128;  // rows worked on together

}  // namespace

template <class Isa, class T>
int64_t RowsLayerCpu<Isa, T>::packed_size(const RowsLayerArgs<T>& a, bool backward) {
  return backward ? panels_size<T>(a.width, a.in) : panels_size<T>(a.in, a.width) + padded<T>(a.width);
}

template <class Isa, class T>
void RowsLayerCpu<Isa, T>::pack(const RowsLayerArgs<T>& a, bool backward, T* packed) {
  if (backward) return pack_rows(a.width, a.in, a.weight, packed);
  pack_columns(a.in, a.width, a.weight, packed);
  T* bias = packed + panels_size<T>(a.in, a.width);
  for (int64_t o = 0; o < padded<T>(a.width); ++o) bias[o] = a.bias && o < a.width ? a.bias[o] : T(0);
}

template <class Isa, class T>
void RowsLayerCpu<Isa, T>::forward(const RowsLayerArgs<T>& a, const T* packed, int64_t begin, int64_t end) {
  constexpr int W = lanes<T>;
  const T* biases = packed + panels_size<T>(a.in, a.width);
  for (int64_t b = begin; b < end; b += kBlock) {
    const int64_t count = end - b < kBlock ? end - b : kBlock;
    for_panels<kMostWidth>(int(padded<T>(a.width) / W), [&](auto panel, int first_vector) {
      constexpr int kWidth = decltype(panel)::value;
      const int64_t channel = int64_t(first_vector) * W;
      const Tail<T> tail(a.width - channel - (kWidth - 1) * W);
      const Factor<T> factor{a.x + b * a.in, a.in, packed + panel_offset<T>(a.in, first_vector)};
      multiply_rows<kWidth>(&factor, 1, count, a.in, biases + channel, [&](int64_t e, Vec<T>(&x)[kWidth]) {
#pragma GCC unroll 8
        for (int v = 0; v < kWidth; ++v) x[v] = act(x[v], a.slope);
        store_row(a.out + (b + e) * a.width + channel, x, tail);
      });
    });
  }
}

template <class Isa, class T>
int64_t RowsLayerCpu<Isa, T>::partial_size(const RowsLayerArgs<T>& a) {
  return a.grad_weight ? (a.in + 1) * padded<T>(a.width) : 0;
}

template <class Isa, class T>
int64_t RowsLayerCpu<Isa, T>::scratch_size(const RowsLayerArgs<T>& a) {
  return kBlock * padded<T>(a.width);
}

template <class Isa, class T>
void RowsLayerCpu<Isa, T>::backward(const RowsLayerArgs<T>& a, const T* packed, T* partial, T* scratch, int64_t begin,
                                    int64_t end) {
  constexpr int W = lanes<T>;
  const int64_t stride = padded<T>(a.width), last = stride - W;
  const Tail<T> tail(a.width - last);
  for (int64_t k = 0; k < partial_size(a); k += W) store(partial + k, Vec<T>{});
  if (a.width == 0) return;
  T* bias = partial + a.in * stride;
  for (int64_t b = begin; b < end; b += kBlock) {
    const int64_t count = end - b < kBlock ? end - b : kBlock;
    for (int64_t k = 0; k <= last; k += W) {
      auto get = [&](const T* p) { return !p ? Vec<T>{} : k < last ? load(p + k) : tail.load(p + k); };
      const Vec<T> to_mean = get(a.to_mean), to_out = get(a.to_out);
      Vec<T> total{};
      for (int64_t e = 0; e < count; ++e) {
        const int64_t row = (b + e) * a.width;
        const Vec<T> out = get(a.out + row);
        Vec<T> g = mul_add(to_out, out, to_mean);
        if (a.grad) g += get(a.grad + row);
        if (a.slope != T(1)) g = through(g, out, a.slope);
        store(scratch + e * stride + k, g);
        total += g;
      }
      if (a.grad_weight) store(bias + k, load(bias + k) + total);
    }
    if (a.grad_weight) {
      const Sweep<T> sweep{a.x + b * a.in, 0, a.in, scratch, 0, stride, 1, count};
      weight_gradient(a.in, a.width, &sweep, 1, partial);
    }
    if (!a.grad_x) continue;
    for_panels<kMostWidth>(int(padded<T>(a.in) / W), [&](auto panel, int first_vector) {
      constexpr int kWidth = decltype(panel)::value;
      const int64_t channel = int64_t(first_vector) * W;
      const Tail<T> end_of_row(a.in - channel - (kWidth - 1) * W);
      const T* none = nullptr;
      const Factor<T> factor{scratch, stride, packed + panel_offset<T>(a.width, first_vector)};
      multiply_rows<kWidth>(&factor, 1, count, a.width, none, [&](int64_t e, Vec<T>(&x)[kWidth]) {
        store_row(a.grad_x + (b + e) * a.in + channel, x, end_of_row);
      });
    });
  }
}

template <class Isa, class T>
void RowsLayerCpu<Isa, T>::add_up(const RowsLayerArgs<T>& a, T* partials, int64_t chunks) {
  const int64_t stride = padded<T>(a.width);
  if (chunks > 0) add_chunks(partials, partial_size(a), chunks);
  auto total = [&](int64_t k) { return chunks > 0 ? partials[k] : T(0); };
  for (int64_t o = 0; o < a.width; ++o) {
    for (int64_t k = 0; k < a.in; ++k) a.grad_weight[o * a.in + k] = total(k * stride + o);
    a.grad_bias[o] = total(a.in * stride + o);
  }
}

template struct RowsLayerCpu<EK_ISA, float>;
template struct RowsLayerCpu<EK_ISA, double>;

}  // namespace ek
