// Products of a run of rows with small matrices, in registers. Unlike simd/dense.h, whose rows lie padded in scratch,
// these read T where it lies: a run of pairs (i, j), (i, j + 1), ... is a run of rows a fixed stride apart, and so is
// the run (j, i), (j + 1, i), ... of their transposes. Lanes are output channels.
#pragma once

#include "../simd/dense.h"
#include "../simd/transpose.h"

namespace ek {
namespace {

#if defined(__AVX512F__)
constexpr int kMostWidth = 4, kAccumulators = 24;
#elif defined(__AVX2__)
constexpr int kMostWidth = 3, kAccumulators = 12;
#else
constexpr int kMostWidth = 2, kAccumulators = 8;
#endif
constexpr int kMostRows = 8;
constexpr int rows_of(int width) { return kAccumulators / width < kMostRows ? kAccumulators / width : kMostRows; }

// f(rows, first) for a run of `count` rows, in as few tiles of at most kMost rows as there can be, as even as can be.
template <int kMost, class F>
inline void for_tiles(int64_t count, F&& f) {
  const int64_t tiles = (count + kMost - 1) / kMost;
  for (int64_t t = 0, first = 0; t < tiles; ++t) {
    const int64_t end = count * (t + 1) / tiles;
#define EK_TILE(ROWS) \
  case ROWS: f(std::integral_constant<int, (ROWS < kMost ? ROWS : kMost)>{}, first); break;
    switch (end - first) {
      EK_TILE(1)
      EK_TILE(2)
      EK_TILE(3)
      EK_TILE(4)
      EK_TILE(5)
      EK_TILE(6)
      EK_TILE(7)
      EK_TILE(8)
    }
#undef EK_TILE
    first = end;
  }
}

// A run of rows and the panel of the matrix it is multiplied with, [in][width of the panel].
template <class T>
struct Factor {
  const T* rows;
  int64_t stride;
  const T* panel;
};

// acc[r] += rows[r] panel
template <int kRows, int kWidth, class T>
inline void multiply_run(const Factor<T>& factor, int64_t first, int64_t in, Vec<T> (&acc)[kRows][kWidth]) {
  constexpr int W = lanes<T>;
  const T* rows = factor.rows + first * factor.stride;
  // A copy: what is behind a reference the compiler may write back at every step.
  Vec<T> sum[kRows][kWidth];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) sum[r][v] = acc[r][v];
  for (int64_t k = 0; k < in; ++k) {
    Vec<T> w[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) w[v] = load(factor.panel + (k * kWidth + v) * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> x = broadcast(rows[r * factor.stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) sum[r][v] = mul_add(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) acc[r][v] = sum[r][v];
}

// done(row, sums) for each of a run of rows: the sums over the factors, on top of `start` (a row of the panel, or
// null).
template <int kWidth, class T, class Done>
inline void multiply_rows(const Factor<T>* factors, int count, int64_t rows, int64_t in, const T* start, Done&& done) {
  constexpr int W = lanes<T>;
  for_tiles<rows_of(kWidth)>(rows, [&](auto tile, int64_t first) {
    constexpr int kRows = decltype(tile)::value;
    Vec<T> acc[kRows][kWidth];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[r][v] = start ? load(start + v * W) : Vec<T>{};
    }
    for (int f = 0; f < count; ++f) multiply_run<kRows, kWidth>(factors[f], first, in, acc);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) done(first + r, acc[r]);
  });
}

// A panel's part of a row in memory; of the last vector only the lanes that belong to it.
template <int kWidth, class T>
inline void load_row(const T* p, Vec<T> (&x)[kWidth], const Tail<T>& tail) {
#pragma GCC unroll 8
  for (int v = 0; v + 1 < kWidth; ++v) x[v] = load(p + v * lanes<T>);
  x[kWidth - 1] = tail.load(p + (kWidth - 1) * lanes<T>);
}
template <int kWidth, class T>
inline void add_row(const T* p, Vec<T> (&x)[kWidth], const Tail<T>& tail) {
  Vec<T> y[kWidth];
  load_row(p, y, tail);
#pragma GCC unroll 8
  for (int v = 0; v < kWidth; ++v) x[v] += y[v];
}
template <int kWidth, class T>
inline void store_row(T* p, const Vec<T> (&x)[kWidth], const Tail<T>& tail) {
#pragma GCC unroll 8
  for (int v = 0; v + 1 < kWidth; ++v) store(p + v * lanes<T>, x[v]);
  tail.store(p + (kWidth - 1) * lanes<T>, x[kWidth - 1]);
}

// Matrices [in, out] as panels.
template <class T>
int64_t panels_size(int64_t in, int64_t out) {
  return in * padded<T>(out);
}
template <class T, class Element>
void pack_matrix(int64_t in, int64_t out, Element&& element, T* packed) {
  for_panels<kMostWidth>(int(padded<T>(out) / lanes<T>), [&](auto width, int first) {
    constexpr int64_t span = decltype(width)::value * lanes<T>;
    for (int64_t k = 0; k < in; ++k)
      for (int64_t o = 0; o < span; ++o) {
        const int64_t channel = first * lanes<T> + o;
        *packed++ = channel < out ? element(k, channel) : T(0);
      }
  });
}
// The same of a matrix that lies row by row, or whose transpose does, [out, in]: by vectors.
template <class T>
void pack_rows(int64_t in, int64_t out, const T* matrix, T* packed) {
  for_panels<kMostWidth>(int(padded<T>(out) / lanes<T>), [&](auto width, int first) {
    constexpr int64_t W = lanes<T>, span = decltype(width)::value * W;
    const Tail<T> tail(out - first * W - (span - W));
    for (int64_t k = 0; k < in; ++k, packed += span) {
      const T* row = matrix + k * out + first * W;
      for (int64_t v = 0; v + W < span; v += W) store(packed + v, load(row + v));
      store(packed + span - W, tail.load(row + span - W));
    }
  });
}
template <class T>
void pack_columns(int64_t in, int64_t out, const T* matrix, T* packed) {
  for_panels<kMostWidth>(int(padded<T>(out) / lanes<T>), [&](auto width, int first) {
    constexpr int64_t W = lanes<T>, span = decltype(width)::value * W;
    for (int64_t v = 0; v < span; v += W) {
      const int64_t channel = first * W + v, live = out - channel < W ? out - channel : W;
      for (int64_t k = 0; k < in; k += W) {
        const Tail<T> tail(in - k < W ? in - k : W);
        Vec<T> square[W];
        for (int64_t r = 0; r < W; ++r) square[r] = r < live ? tail.load(matrix + (channel + r) * in + k) : Vec<T>{};
        transpose<T>(square);
        for (int64_t r = 0; r < W && k + r < in; ++r) store(packed + (k + r) * span + v, square[r]);
      }
    }
    packed += in * span;
  });
}
// Where the panel that starts with vector `first` begins.
template <class T>
constexpr int64_t panel_offset(int64_t in, int first) {
  return in * first * lanes<T>;
}

// What an outer product sums over: rows x and g of the pairs (a, b), a < outer, b < inner, each with its strides.
template <class T>
struct Sweep {
  const T* x;
  int64_t x_outer, x_inner;
  const T* g;
  int64_t g_outer, g_inner;
  int64_t outer, inner;
};

// grad[r] += sum over the sweeps of x[r] g
template <int kRows, int kWidth, class T>
inline void outer_tile(const Sweep<T>* sweeps, int count, T* grad, int64_t grad_stride) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kRows][kWidth] = {};
  for (const Sweep<T>* s = sweeps; s < sweeps + count; ++s)
    for (int64_t a = 0; a < s->outer; ++a) {
      const T *x = s->x + a * s->x_outer, *g = s->g + a * s->g_outer;
      for (int64_t b = 0; b < s->inner; ++b, x += s->x_inner, g += s->g_inner) {
        Vec<T> row[kWidth];
#pragma GCC unroll 8
        for (int v = 0; v < kWidth; ++v) row[v] = load(g + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Vec<T> c = broadcast(x[r]);
#pragma GCC unroll 8
          for (int v = 0; v < kWidth; ++v) acc[r][v] = mul_add(c, row[v], acc[r][v]);
        }
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

// grad [in][padded width] += the sweeps' outer products
template <class T>
inline void weight_gradient(int64_t in, int64_t width, const Sweep<T>* sweeps, int count, T* grad) {
  constexpr int W = lanes<T>;
  const int64_t stride = padded<T>(width);
  for_panels<kMostWidth>(int(stride / W), [&](auto panel, int begin) {
    constexpr int kWidth = decltype(panel)::value;
    for_tiles<rows_of(kWidth)>(in, [&](auto rows, int64_t first) {
      Sweep<T> shifted[2];
      for (int s = 0; s < count; ++s) {
        shifted[s] = sweeps[s];
        shifted[s].x += first;
        shifted[s].g += begin * W;
      }
      outer_tile<decltype(rows)::value, kWidth>(shifted, count, grad + first * stride + begin * W, stride);
    });
  });
}

// Sums over chunks, in order, into the first; size is in whole vectors.
template <class T>
inline void add_chunks(T* partials, int64_t size, int64_t chunks) {
  for (int64_t k = 0; k < size; k += lanes<T>) {
    Vec<T> sum = load(partials + k);
    for (int64_t c = 1; c < chunks; ++c) sum += load(partials + c * size + k);
    store(partials + k, sum);
  }
}

}  // namespace
}  // namespace ek
