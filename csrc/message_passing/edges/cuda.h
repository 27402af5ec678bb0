// How the edge network reaches CUDA.
#pragma once

#include "../../core/tensor.h"
#include "chain.h"

namespace ek {

template <class Device>
struct EdgeNetworkOnCuda : Device {
  template <class T, class X>
  static void edge_network_forward(const Tensor& on, const EdgeNetworkArgs<T, X>& args) {
    ChainArgs<T> chain(args);
    const Tensor packed = prepare(on, chain, false);
    Device::launch(on, [&](auto stream) { return edge_network_forward_cuda(chain, stream); });
  }

  template <class T, class X>
  static void edge_network_backward(const Tensor& on, const EdgeNetworkArgs<T, X>& args) {
    ChainArgs<T> chain(args);
    const Tensor packed = prepare(on, chain, true);
    const int64_t edges = args.rows >= 0 ? 0 : args.graph.num_edges;
    Tensor shares = uninitialised(on, {chain.blocks, chain.parameters()});
    Tensor grad_end = uninitialised(on, {args.grad_sender ? edges : 0, args.width});
    Tensor grad_points = uninitialised(on, {args.grad_x ? edges : 0, args.dim}, ScalarType::Double);
    chain.shares = shares.mutable_data_ptr<T>();
    if (args.grad_sender) chain.grad_end = grad_end.mutable_data_ptr<T>();
    if (args.grad_x) chain.grad_points = grad_points.mutable_data_ptr<double>();
    Device::launch(on, [&](auto stream) { return edge_network_backward_cuda(chain, stream); });
  }

 private:
  static int64_t most_shared(const Tensor& on) {
    SharedLimits limits;
    Device::launch(on, [&](auto) { return shared_limits(limits); });
    return limits.block;
  }

  // Shares edges out among blocks; returns the room for packed weights, empty where shared memory has it.
  template <class T>
  static Tensor prepare(const Tensor& on, ChainArgs<T>& args, bool backward) {
    const ChainRoom<T> room(args, backward);
    const bool rows = args.rows >= 0;
    int64_t packed = 0;
    args.most_shared = most_shared(on);
    const bool fits = with_chain_form(args, room, [&](auto form) {
      const auto s = chain_schedule(rows ? args.rows : args.graph.num_nodes, args.items(), 32 * form.per_lane, rows,
                                    kMostChainBlocks[backward]);
      args.per_block = s.per_block;
      args.blocks = s.blocks;
      if (!form.shared_weights) packed = room.weights;
    });
    STD_TORCH_CHECK(fits, "edge_network: network: more layers, or wider ones, than shared memory has room for");
    Tensor weights = uninitialised(on, {packed});
    args.packed = weights.mutable_data_ptr<T>();
    return weights;
  }
};

}  // namespace ek
