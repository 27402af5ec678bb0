// Products of rows with matrices, in tiles. A thread holds a few rows of four columns; factors pass through shared
// memory, some terms of the sums at a time. Every number is summed by one thread, its terms in order, however the work
// is shared.
#pragma once

#include <cuda_runtime.h>

#include "../core/launch.cuh"
#include "../simd/pack.cuh"

namespace ek {
namespace {

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

constexpr int kTileColumns = 4;  // of a thread
template <class T>
constexpr int kTileRows = sizeof(T) == 4 ? 8 : 4;  // of a thread
template <class T>
constexpr int kTileDepth = 64 / sizeof(T);  // terms that pass through shared memory together
template <class T>
constexpr int kPackOf = 16 / sizeof(T);
constexpr int64_t kEnoughBlocks = 512;  // tiles are cut smaller where there would be fewer

// The threads of a block: `columns` across, `groups` down.
struct ProductLayout {
  int columns, groups, threads;
  unsigned passes, tiles;  // blocks across and down

  // parts: products of this shape in the same launch.
  ProductLayout(int64_t rows, int64_t width, int rows_of_thread, int parts = 1) {
    constexpr int64_t kMostColumns = 32, kMostRows = 256, kLeastGroups = 2;
    constexpr int kLeastThreads = 128;  // that read
    const int64_t all = (width + kTileColumns - 1) / kTileColumns;
    passes = unsigned((all + kMostColumns - 1) / kMostColumns);
    columns = int((all + passes - 1) / passes);
    const int64_t most = min_of(kThreads / columns, kMostRows / rows_of_thread);
    const int64_t enough = rows * passes * parts / (kEnoughBlocks * rows_of_thread);
    groups = int(enough < kLeastGroups ? kLeastGroups : min_of(enough, most));
    const int64_t of_tile = groups * rows_of_thread;
    tiles = unsigned((rows + of_tile - 1) / of_tile);
    const int busy = (columns * groups + kWarp - 1) / kWarp * kWarp;
    threads = busy > kLeastThreads ? busy : kLeastThreads;
  }
  unsigned grid(int parts = 1) const { return grid_for(int64_t(tiles) * passes * parts, 1); }
  // What tile_product takes of shared memory.
  template <class T>
  EK_HD int stride() const {
    return groups * kTileRows<T> + kPackOf<T>;
  }
  template <class T>
  EK_HD int shared_numbers() const {
    return kTileDepth<T> * (stride<T>() + columns * kTileColumns);
  }

 private:
  static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
};

// kCount numbers that start on 16 bytes.
template <int kCount, class T>
__device__ inline void read_packs(const T* from, T* to) {
#pragma unroll
  for (int k = 0; k < kCount; k += kPackOf<T>) load<T, kPackOf<T>>(from + k, to + k);
}

// Lanes of a warp across the numbers of a row: a power of two, the fewest that cover it.
__device__ inline int lanes_across(int count) {
  int log2 = 0;
  while (log2 < 5 && (1 << log2) < count) ++log2;
  return log2;
}

// columns[k][o] = right(first + k)(o) for the columns of a tile, of which those beyond `width` are 0, k < steps.
template <class T, class Right>
__device__ inline void read_columns(const ProductLayout& l, int first, int steps, int width, Right&& right,
                                    T* columns) {
  const int wide = l.columns * kTileColumns, log_wide = lanes_across(wide);
  for (int k = threadIdx.x >> log_wide; k < steps; k += blockDim.x >> log_wide) {
    const auto from = right(first + k);
    for (int o = threadIdx.x & ((1 << log_wide) - 1); o < wide; o += 1 << log_wide)
      columns[k * wide + o] = o < width ? from(o) : T(0);
  }
}

// sum[m][o] over k < depth of left(k)(row) right(k)(column), for the rows and columns of this thread in a tile: `count`
// rows, of which the others are anything; beyond `width` columns are 0. All threads of the block call it; `shared` may
// be written again behind a barrier. all: what read_columns makes of every k, or absent.
template <class T, class Left, class Right>
__device__ inline void tile_product(const ProductLayout& l, T* shared, int depth, int count, int width, Left&& left,
                                    Right&& right, T (&sum)[kTileRows<T>][kTileColumns], const T* all = nullptr) {
  constexpr int kRows = kTileRows<T>, kDepth = kTileDepth<T>;
  const int stride = l.stride<T>(), wide = l.columns * kTileColumns;
  T *const rows = shared, *const columns = shared + kDepth * stride;
  const int group = threadIdx.x / l.columns, column = threadIdx.x % l.columns;
#pragma unroll
  for (int m = 0; m < kRows; ++m)
#pragma unroll
    for (int o = 0; o < kTileColumns; ++o) sum[m][o] = 0;
  for (int k0 = 0; k0 < depth; k0 += kDepth) {
    const int steps = depth - k0 < kDepth ? depth - k0 : kDepth;
    __syncthreads();
    if (const int k = threadIdx.x % kDepth; k < steps) {
      const auto from = left(k0 + k);
#pragma unroll 4
      for (int r = threadIdx.x / kDepth; r < count; r += blockDim.x / kDepth) rows[k * stride + r] = from(r);
    }
    if (!all) read_columns(l, k0, steps, width, right, columns);
    __syncthreads();
    if (group >= l.groups) continue;
    const T *x = rows + group * kRows, *y = (all ? all + k0 * wide : columns) + column * kTileColumns;
#pragma unroll 4
    for (int k = 0; k < steps; ++k, x += stride, y += wide) {
      T of_row[kRows], of_column[kTileColumns];
      read_packs<kRows>(x, of_row);
      read_packs<kTileColumns>(y, of_column);
#pragma unroll
      for (int m = 0; m < kRows; ++m)
#pragma unroll
        for (int o = 0; o < kTileColumns; ++o) sum[m][o] = multiply_add(of_row[m], of_column[o], sum[m][o]);
    }
  }
}

// Sums over rows of x_k y_o: the threads of a block share a piece of the result, `down` and `across`, and the rows of
// a step, `teams`; blocks share the rows.
struct OuterLayout {
  int down, across, teams, step, threads;
  unsigned pieces_down, pieces_across, shares;
  int64_t rows_each;

  OuterLayout(int64_t rows, int64_t depth, int64_t width, int rows_of_thread) {
    constexpr int64_t kMostAcross = 16, kLeastRows = 128, kStep = 32;
    const auto split = [](int64_t all, int64_t most, unsigned& pieces) {
      pieces = unsigned((all + most - 1) / most);
      return int((all + pieces - 1) / pieces);
    };
    across = split((width + kTileColumns - 1) / kTileColumns, kMostAcross, pieces_across);
    down = split((depth + rows_of_thread - 1) / rows_of_thread, kThreads / across, pieces_down);
    teams = kThreads / (down * across);
    step = int(teams > kStep ? (teams + 1) / 2 * 2 : kStep);  // even, for alignment
    threads = (down * across * teams + kWarp - 1) / kWarp * kWarp;
    const int64_t even = (rows + kEnoughBlocks - 1) / kEnoughBlocks;
    rows_each = ((even < kLeastRows ? kLeastRows : even) + step - 1) / step * step;
    shares = unsigned((rows + rows_each - 1) / rows_each);
  }
  unsigned grid(int parts = 1) const { return grid_for(int64_t(shares) * pieces_down * pieces_across * parts, 1); }
  template <class T>
  EK_HD int shared_numbers() const {
    const int staged = step * (down * kTileRows<T> + across * kTileColumns);
    const int exchanged = teams > 1 ? teams * down * across * kTileRows<T> * kTileColumns : 0;
    return staged > exchanged ? staged : exchanged;
  }
};

// to[k * width + o] = sum over the rows [begin, end) of x(row)(k) y(row)(o), for k < depth and o < width of the piece.
// x also gives 0 for k from depth on. prepare(first row, count): what x needs to know of the rows of a step, which
// x(place in the step, row) looks up.
template <class T, class Prepare, class X, class Y>
__device__ inline void outer_product(const OuterLayout& l, T* shared, unsigned piece, int64_t begin, int64_t end,
                                     int depth, int width, Prepare&& prepare, X&& x, Y&& y, T* to) {
  constexpr int kRows = kTileRows<T>;
  const int deep = l.down * kRows, wide = l.across * kTileColumns, units = l.down * l.across;
  const int first_k = int(piece / l.pieces_across) * deep, first_o = int(piece % l.pieces_across) * wide;
  T *const left = shared, *const right = shared + l.step * deep;
  const int team = threadIdx.x / units, unit = threadIdx.x % units;
  const int down = unit / l.across, across = unit % l.across;
  const int log_deep = lanes_across(deep), log_wide = lanes_across(wide);
  T sum[kRows][kTileColumns] = {};
  for (int64_t first = begin; first < end; first += l.step) {
    const int count = end - first < l.step ? int(end - first) : l.step;
    __syncthreads();
    prepare(first, count);
    __syncthreads();
    for (int r = threadIdx.x >> log_deep; r < count; r += blockDim.x >> log_deep) {
      const auto from = x(r, first + r);
      for (int k = threadIdx.x & ((1 << log_deep) - 1); k < deep; k += 1 << log_deep)
        left[r * deep + k] = from(first_k + k);
    }
    for (int r = threadIdx.x >> log_wide; r < count; r += blockDim.x >> log_wide) {
      const auto from = y(first + r);
      for (int o = threadIdx.x & ((1 << log_wide) - 1); o < wide; o += 1 << log_wide)
        right[r * wide + o] = first_o + o < width ? from(first_o + o) : T(0);
    }
    __syncthreads();
    if (team >= l.teams) continue;
#pragma unroll 4
    for (int r = team; r < count; r += l.teams) {
      T of_row[kRows], of_column[kTileColumns];
      read_packs<kRows>(left + r * deep + down * kRows, of_row);
      read_packs<kTileColumns>(right + r * wide + across * kTileColumns, of_column);
#pragma unroll
      for (int m = 0; m < kRows; ++m)
#pragma unroll
        for (int o = 0; o < kTileColumns; ++o) sum[m][o] = multiply_add(of_row[m], of_column[o], sum[m][o]);
    }
  }
  __syncthreads();
  if (l.teams > 1) {
    T* const mine = shared + threadIdx.x * kRows * kTileColumns;
    if (team < l.teams)
#pragma unroll
      for (int m = 0; m < kRows; ++m)
#pragma unroll
        for (int o = 0; o < kTileColumns; ++o) mine[m * kTileColumns + o] = sum[m][o];
    __syncthreads();
    if (team == 0)
      for (int other = 1; other < l.teams; ++other)
#pragma unroll
        for (int m = 0; m < kRows; ++m)
#pragma unroll
          for (int o = 0; o < kTileColumns; ++o)
            sum[m][o] += mine[other * units * kRows * kTileColumns + m * kTileColumns + o];
  }
  if (team == 0)
#pragma unroll
    for (int m = 0; m < kRows; ++m)
#pragma unroll
      for (int o = 0; o < kTileColumns; ++o) {
        const int k = first_k + down * kRows + m, out = first_o + across * kTileColumns + o;
        if (k < depth && out < width) to[int64_t(k) * width + out] = sum[m][o];
      }
  __syncthreads();
}

// Where a pair is: the row of its transpose, and the nodes of both.
struct Place {
  int64_t transpose, i, j;
  __device__ Place(const GraphView& g, int64_t row) {
    int64_t lo = 0, hi = g.num_events;  // the last event with edge_ptr <= row
    while (hi - lo > 1) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (g.edge_ptr[mid] <= row)
        lo = mid;
      else
        hi = mid;
    }
    const int64_t pair = g.edge_ptr[lo], node = g.ptr[lo], n = g.ptr[lo + 1] - node, offset = row - pair;
    const int64_t p = offset <= 0xffffffff ? uint32_t(offset) / uint32_t(n) : offset / n;
    const int64_t q = offset - p * n;
    transpose = pair + q * n + p;
    i = node + p;
    j = node + q;
  }
};

template <class T>
__device__ inline T activate(T z, T slope) {
  return slope == T(0) ? (z <= T(0) ? T(0) : z) : z > T(0) ? z : z * slope;
}
// What an activation lets through of a gradient, from what came out of it.
template <class T>
__device__ inline T through(T grad, T out, T slope) {
  return slope == T(0) ? (out <= T(0) ? T(0) : grad) : out > T(0) ? grad : grad * slope;
}

}  // namespace
}  // namespace ek
