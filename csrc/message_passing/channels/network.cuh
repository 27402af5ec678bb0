// The edge network on a warp's tile of 16 edges: rows in registers, as the accumulators of tensor-core products,
// weights in shared memory. kTiles: the widest layer in tiles of 8 channels; channels beyond a width are 0.
#pragma once

#include "../../simd/activation.cuh"
#include "../../simd/mma.cuh"
#include "tile.cuh"

namespace ek {
namespace {

__device__ inline float logistic(float v) { return DeviceSigmoid<float>{}.value(v); }

constexpr int kMostProducts = kMessageDepth;  // products: W_2, W_3 and the head's W_x

// Lane 4 g + t: rows g and g + 8, columns 8 q + 2 t and the next one of each tile q.
template <int kTiles>
using Fragment = float[kTiles][4];

__device__ inline int row_of(int k) { return lane() / 4 + k / 2 * 8; }  // k: place in a lane's four
__device__ inline int column_of(int q, int k) { return 8 * q + lane() % 4 * 2 + k % 2; }

// Where rows lie in shared memory: of 8 mod 32 words, so that neither weights nor activations meet in their banks.
template <int kTiles>
constexpr int kRowStride = (8 * kTiles + 23) / 32 * 32 + 8;

// Where row o of a weight lies: a row read by all of t, or a column by all of g, meets no bank twice.
EK_HD constexpr int weight_row(int o, int stride) { return o * stride + o / 4 * 8; }

// Vectors of 8 kTiles numbers in shared memory.
enum Vector : int {
  kColumn0,
  kColumn1,
  kGateVector,
  kHeadOutVector,
  kBiasVectors,
  kVectors = kBiasVectors + kMostProducts
};

// Weights of the products, W_2 (, W_3) (, W_x), and vectors, padded with zeros, in shared memory.
template <int kTiles>
struct SharedWeights {
  static constexpr int kPadded = 8 * kTiles, kStride = kRowStride<kTiles>, kMatrix = weight_row(kPadded, kStride);
  float *matrices, *vectors;

  static EK_HD size_t bytes(int layers) { return sizeof(float) * (layers * kMatrix + kVectors * kPadded); }
  __device__ SharedWeights(unsigned char* memory, int layers)
      : matrices(reinterpret_cast<float*>(memory)), vectors(matrices + layers * kMatrix) {}

  __device__ const float* matrix(int layer) const { return matrices + layer * kMatrix; }
  __device__ const float* vector(int which) const { return vectors + which * kPadded; }

  // The whole block calls it.
  template <class X>
  __device__ void load(const MessageArgs<float, X>& args, bool head) {
    int64_t in = args.width;
    for (int l = 0; l < args.depth - 1; ++l) {
      load_layer(args.hidden[l], l, int(in));
      in = args.hidden[l].width;
    }
    if (head) load_layer(args.head, args.depth - 1, int(in));
    const int columns = args.interval + args.product;
    load_vector(columns > 0 ? args.invariant_weight : nullptr, kColumn0, args.width, columns);
    load_vector(columns > 1 ? args.invariant_weight + 1 : nullptr, kColumn1, args.width, columns);
    load_vector(args.gate_weight, kGateVector, in, 1);
    load_vector(head ? args.head_out : nullptr, kHeadOutVector, args.head.width, 1);
    __syncthreads();
  }

 private:
  __device__ void load_layer(const MessageLayer<float>& layer, int which, int in) {
    for (int k = threadIdx.x; k < kPadded * kPadded; k += blockDim.x) {
      const int o = k / kPadded, i = k % kPadded;
      matrices[which * kMatrix + weight_row(o, kStride) + i] =
          o < layer.width && i < in ? layer.weight[o * in + i] : 0.f;
    }
    load_vector(layer.bias, kBiasVectors + which, layer.width, 1);
  }
  __device__ void load_vector(const float* from, int which, int64_t width, int step) {
    for (int k = threadIdx.x; k < kPadded; k += blockDim.x)
      vectors[which * kPadded + k] = from && k < width ? from[k * step] : 0.f;
  }
};

// out += x W^T, or x W; x has `tiles` tiles of channels.
template <Multiply kHow, bool kTransposed, int kTiles>
__device__ inline void add_product_of(const Fragment<kTiles>& x, const float* weight, int tiles,
                                      Fragment<kTiles>& out) {
  constexpr int kStride = kRowStride<kTiles>;
  const int g = lane() / 4, t = lane() % 4;
  __syncwarp();  // tensor cores take whole warps
#pragma unroll
  for (int q = 0; q < kTiles; ++q) {
    if (q >= tiles) break;
    const auto a = operand_a<kHow>(x[q][0], x[q][1], x[q][2], x[q][3]);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      float w[2];
      if (kTransposed) {
        w[0] = weight[weight_row(8 * q, kStride) + weight_row(2 * t, kStride) + 8 * j + g];
        w[1] = weight[weight_row(8 * q, kStride) + weight_row(2 * t + 1, kStride) + 8 * j + g];
      } else {
        load<float, 2>(weight + weight_row(8 * j, kStride) + weight_row(g, kStride) + 8 * q + 2 * t, w);
      }
      multiply_add(out[j], a, operand_b<kHow>(w[0], w[1]));
    }
  }
}
template <bool kTransposed, int kTiles>
__device__ inline void add_product_of(Multiply how, const Fragment<kTiles>& x, const float* weight, int tiles,
                                      Fragment<kTiles>& out) {
  if (how == Multiply::tf32x3)
    add_product_of<Multiply::tf32x3, kTransposed>(x, weight, tiles, out);
  else if (how == Multiply::tf32)
    add_product_of<Multiply::tf32, kTransposed>(x, weight, tiles, out);
  else if (!kTransposed)  // gradients are never taken of rounded numbers
    add_product_of<Multiply::bfloat16, false>(x, weight, tiles, out);
}

// z = A_i + B_j + S s_ij + Q a_ij.
template <int kTiles, class X>
__device__ inline void gather(const MessageArgs<float, X>& args, const SharedWeights<kTiles>& weights, bool receiving,
                              const TileRows& rows, Fragment<kTiles>& z) {
  const int columns = args.interval + args.product, width = int(args.width);
#pragma unroll
  for (int half = 0; half < 4; half += 2) {
    const int row = row_of(half);
    const bool live = rows.owner[row] >= 0;
    const int64_t i = !live ? 0 : receiving ? rows.owner[row] : rows.other[row];
    const int64_t j = !live ? 0 : receiving ? rows.other[row] : rows.owner[row];
    const float s0 = live && columns > 0 ? rows.invariant[0][row] : 0.f;
    const float s1 = live && columns > 1 ? rows.invariant[1][row] : 0.f;
    const float *a = args.receiver + i * width, *b = args.sender + j * width;
#pragma unroll
    for (int q = 0; q < kTiles; ++q)
#pragma unroll
      for (int k = half; k < half + 2; ++k) {
        const int c = column_of(q, k);
        z[q][k] = 0.f;  // beyond the width too, where 0 times infinity is not
        if (!live || c >= width) continue;
        z[q][k] = a[c] + b[c];
        if (columns > 0) z[q][k] += s0 * weights.vector(kColumn0)[c];
        if (columns > 1) z[q][k] += s1 * weights.vector(kColumn1)[c];
      }
    for (int n = 0; live && n < int(args.edge_width); ++n) {
      const float attr = args.edge_attr[rows.edge[row] * args.edge_width + n];
#pragma unroll
      for (int q = 0; q < kTiles; ++q)
#pragma unroll
        for (int k = half; k < half + 2; ++k) {
          const int c = column_of(q, k);
          if (c < width) z[q][k] += attr * args.edge_weight[c * args.edge_width + n];
        }
    }
  }
}

template <int kTiles>
__device__ inline void clear(Fragment<kTiles>& out) {
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int k = 0; k < 4; ++k) out[q][k] = 0.f;
}
// Adds the bias, whatever the row: behind the product, where fewer registers are in use than before it.
template <int kTiles>
__device__ inline void add_bias(const float* vector, Fragment<kTiles>& out) {
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int k = 0; k < 4; ++k) out[q][k] += vector[column_of(q, k)];
}

// The tile in rows of kRowStride, for lanes that walk along columns.
template <int kTiles>
__device__ inline void store_tile(const Fragment<kTiles>& x, float* tile) {
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int k = 0; k < 4; k += 2)
      *reinterpret_cast<Pack<float, 2>*>(tile + row_of(k) * kRowStride<kTiles> + column_of(q, k)) = {x[q][k],
                                                                                                     x[q][k + 1]};
}
template <int kTiles>
__device__ inline void load_tile(const float* tile, Fragment<kTiles>& x) {
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int k = 0; k < 4; k += 2) load<float, 2>(tile + row_of(k) * kRowStride<kTiles> + column_of(q, k), x[q] + k);
}

// Any activation of a lane's numbers where they lie in a tile, by one copy of the code for all.
struct AnyActivation {
  Activation kind;
  float slope;
};
template <int kTiles>
__device__ __noinline__ void apply_stored(AnyActivation act, bool derivative, float* tile) {
  float* const own = tile + row_of(0) * kRowStride<kTiles> + column_of(0, 0);
  const auto each = [&](auto f) {
#pragma unroll 1
    for (int q = 0; q < kTiles; ++q)
#pragma unroll
      for (int k = 0; k < 4; ++k) f(own[8 * q + k / 2 * (8 * kRowStride<kTiles>)+k % 2]);
  };
  with_device_activation<float>(act.kind, act.slope, [&](auto f) {
    if (derivative)
      each([&](float& v) { v = f.slope(v); });
    else
      each([&](float& v) { v = f.value(v); });
  });
}

// out <- act(z). A lane may use its places in `spare`, a tile.
template <int kTiles, class Act>
__device__ inline void activate_all(const Act& act, const Fragment<kTiles>& z, Fragment<kTiles>& out, float* spare) {
  if constexpr (std::is_same_v<Act, AnyActivation>) {
    store_tile(z, spare);
    apply_stored<kTiles>(act, false, spare);
    load_tile(spare, out);
  } else {
#pragma unroll
    for (int q = 0; q < kTiles; ++q)
#pragma unroll
      for (int k = 0; k < 4; ++k) out[q][k] = act.value(z[q][k]);
  }
}
// g *= act'(z); where that is 0 nothing passes, not even infinity.
template <int kTiles, class Act>
__device__ inline void through_all(const Act& act, const Fragment<kTiles>& z, Fragment<kTiles>& g, float* spare) {
  Fragment<kTiles> d;
  if constexpr (std::is_same_v<Act, AnyActivation>) {
    store_tile(z, spare);
    apply_stored<kTiles>(act, true, spare);
    load_tile(spare, d);
  }
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (!std::is_same_v<Act, AnyActivation>) d[q][k] = act.slope(z[q][k]);
      g[q][k] = d[q][k] == 0.f ? 0.f : g[q][k] * d[q][k];
    }
}

// vector . row for the lane's two rows.
template <int kTiles>
__device__ inline void dot_rows(const Fragment<kTiles>& x, const float* vector, float (&out)[2]) {
  out[0] = out[1] = 0.f;
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k / 2] += x[q][k] * vector[column_of(q, k)];
#pragma unroll
  for (int half = 0; half < 2; ++half) out[half] = team_sum(out[half], 4);
}

// What a launch knows beyond its arguments.
struct MessageOnTiles {
  Multiply multiply;
  int layers = 0;                     // products: W_2 (, W_3) (, W_x)
  int tiles[kMostProducts] = {};      // of 8 channels that each of them reads,
  int out_tiles[kMostProducts] = {};  // and makes
  int widest = 0;                     // tiles of the widest layer
  int message_width;
  int64_t nodes = 1;  // that a warp takes at a time

  template <class X>
  MessageOnTiles(const MessageArgs<float, X>& args, Multiply multiply, bool head)
      : multiply(multiply), message_width(int(args.message_width())) {
    widen(args.width);
    for (int l = 0; l < args.depth - 1; ++l) add(l ? args.hidden[l - 1].width : args.width, args.hidden[l].width);
    if (head) add(args.message_width(), args.head.width);
  }

 private:
  static int tiles_of(int64_t width) { return int((width + 7) / 8); }
  void widen(int64_t width) { widest = tiles_of(width) > widest ? tiles_of(width) : widest; }
  void add(int64_t in, int64_t out) {
    tiles[layers] = tiles_of(in);
    out_tiles[layers++] = tiles_of(out);
    widen(out);
  }
};

// How a launch is shared out: `once` bytes a block and `each` a warp, of which a block has at most `most`.
template <class X>
cudaError_t schedule_messages(const MessageArgs<float, X>& args, size_t once, size_t each, int fewest, int most,
                              MessageSchedule& schedule) {
  SharedLimits limits;
  if (const auto error = shared_limits(limits); error != cudaSuccess) return error;
  const WarpRoom room{int64_t(once), int64_t(each), limits.block, limits.processor, fewest, most};
  const GraphView& g = args.graph;
  schedule = message_schedule(g.num_nodes, edges_expected(g.num_nodes, g.num_edges, g.num_events), room);
  return schedule.warps == 0 ? cudaErrorNotSupported : cudaSuccess;
}

// f(the activation), of the kernels that are compiled. In backward those that stay in registers need more than there
// are.
template <bool kBackward, class F>
cudaError_t with_tile_activation(Activation kind, double slope, F&& f) {
  if constexpr (!kBackward) {
    if (kind == Activation::relu) return f(DeviceRelu<float>{});
    if (kind == Activation::silu) return f(DeviceSilu<float>{});
  }
  return f(AnyActivation{kind, float(slope)});
}

}  // namespace
}  // namespace ek
