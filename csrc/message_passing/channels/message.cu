// Messages on tensor cores. A warp owns a few receivers and walks over their edges in tiles of 16; rows of a tile stay
// in registers from the gathered first layer to the message, and only sums over a receiver's edges are written.
#include "message_cuda.h"
#include "network.cuh"

namespace ek {
namespace {

constexpr int kForwardWarps = 12, kFewestWarps = 4;  // of a block: 12 leave each thread 168 registers

// A warp's own shared memory.
template <int kTiles>
struct WarpMemory {
  float tile[kRows * kRowStride<kTiles>];  // also [kRows][kMessageDim] of double: steps of the coordinates
  TileRows rows;
};

// Steps clamp(t d) of the tile's edges, of t in rows.factor. A whole warp calls it.
template <class X>
__device__ inline void find_steps(const MessageArgs<float, X>& args, const TileRows& rows, double* steps) {
  const int row = lane();
  if (row < kRows && rows.owner[row] >= 0)
    with_room(args.dim, [&](auto dim) {
      const Pair<dim, X> pair(args, rows.owner[row], rows.other[row]);
      const double norm = pair.norm(args), t = rows.factor[row];
#pragma unroll
      for (int c = 0; c < dim; ++c) {
        const double y = t * pair.direction(args.direction, norm, c);
        steps[row * kMessageDim + c] = y > args.clamp ? args.clamp : y < -args.clamp ? -args.clamp : y;  // NaN stays
      }
    });
  __syncwarp();
}

template <int kTiles, class Act, class X>
__global__ void __launch_bounds__(kForwardWarps* kWarp, 1)
    forward_kernel(const __grid_constant__ MessageArgs<float, X> args, const __grid_constant__ MessageOnTiles how,
                   Act act) {
  static_assert(sizeof(float) * kRows * kRowStride<kTiles> >= sizeof(double) * kRows * kMessageDim);
  constexpr int kStride = kRowStride<kTiles>, kColumns = (8 * kTiles + kWarp - 1) / kWarp;
  unsigned char* const memory = block_memory<unsigned char>();
  SharedWeights<kTiles> weights(memory, how.layers);
  auto& own = reinterpret_cast<WarpMemory<kTiles>*>(memory + weights.bytes(how.layers))[threadIdx.x / kWarp];
  const bool head = args.coordinates != nullptr;
  weights.load(args, head);

  const int width = how.message_width, warps = blockDim.x / kWarp;
  const int64_t step = int64_t(gridDim.x) * warps * how.nodes;
  for (int64_t node = (int64_t(blockIdx.x) * warps + threadIdx.x / kWarp) * how.nodes; node < args.graph.num_nodes;
       node += step) {
    const int64_t end = node + how.nodes < args.graph.num_nodes ? node + how.nodes : args.graph.num_nodes;
    start_walk(args.graph, node, end, own.rows);
    OwnerSums<float, float, kColumns> messages(args.messages, width, args.mean_messages);
    OwnerSums<double, X, 1> coordinates(args.coordinates, args.dim, args.mean_coordinates);
    if (args.messages) messages.clear(node, end);
    if (head) coordinates.clear(node, end);
    while (next_tile(args.graph, true, end, own.rows)) {
      find_invariants(args, true, own.rows);
      Fragment<kTiles> x, z;
      gather(args, weights, true, own.rows, z);
      for (int layer = 0;; ++layer) {  // the last one is the head
        activate_all(act, z, x, own.tile);
        if (layer == args.depth) break;
        if (layer == args.depth - 1) {
          if (args.gate_weight) {
            float gate[2];
            dot_rows(x, weights.vector(kGateVector), gate);
            const float bias = args.gate_bias ? *args.gate_bias : 0.f;
            gate[0] = logistic(gate[0] + bias);
            gate[1] = logistic(gate[1] + bias);
#pragma unroll
            for (int q = 0; q < kTiles; ++q)
#pragma unroll
              for (int k = 0; k < 4; ++k) x[q][k] *= gate[k / 2];
          }
          store_tile(x, own.tile);
          __syncwarp();
          if (args.messages) messages.add(own.rows, own.tile, kStride);
          if (args.edges)
            for (int r = 0; r < kRows && own.rows.owner[r] >= 0; ++r)
              for (int c = lane(); c < width; c += kWarp)
                args.edges[own.rows.edge[r] * width + c] = own.tile[r * kStride + c];
          __syncwarp();  // the tile has been read
          if (!head) break;
        }
        clear(z);
        add_product_of<false>(how.multiply, x, weights.matrix(layer), how.tiles[layer], z);
        add_bias(weights.vector(kBiasVectors + layer), z);
      }
      if (!head) continue;
      float t[2];
      dot_rows(x, weights.vector(kHeadOutVector), t);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (lane() % 4 == 0) own.rows.factor[row_of(2 * half)] = args.head_tanh ? tanhf(t[half]) : t[half];
      __syncwarp();
      double* const steps = reinterpret_cast<double*>(own.tile);
      find_steps(args, own.rows, steps);
      coordinates.add(own.rows, steps, kMessageDim);
    }
  }
}

template <int kTiles, class X>
cudaError_t forward(const MessageArgs<float, X>& args, MessageOnTiles how, cudaStream_t stream) {
  MessageSchedule schedule;
  if (const auto error = schedule_messages(args, SharedWeights<kTiles>::bytes(how.layers), sizeof(WarpMemory<kTiles>),
                                           kFewestWarps, kForwardWarps, schedule);
      error != cudaSuccess)
    return error;
  how.nodes = schedule.nodes;
  return with_tile_activation<false>(args.activation, args.slope, [&](auto act) {
    return launch_threads(forward_kernel<kTiles, decltype(act), X>, grid_for(schedule.groups, 1),
                          schedule.warps * kWarp, schedule.shared, stream, args, how, act);
  });
}

}  // namespace

template <class X>
cudaError_t message_forward_cuda(const MessageArgs<float, X>& args, Multiply multiply, cudaStream_t stream) {
  if (args.graph.num_nodes == 0) return cudaSuccess;
  const MessageOnTiles how(args, multiply, args.coordinates != nullptr);
  if (how.widest <= 4) return forward<4>(args, how, stream);
  if (how.widest <= 9) return forward<9>(args, how, stream);
  return cudaErrorNotSupported;
}
template cudaError_t message_forward_cuda(const MessageArgs<float, float>&, Multiply, cudaStream_t);
template cudaError_t message_forward_cuda(const MessageArgs<float, double>&, Multiply, cudaStream_t);

}  // namespace ek
