// How message_passing and row_mlp reach CUDA. Products over nodes are PyTorch's own.
#pragma once

#include "channels/cuda.h"
#include "edges/cuda.h"
#include "op.h"
#include "rows_op.h"

namespace ek {

// A product by PyTorch, into out. Autocast lowers the precision of products, but not of those that have an out.
inline void multiply(const char* op, const Tensor& a, const Tensor& b, const Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // out again, which the stack owns
}

template <class Device>
struct MessagePassingOnCuda : Device {
  using Channels = MessageOnCuda<Device>;
  using Edges = EdgeNetworkOnCuda<Device>;

  // A tile of edges has to fit in registers, the weights in a block's shared memory.
  static std::string channels_limit(const EdgeMlpOptions&, const EdgeMlpShape& s) {
    if (s.bytes != 4) return "features other than float32";
    if (device_capability() < kMessageCudaCapability)
      return "a device of compute capability less than 8.0, whose tensor cores take no TF32";
    for (size_t l = 0; l < s.widths.size(); ++l)
      if (s.widths[l] > kMessageCudaWidth) return "a layer of more than 72 channels";
    return s.attributes > kMessageCudaEdgeWidth ? "more than 32 edge attributes" : "";
  }
  static std::string edges_limit(const EdgeMlpOptions& o, const EdgeMlpShape& s, bool tables) {
    return room_limit(s, tables ? o.invariants() + s.attributes : s.inputs, int(o.metric.size()));
  }
  static std::string lanes_limit(const EdgeMlpShape& s) { return room_limit(s, s.inputs, 0); }

  template <class Pass>
  static void pass(const Tensor& on, int64_t items, int64_t, const Pass& p) {
    Device::launch(on, [&](auto stream) { return pass_cuda(p, items, stream); });
  }
  // A block has an item: one long row is copied as many.
  template <class T>
  static void pass(const Tensor& on, int64_t items, int64_t, CopyColumns<T> p) {
    constexpr int64_t kRow = 1024;
    if (const int64_t rows = p.count / kRow; items == 1 && rows > 1) {
      pass(on, rows, kRow, CopyColumns<T>{p.from, p.to, kRow, kRow, kRow, p.add});
      p.from += rows * kRow;
      p.to += rows * kRow;
      p.count -= rows * kRow;
    }
    Device::launch(on, [&](auto stream) { return pass_cuda(p, items, stream); });
  }

  template <class X>
  static void moments(const Tensor& on, const MomentsArgs<X>& args, bool) {
    Device::launch(on, [&](auto stream) { return invariants_cuda(args, stream); });  // backward with grad_x
  }

  // out = x weight^T + bias; no bias in 16 bits
  template <class T>
  static void linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& out) {
    multiply("aten::mm", x, torch::stable::transpose(weight, 0, 1), out);
    if (!bias) return;
    if constexpr (sizeof(T) > 2) {
      T* to = static_cast<T*>(const_cast<void*>(out.const_data_ptr()));
      pass(x, x.size(0), weight.size(0), CopyColumns<T>{pointer<T>(bias), to, weight.size(0), 0, weight.size(0), true});
    }
  }
  // out = x weight
  template <class T>
  static void product(const Tensor& x, const Tensor& weight, const Tensor& out) {
    multiply("aten::mm", x, weight, out);
  }
  // out = x^T y
  template <class T>
  static void outer(const Tensor& x, const Tensor& y, const Tensor& out) {
    multiply("aten::mm", torch::stable::transpose(x, 0, 1), y, out);
  }
  template <class T>
  static void column_sum(const Tensor& x, const Tensor& out) {
    Tensor ones = uninitialised(x, {x.size(0)});
    multiply("aten::mv", torch::stable::transpose(x, 0, 1), torch::stable::fill_(ones, 1), out);
  }

 private:
  static std::string room_limit(const EdgeMlpShape& s, int64_t inputs, int dim) {
    const bool fits = s.bytes == 4 ? room<float>(s, inputs, dim) : room<double>(s, inputs, dim);
    return fits ? "" : "more layers, or wider ones, than a block's shared memory has room for";
  }
  template <class T>
  static bool room(const EdgeMlpShape& s, int64_t inputs, int dim) {
    const T here{};
    EdgeNetworkArgs<T, T> a;
    a.interval = a.product = false;
    a.edge_width = inputs;
    a.dim = dim;
    a.x = dim > 0 ? &here : nullptr;
    a.layers = int(s.widths.size());
    for (int l = 0; l < a.layers; ++l) {
      a.channels[l] = s.widths[size_t(l)];
      a.step[l].norm = true;  // at most
    }
    SharedLimits limits;
    if (shared_limits(limits) != cudaSuccess) limits.block = kUnaskedShared;
    return with_chain_form(ChainRoom<T>(a, true), limits.block, [](int64_t) { return true; }, [](auto) {});
  }
};

}  // namespace ek
