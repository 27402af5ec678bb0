// Small dense products on a block of edges. A block is a set of rows in scratch, one per edge, channels contiguous and
// padded with zeros to whole vectors; kTile rows at a time meet a panel of weights in registers.
//   multiply:    out[e] = (bias or out[e]) + w^T in[e]      channels of out are lanes, in[e][k] is broadcast
//                E: type of the inputs and weights; bfloat16 pairs count as one input and give sums of float32
//   outer:       grad[o] += sum over e of g[e][o] in[e]     channels of in are lanes, g[e][o] is broadcast;
//                a pair of bfloat16 numbers is of two rows
// Sums over k run in order, whatever the row: a result does not depend on where in a block an edge stands.
#pragma once

#include "activation.h"
#include "tiles.h"
#include "transpose.h"

namespace ek {
namespace {

template <Into kInto, int kWidth, class E, class T>
inline void multiply_tile(const E* in, int64_t in_stride, int64_t count, const E* w, const T* bias, T* out,
                          int64_t out_stride, Tail<T> tail) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kTile][kWidth];
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) acc[r][v] = load(kInto == Into::sum ? out + r * out_stride + v * W : bias + v * W);
  for (int64_t k = 0; k < count; ++k) {
    Vec<E> row[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) row[v] = load(w + (k * kWidth + v) * W);
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) {
      const Vec<E> x = broadcast(in[r * in_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[r][v] = add_product(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r) {
    acc[r][kWidth - 1] = tail.keep(acc[r][kWidth - 1]);
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v)
      store(out + r * out_stride + v * W, kInto == Into::relu ? max_of(Vec<T>{}, acc[r][v]) : acc[r][v]);
  }
}

// Sums of neighbouring lanes, in the lower half; zeros in the upper.
inline vfloat add_pairs(vfloat v) {
  const vfloat zero{};
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, zero, 0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16) +
         __builtin_shufflevector(v, zero, 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, zero, 0, 2, 4, 6, 8, 8, 8, 8) +
         __builtin_shufflevector(v, zero, 1, 3, 5, 7, 8, 8, 8, 8);
#else
  return __builtin_shufflevector(v, zero, 0, 2, 4, 4) + __builtin_shufflevector(v, zero, 1, 3, 4, 4);
#endif
}

template <Into kInto, class E>
inline void multiply_half(const E* in, int64_t in_stride, int64_t count, const E* w, const float* bias, float* out,
                          int64_t out_stride, Tail<float> tail) {
  vfloat acc[kHalfTile] = {};
  for (int64_t k = 0; k < count; k += 2) {
    const Vec<E> row = load(w + k / 2 * lanes<float>);
#pragma GCC unroll 16
    for (int r = 0; r < kHalfTile; ++r) {
      double pair;
      std::memcpy(&pair, in + r * in_stride + k, sizeof pair);
      acc[r] = add_product((Vec<E>)broadcast(pair), row, acc[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kHalfTile; ++r) {
    float* to = out + r * out_stride;
    const vfloat v = tail.keep(add_pairs(acc[r]) + load(kInto == Into::sum ? to : bias));
    store(to, kInto == Into::relu ? max_of(vfloat{}, v) : v);
  }
}

template <Into kInto, class E, class T>
inline void multiply_in_registers(Rows<E> in, int64_t in_channels, const E* packed, const T* bias, Rows<T> out,
                                  int64_t out_channels, int64_t rows) {
  static_assert(sizeof(E) == sizeof(T));
  constexpr int W = lanes<T>;
  for_panels<kPanel>(whole_vectors<E>(out_channels), [&](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t begin = int64_t(first) * W;
    const Tail<T> tail(out_channels - (begin + (kWidth - 1) * W));
    for (int64_t e = 0; e < rows; e += kTile)
      multiply_tile<kInto, kWidth>(in[e], in.stride, in_channels, packed, bias + begin, out[e] + begin, out.stride,
                                   tail);
    packed += in_channels * kWidth * W;
  });
  if constexpr (sizeof(T) == 4) {
    if (!half_tail<E>(out_channels)) return;
    const int64_t begin = int64_t(whole_vectors<E>(out_channels)) * W;
    for (int64_t e = 0; e < rows; e += kHalfTile)
      multiply_half<kInto>(in[e], in.stride, in_channels, packed, bias + begin, out[e] + begin, out.stride,
                           Tail<T>(out_channels - begin));
  }
}

// Rows of in [rows][in channels], of out [rows][out channels]; `rows` is rounded up to whole tiles.
// bias: padded like a row. Padding lanes of out are zero, even where an input is infinite.
template <Into kInto, class E, class T>
inline void multiply(Rows<E> in, int64_t in_channels, const E* packed, const T* bias, Rows<T> out, int64_t out_channels,
                     int64_t rows) {
#if defined(EK_TILES)
  if constexpr (kByTiles<E>)
    multiply_by_tiles<kInto>(in, in_channels, packed, bias, out, out_channels, rows);
  else
#endif
    multiply_in_registers<kInto>(in, in_channels, packed, bias, out, out_channels, rows);
}

template <int kRows, int kWidth, class E, class T>
inline void outer_tile(const E* g, int64_t g_stride, const E* in, int64_t in_stride, int64_t rows, T* grad,
                       int64_t grad_stride) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kRows][kWidth] = {};
  for (int64_t e = 0; e < rows; ++e) {
    Vec<E> row[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) row[v] = load(in + e * in_stride + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<E> x = broadcast(g[e * g_stride + r]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[r][v] = add_product(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) {
      T* p = grad + r * grad_stride + v * W;
      store(p, load(p) + acc[r][v]);
    }
}

// grad[o] += sum over e < rows of g[e][o] in[e], o < g_channels; the block's sum is formed first, then added.
template <class E, class T>
inline void outer(Rows<E> g, int64_t g_channels, Rows<E> in, int64_t in_channels, int64_t rows, Rows<T> grad) {
  constexpr int W = lanes<T>;
  for_panels<kPanel>(int(padded<T>(in_channels) / W), [&](auto panel, int first) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t k = int64_t(first) * W;
    int64_t o = 0;
    for (; o + kTile <= g_channels; o += kTile)
      outer_tile<kTile, kWidth>(g[0] + o, g.stride, in[0] + k, in.stride, rows, grad[o] + k, grad.stride);
    for (; o < g_channels; ++o)
      outer_tile<1, kWidth>(g[0] + o, g.stride, in[0] + k, in.stride, rows, grad[o] + k, grad.stride);
  });
}

// Rows that outer_rounded() needs room for, where those of g and in are `rows`; of the wider one's stride.
constexpr int64_t outer_room(int64_t rows) { return (round_up(rows, 2) + round_up(rows, 2 * lanes<float>)) / 2; }

#if defined(__AVX512BF16__) || defined(EK_TILES)
// The rows 2p and 2p + 1 from channel k on, lane by lane; where there is no such row, zeros.
inline Vec<Bfloat16Pair> row_pair(Rows<float> in, int64_t k, int64_t p, int64_t rows) {
  return interleaved(2 * p < rows ? load(in[2 * p] + k) : vfloat{},
                     2 * p + 1 < rows ? load(in[2 * p + 1] + k) : vfloat{});
}
inline Rows<Bfloat16Pair> row_pairs(Rows<float> in, int64_t channels, int64_t rows, float* to) {
  const Rows<Bfloat16Pair> pairs{reinterpret_cast<Bfloat16Pair*>(to), in.stride};
  for (int64_t p = 0; 2 * p < rows; ++p)
    for (int64_t k = 0; k < channels; k += lanes<float>) store(pairs[p] + k, row_pair(in, k, p, rows));
  return pairs;
}

// outer() of numbers rounded to bfloat16. Tiles read and write whole vectors of rows of grad.
inline void outer_rounded(Rows<float> g, int64_t g_channels, Rows<float> in, int64_t in_channels, int64_t rows,
                          Rows<float> grad, float* room) {
  const int64_t pairs = (rows + 1) / 2;
  const Rows<Bfloat16Pair> in_pairs = row_pairs(in, in_channels, rows, room);
  room += pairs * in.stride;
#if defined(EK_TILES)
  constexpr int W = lanes<float>;  // a tile of g has a row for each channel
  const Rows<Bfloat16Pair> turned{reinterpret_cast<Bfloat16Pair*>(room), round_up(pairs, W)};
  for (int64_t o = 0; o < g_channels; o += W)
    for (int64_t p = 0; p < pairs; p += W) {
      vfloat r[W];
      for (int q = 0; q < W; ++q) r[q] = (vfloat)row_pair(g, o, p + q, rows);
      transpose<float>(r);
      for (int q = 0; q < W; ++q) store(turned[o + q] + p, (Vec<Bfloat16Pair>)r[q]);
    }
  outer_by_tiles(turned, g_channels, in_pairs, in_channels, pairs, grad);
#else
  outer(row_pairs(g, g_channels, rows, room), g_channels, in_pairs, in_channels, pairs, grad);
#endif
}
#endif

// grad += sum over e < rows of weight[e] in[e]; a weight of null is one.
template <class T>
inline void add_rows(Rows<T> in, int64_t channels, const T* weight, int64_t rows, T* grad) {
  constexpr int W = lanes<T>;
  for_panels<kPanel>(int(padded<T>(channels) / W), [&](auto panel, int first) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t k = int64_t(first) * W;
    Vec<T> acc[kWidth] = {};
    for (int64_t e = 0; e < rows; ++e) {
      const Vec<T> x = broadcast(weight ? weight[e] : T(1));
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[v] = mul_add(x, load(in[e] + k + v * W), acc[v]);
    }
    for (int v = 0; v < kWidth; ++v) store(grad + k + v * W, load(grad + k + v * W) + acc[v]);
  });
}

}  // namespace
}  // namespace ek
