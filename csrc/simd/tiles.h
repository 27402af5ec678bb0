// multiply() of dense.h for bfloat16 pairs by the matrix unit of Intel CPUs (AMX), whose registers are tiles:
//   sums [16 rows][16 outputs] += factors [16 rows][16 pairs] times weights [16 pairs][16 outputs]
// Rows in scratch and packed panels are read as they are. A product of 16 x 16 x 32 numbers takes 16 cycles; three
// tiles of rows meet a tile of weights, which is read once for 48 rows.
#pragma once

#include "panels.h"

namespace ek {
namespace {

// Ends the use of tiles by a thread: the system then saves none of them.
inline void release_tiles() {
#if defined(__AMX_BF16__)
  _tile_release();
#endif
}

#if defined(EK_TILES)
// A tile's number is part of an instruction: the sums of three tiles of rows are 0, 1 and 2. 3 and 4 are factors and
// weights, 5 and 6 those of the last pairs, of which there are fewer.
constexpr int kTileRows = 16, kTilePairs = 16;

// The sizes of all tiles, as the CPU reads them.
struct alignas(64) TileSizes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64};  // of a row
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16};

  explicit TileSizes(int64_t last_pairs) {
    if (last_pairs == 0) return;
    bytes[5] = uint16_t(4 * last_pairs);
    rows[6] = uint8_t(last_pairs);
  }
};

#if defined(__AMX_BF16__)
#define EK_TILE_SIZES(sizes) _tile_loadconfig(sizes)
#define EK_TILE_ZERO(tile) _tile_zero(tile)
#define EK_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, int64_t(stride) * 4)
#define EK_TILE_STORE(tile, to, stride) _tile_stored(tile, to, int64_t(stride) * 4)
#define EK_TILE_PRODUCT(sums, factors, weights) _tile_dpbf16ps(sums, factors, weights)
#else
struct PlainTiles {
  TileSizes sizes{0};
  uint32_t word[8][16][16];

  void zero(int tile) { std::memset(word[tile], 0, sizeof word[tile]); }
  void load(int tile, const void* from, int64_t stride) {
    zero(tile);
    for (int r = 0; r < sizes.rows[tile]; ++r)
      std::memcpy(word[tile][r], static_cast<const uint32_t*>(from) + r * stride, sizes.bytes[tile]);
  }
  void store(int tile, void* to, int64_t stride) const {
    for (int r = 0; r < sizes.rows[tile]; ++r)
      std::memcpy(static_cast<uint32_t*>(to) + r * stride, word[tile][r], sizes.bytes[tile]);
  }
  static float number(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  void product(int sums, int factors, int weights) {
    for (int r = 0; r < sizes.rows[sums]; ++r)
      for (int k = 0; k < sizes.bytes[factors] / 4; ++k)
        for (int o = 0; o < sizes.bytes[sums] / 4; ++o) {
          const uint32_t x = word[factors][r][k], w = word[weights][k][o];
          const float even = number(word[sums][r][o]) + number(x << 16) * number(w << 16);
          const float both = even + number(x & 0xffff0000u) * number(w & 0xffff0000u);
          std::memcpy(&word[sums][r][o], &both, sizeof both);
        }
  }
};
thread_local PlainTiles plain_tiles;
#define EK_TILE_SIZES(given) plain_tiles.sizes = *(given)
#define EK_TILE_ZERO(tile) plain_tiles.zero(tile)
#define EK_TILE_LOAD(tile, from, stride) plain_tiles.load(tile, from, stride)
#define EK_TILE_STORE(tile, to, stride) plain_tiles.store(tile, to, stride)
#define EK_TILE_PRODUCT(sums, factors, weights) plain_tiles.product(sums, factors, weights)
#endif

// Sums of kTiles x 16 rows and 16 outputs. weights: rows of pairs, `stride` numbers apart.
template <bool kAdd, int kTiles>
inline void multiply_rows_by_tiles(const Bfloat16Pair* in, int64_t in_stride, int64_t pairs,
                                   const Bfloat16Pair* weights, int64_t stride, float* out, int64_t out_stride) {
  const int64_t second = kTileRows * in_stride, third = 2 * second, to_second = kTileRows * out_stride;
  if constexpr (kAdd) {
    EK_TILE_LOAD(0, out, out_stride);
    if constexpr (kTiles > 1) EK_TILE_LOAD(1, out + to_second, out_stride);
    if constexpr (kTiles > 2) EK_TILE_LOAD(2, out + 2 * to_second, out_stride);
  } else {
    EK_TILE_ZERO(0);
    if constexpr (kTiles > 1) EK_TILE_ZERO(1);
    if constexpr (kTiles > 2) EK_TILE_ZERO(2);
  }
  int64_t k = 0;
  for (; k + kTilePairs <= pairs; k += kTilePairs) {
    EK_TILE_LOAD(4, weights + k * stride, stride);
    EK_TILE_LOAD(3, in + k, in_stride);
    EK_TILE_PRODUCT(0, 3, 4);
    if constexpr (kTiles > 1) {
      EK_TILE_LOAD(3, in + second + k, in_stride);
      EK_TILE_PRODUCT(1, 3, 4);
    }
    if constexpr (kTiles > 2) {
      EK_TILE_LOAD(3, in + third + k, in_stride);
      EK_TILE_PRODUCT(2, 3, 4);
    }
  }
  if (k < pairs) {
    EK_TILE_LOAD(6, weights + k * stride, stride);
    EK_TILE_LOAD(5, in + k, in_stride);
    EK_TILE_PRODUCT(0, 5, 6);
    if constexpr (kTiles > 1) {
      EK_TILE_LOAD(5, in + second + k, in_stride);
      EK_TILE_PRODUCT(1, 5, 6);
    }
    if constexpr (kTiles > 2) {
      EK_TILE_LOAD(5, in + third + k, in_stride);
      EK_TILE_PRODUCT(2, 5, 6);
    }
  }
  EK_TILE_STORE(0, out, out_stride);
  if constexpr (kTiles > 1) EK_TILE_STORE(1, out + to_second, out_stride);
  if constexpr (kTiles > 2) EK_TILE_STORE(2, out + 2 * to_second, out_stride);
}

// As multiply() of dense.h. The bias is added last. Rows up to a multiple of 16 are read and written.
template <Into kInto>
inline void multiply_by_tiles(Rows<Bfloat16Pair> in, int64_t pairs, const Bfloat16Pair* packed, const float* bias,
                              Rows<float> out, int64_t out_channels, int64_t rows) {
  constexpr int W = lanes<float>;
  static_assert(W == 16);
  constexpr bool kAdd = kInto == Into::sum;
  const TileSizes sizes(pairs % kTilePairs);
  EK_TILE_SIZES(&sizes);
  for_panels<kPanel>(whole_vectors<Bfloat16Pair>(out_channels), [&](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    for (int v = 0; v < kWidth; ++v)
      for (int64_t e = 0; e < rows; e += 3 * kTileRows) {
        const Bfloat16Pair* const from = in[e];
        float* const to = out[e] + (first + v) * W;
        const Bfloat16Pair* const weights = packed + v * W;
        if (rows - e > 2 * kTileRows)
          multiply_rows_by_tiles<kAdd, 3>(from, in.stride, pairs, weights, kWidth * W, to, out.stride);
        else if (rows - e > kTileRows)
          multiply_rows_by_tiles<kAdd, 2>(from, in.stride, pairs, weights, kWidth * W, to, out.stride);
        else
          multiply_rows_by_tiles<kAdd, 1>(from, in.stride, pairs, weights, kWidth * W, to, out.stride);
      }
    packed += pairs * kWidth * W;
  });
  const int64_t last = padded<float>(out_channels) - W;
  const Tail<float> tail(out_channels - last);
  for (int64_t e = 0; e < rows; ++e)
    for (int64_t o = 0; o <= last; o += W) {
      vfloat x = load(out[e] + o);
      if (!kAdd) x += load(bias + o);
      if (o == last) x = tail.keep(x);
      store(out[e] + o, kInto == Into::relu ? max_of(vfloat{}, x) : x);
    }
}

// grad[o] += sum over pairs p of g[o][p] in[p], for whole tiles of o and of numbers.
inline void outer_by_tiles(Rows<Bfloat16Pair> g, int64_t g_channels, Rows<Bfloat16Pair> in, int64_t in_channels,
                           int64_t pairs, Rows<float> grad) {
  const TileSizes sizes(pairs % kTilePairs);
  EK_TILE_SIZES(&sizes);
  for (int64_t o = 0; o < g_channels; o += 3 * kTileRows)
    for (int64_t k = 0; k < in_channels; k += lanes<float>) {
      float* const to = grad[o] + k;
      if (g_channels - o > 2 * kTileRows)
        multiply_rows_by_tiles<true, 3>(g[o], g.stride, pairs, in[0] + k, in.stride, to, grad.stride);
      else if (g_channels - o > kTileRows)
        multiply_rows_by_tiles<true, 2>(g[o], g.stride, pairs, in[0] + k, in.stride, to, grad.stride);
      else
        multiply_rows_by_tiles<true, 1>(g[o], g.stride, pairs, in[0] + k, in.stride, to, grad.stride);
    }
}
#endif

}  // namespace
}  // namespace ek
