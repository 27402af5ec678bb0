// The edge network on CUDA as the host sees it: how edges are shared out among blocks, and what a block has in shared
// memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstring>
#include <type_traits>

#include "../../core/device_limits.h"
#include "edge_network.h"

namespace ek {

constexpr int kChainThreads = 128;
constexpr int kChainWarps = kChainThreads / 32;
constexpr int kWindow = 128;                         // receivers a block looks at together
constexpr int64_t kMostChainShared = 99 * 1024;      // bytes; every GPU from sm_80 on has them, older ones have fewer
constexpr int64_t kMostChainBlocks[] = {1024, 512};  // forward, backward: from there on, blocks do more

// Coordinates are of a type told at run time: one kernel for both.
template <class T>
struct ChainArgs : EdgeNetworkArgs<T, void> {
  bool wide = false;                  // coordinates are float64
  int64_t per_block = 0, blocks = 0;  // receivers, or rows, of a block
  T* packed = nullptr;                // room for the weights, where shared memory has none
  // Backward: room.
  T* shares = nullptr;            // [blocks, P] what each block adds to the gradient of the weights
  T* grad_end = nullptr;          // [E, width], where grad_sender is wanted: what each edge adds to it
  double* grad_points = nullptr;  // [E, dim], where grad_x is wanted: the sender's part

  ChainArgs() = default;
  template <class X>
  explicit ChainArgs(const EdgeNetworkArgs<T, X>& args) : wide(sizeof(X) == sizeof(double)) {
    using To = EdgeNetworkArgs<T, void>;  // but for what pointers point to, the same
    static_assert(sizeof(To) == sizeof args && std::is_trivially_copyable<To>::value);
    std::memcpy(static_cast<void*>(static_cast<To*>(this)), &args, sizeof args);
  }
  EK_HD int64_t parameters() const {
    int64_t count = 0;
    for (int k = 0; k < this->layers; ++k) count += (this->inputs(k) + 1) * this->channels[k];
    return count;
  }
};

// Columns: a channel of a tile is `tile` numbers, one per edge, and a pack more against bank conflicts.
template <class T>
struct ChainRoom {
  static constexpr int kPack = 16 / int(sizeof(T));
  static EK_HD int packed(int count) { return (count + kPack - 1) / kPack * kPack; }

  int weights = 0;  // W_k [outputs, inputs as packs] and b_k
  int input = 0;    // columns: of the first layer
  int kept = 0;     // backward: what activations are applied to, and LayerNorm's scales
  int work = 0;     // two times

  template <class X>
  ChainRoom(const EdgeNetworkArgs<T, X>& args, bool backward) {
    input = int(args.inputs(0));
    work = input > 1 ? input : 1;
    for (int k = 0; k < args.layers; ++k) {
      const int out = int(args.channels[k]);
      weights += out * packed(int(args.inputs(k))) + packed(out);
      if (backward) kept += out + args.step[k].norm;
      work = out > work ? out : work;
    }
    if (args.x) {  // coordinates, one by one, in float64
      const int points = args.dim * int(sizeof(double) / sizeof(T));
      work = points > work ? points : work;
    }
    if (!backward) input = 0;  // it is one of the two
  }

  int64_t bytes(int tile, bool shared_weights) const {
    const int64_t ids = (2 * kWindow + 2 + 2 * tile) * int64_t(sizeof(int64_t)) + tile * int64_t(sizeof(int32_t));
    const int64_t columns = int64_t(input + kept + 2 * work) * (tile + kPack);
    return ids + (columns + (shared_weights ? weights : 0)) * int64_t(sizeof(T));
  }
};

// A kernel that is compiled: edges of a lane, and where weights are read.
template <int kEdgesPerLane, bool kSharedWeights>
struct ChainForm {
  static constexpr int per_lane = kEdgesPerLane;
  static constexpr bool shared_weights = kSharedWeights;
};

// f(form), the first for which a block's shared memory suffices; false where none does.
template <class T, class F>
bool with_chain_form(const ChainRoom<T>& room, F&& f) {
  const int64_t shared = device_limits().shared, most = shared < kMostChainShared ? shared : kMostChainShared;
  const auto tried = [&](auto form) {
    if (room.bytes(32 * form.per_lane, form.shared_weights) > most) return false;
    f(form);
    return true;
  };
  if constexpr (sizeof(T) == 4)
    return tried(ChainForm<4, true>{}) || tried(ChainForm<2, true>{}) || tried(ChainForm<2, false>{}) ||
           tried(ChainForm<1, false>{});
  else
    return tried(ChainForm<2, true>{}) || tried(ChainForm<1, false>{});
}

// How receivers are shared out: by sizes alone, so that results depend on nothing else. A block of few edges has one
// tile, most often not quite full; were its tile to be full on average, half the blocks would have two.
template <class T>
void share_chain(ChainArgs<T>& args, int64_t tile, bool backward) {
  const int64_t most = kMostChainBlocks[backward];
  const bool rows = args.rows >= 0;
  const int64_t all = rows ? args.rows : args.graph.num_nodes, edges = rows ? args.rows : args.graph.num_edges;
  int64_t target = rows ? tile : tile * 7 / 8;
  if (edges / most > target) target = edges / most;
  args.per_block = edges > 0 && target * all / edges < kWindow * 64 ? target * all / edges : kWindow * 64;
  if (args.per_block < 1) args.per_block = 1;
  args.blocks = all / args.per_block + (all % args.per_block != 0);
}

template <class T>
cudaError_t edge_network_forward_cuda(const ChainArgs<T>& args, cudaStream_t stream);
template <class T>
cudaError_t edge_network_backward_cuda(const ChainArgs<T>& args, cudaStream_t stream);

}  // namespace ek
