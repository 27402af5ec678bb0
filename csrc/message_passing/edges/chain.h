// The edge network on CUDA as the host sees it: how edges are shared out among blocks, and what a block has in shared
// memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstring>
#include <type_traits>

#include "../../core/schedule.h"
#include "../../core/shared_memory.h"
#include "edge_network.h"

namespace ek {

constexpr int kChainThreads = 128;
constexpr int kChainWarps = kChainThreads / 32;
constexpr int kWindow = 128;                         // receivers a block looks at together
constexpr int64_t kFairChainShared = 99 * 1024;      // bytes of a block, where two or more are to share a processor
constexpr int64_t kMostChainBlocks[] = {4096, 512};  // forward, backward: each of these has a copy of all weights

// Coordinates are of a type told at run time: one kernel for both.
template <class T>
struct ChainArgs : EdgeNetworkArgs<T, void> {
  bool wide = false;                  // coordinates are float64
  int64_t per_block = 0, blocks = 0;  // receivers, or rows, of a block
  int64_t most_shared = 0;            // bytes that a block of the device can have
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
  int64_t items() const { return this->rows >= 0 ? this->rows : this->graph.num_edges; }
  EK_HD int64_t parameters() const {
    int64_t count = 0;
    for (int k = 0; k < this->layers; ++k) count += (this->inputs(k) + 1) * this->channels[k];
    return count;
  }
};

// Channels that a warp computes at a time: as few as keep all warps busy, and not more than fit in registers.
EK_HD int chunk_of(int channels) { return channels <= 2 * kChainWarps ? 2 : channels <= 4 * kChainWarps ? 4 : 8; }

// Columns: a channel of a tile is `tile` numbers, one per edge, and a pack more against bank conflicts.
template <class T>
struct ChainRoom {
  static constexpr int kPack = 16 / int(sizeof(T));
  static EK_HD int packed(int count) { return (count + kPack - 1) / kPack * kPack; }

  int weights = 0;  // W_k [outputs, inputs as packs] and b_k, and what products read behind them
  int input = 0;    // columns: of the first layer
  int kept = 0;     // backward: what activations are applied to, and LayerNorm's scales
  int work = 0;     // two times

  template <class X>
  ChainRoom(const EdgeNetworkArgs<T, X>& args, bool backward) {
    input = int(args.inputs(0));
    work = input > 1 ? input : 1;
    int read = 0;  // whole chunks of outputs, or of inputs
    for (int k = 0; k < args.layers; ++k) {
      const int out = int(args.channels[k]), in = int(args.inputs(k)), row = packed(in);
      read = most(read, weights + most(most(chunks(out) * row, out * row + chunks(out)), (out - 1) * row + chunks(in)));
      weights += out * row + packed(out);
      if (backward) kept += out + args.step[k].norm;
      work = most(work, out);
    }
    weights = most(weights, packed(read));
    if (args.x) {  // coordinates, one by one, in float64
      work = most(work, args.dim * int(sizeof(double) / sizeof(T)));
    }
    if (!backward) input = 0;  // it is one of the two
  }

  int64_t bytes(int tile, bool shared_weights) const {
    const int64_t ids = (2 * kWindow + 2 + 2 * tile) * int64_t(sizeof(int64_t)) + tile * int64_t(sizeof(int32_t));
    const int64_t columns = int64_t(input + kept + 2 * work) * (tile + kPack);
    return ids + (columns + (shared_weights ? weights : 0)) * int64_t(sizeof(T));
  }

 private:
  static int most(int a, int b) { return a > b ? a : b; }
  static int chunks(int channels) {
    return (channels + chunk_of(channels) - 1) / chunk_of(channels) * chunk_of(channels);
  }
};

// A kernel that is compiled: edges of a lane, and where weights are read.
template <int kEdgesPerLane, bool kSharedWeights>
struct ChainForm {
  static constexpr int per_lane = kEdgesPerLane;
  static constexpr bool shared_weights = kSharedWeights;
};

// f(form), the first for which a block's shared memory suffices, of `most` bytes; false where none does. Tiles are as
// large as leave enough of them to fill the GPU: fill(tile) says whether.
template <class T, class Fill, class F>
bool with_chain_form(const ChainRoom<T>& room, int64_t most, Fill&& fill, F&& f) {
  const int64_t fair = most < kFairChainShared ? most : kFairChainShared;
  const auto tried = [&](auto form, int64_t limit, bool smallest) {
    if (room.bytes(32 * form.per_lane, form.shared_weights) > limit) return false;
    if (!smallest && !fill(int64_t(32) * form.per_lane)) return false;
    f(form);
    return true;
  };
  if constexpr (sizeof(T) == 4)
    return tried(ChainForm<4, true>{}, fair, false) || tried(ChainForm<2, true>{}, fair, false) ||
           tried(ChainForm<2, false>{}, fair, false) || tried(ChainForm<1, true>{}, fair, true) ||
           tried(ChainForm<1, false>{}, most, true);
  else
    return tried(ChainForm<2, true>{}, fair, true) || tried(ChainForm<1, false>{}, most, true);
}

// f(form) for a network and its edges.
template <class T, class F>
bool with_chain_form(const ChainArgs<T>& args, const ChainRoom<T>& room, F&& f) {
  const auto fill = [&](int64_t tile) { return tiles_fill(args.items(), tile, args.rows >= 0); };
  return with_chain_form(room, args.most_shared, fill, f);
}

template <class T>
cudaError_t edge_network_forward_cuda(const ChainArgs<T>& args, cudaStream_t stream);
template <class T>
cudaError_t edge_network_backward_cuda(const ChainArgs<T>& args, cudaStream_t stream);

}  // namespace ek
