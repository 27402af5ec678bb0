// The weights' gradients: products over the edges of a block's tiles, and sums of columns over those of a warp's.
#pragma once

#include "network.cuh"

namespace ek {
namespace {

// share[o][i] += sum over rows e of g[e][o] h[e][i], both in rows of kRowStride. The whole block calls it; a warp owns
// 16 outputs by 24 inputs at a time, and a number of the share always has the same thread.
template <Multiply kHow, int kTiles>
__device__ inline void add_outer(const float* g_rows, const float* h_rows, int rows, int out_tiles, int in_tiles,
                                 float* share) {
  constexpr int kStride = kRowStride<kTiles>, kPadded = 8 * kTiles, kAtOnce = 3;
  const int g = lane() / 4, t = lane() % 4;
  const int tall = (out_tiles + 1) / 2, wide = (in_tiles + kAtOnce - 1) / kAtOnce;
  for (int item = threadIdx.x / kWarp; item < tall * wide; item += blockDim.x / kWarp) {
    const int o = item % tall * 16 + g, first = item / tall * kAtOnce;
    float* const to = share + o * kPadded + first * 8 + 2 * t;
    // the last 16 outputs may be but 8, and the last 24 inputs fewer: what lies beyond is not kept
    const bool upper = o < kPadded, lower = o + 8 < kPadded;
    float sum[kAtOnce][4] = {};
    __syncwarp();  // tensor cores take whole warps
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (first + n >= in_tiles) continue;
      if (upper) load<float, 2>(to + 8 * n, sum[n]);
      if (lower) load<float, 2>(to + 8 * kPadded + 8 * n, sum[n] + 2);
    }
    for (int e = 0; e < rows; e += 8) {
      const float *a = g_rows + (e + t) * kStride + o, *b = h_rows + (e + t) * kStride + first * 8 + g;
      const auto left = operand_a<kHow>(a[0], a[4 * kStride], lower ? a[8] : 0.f, lower ? a[4 * kStride + 8] : 0.f);
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n)
        if (first + n < in_tiles) multiply_add(sum[n], left, operand_b<kHow>(b[8 * n], b[8 * n + 4 * kStride]));
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (first + n >= in_tiles) continue;
      if (upper) *reinterpret_cast<Pack<float, 2>*>(to + 8 * n) = {sum[n][0], sum[n][1]};
      if (lower) *reinterpret_cast<Pack<float, 2>*>(to + 8 * kPadded + 8 * n) = {sum[n][2], sum[n][3]};
    }
  }
}
template <int kTiles>
__device__ inline void add_outer(Multiply how, const float* g, const float* h, int rows, int out_tiles, int in_tiles,
                                 float* share) {
  if (how == Multiply::tf32)
    add_outer<Multiply::tf32, kTiles>(g, h, rows, out_tiles, in_tiles, share);
  else
    add_outer<Multiply::tf32x3, kTiles>(g, h, rows, out_tiles, in_tiles, share);
}

// sum[c] += sum over the tile's rows of weight[row] tile[row][c]; weight may be null: ones. A whole warp calls it.
template <int kTiles>
__device__ inline void add_columns(const float* tile, const float* weight, float* sum) {
  __syncwarp();
#pragma unroll 1
  for (int c = lane(); c < 8 * kTiles; c += kWarp) {
    float total = 0.f;
#pragma unroll 4
    for (int r = 0; r < kRows; ++r)
      total += weight ? weight[r] * tile[r * kRowStride<kTiles> + c] : tile[r * kRowStride<kTiles> + c];
    sum[c] += total;
  }
  __syncwarp();
}

// A gradient as it lies in each share, and where it goes.
struct SharePiece {
  float* out = nullptr;
  int64_t offset = -1;  // in a share; -1: in none, the gradient is 0
  int rows = 0, columns = 0, stride = 0;
  int row_step = 0, column_step = 0;  // in out

  EK_HD int numbers() const { return rows * columns; }
};
constexpr int kMostPieces = 16;
struct SharePieces {
  SharePiece piece[kMostPieces];
  int count = 0;

  void add(float* out, int64_t offset, int64_t rows, int64_t columns, int64_t stride, int64_t row_step,
           int64_t column_step) {
    if (out && rows * columns > 0)
      piece[count++] = {out, offset, int(rows), int(columns), int(stride), int(row_step), int(column_step)};
  }
  EK_HD int numbers() const {
    int sum = 0;
    for (int k = 0; k < count; ++k) sum += piece[k].numbers();
    return sum;
  }
};

// The shares of each number, added in order: lanes have neighbouring numbers of all pieces.
__global__ void __launch_bounds__(kThreads)
    add_shares_kernel(const __grid_constant__ SharePieces pieces, const float* shares, int count, int64_t size) {
  const int numbers = pieces.numbers();
  for (int first = int(blockIdx.x) * kWarp; first < numbers; first += int(gridDim.x) * kWarp) {
    int n = first + lane(), k = 0;
    const bool there = n < numbers;
    for (; there && n >= pieces.piece[k].numbers(); ++k) n -= pieces.piece[k].numbers();
    const SharePiece& p = pieces.piece[k];
    const int row = there ? n / p.columns : 0, column = there ? n % p.columns : 0;
    const float* const from = shares + p.offset + row * p.stride + column;
    const double sum = sum_by_warps(there && p.offset >= 0 ? count : 0, [&](int64_t s) { return from[s * size]; });
    if (there && threadIdx.x < kWarp) p.out[row * p.row_step + column * p.column_step] = float(sum);
  }
}

}  // namespace
}  // namespace ek
