// From tensors to the segment kernels, for any device.
#pragma once

#include <tuple>

#include "../core/tensor.h"
#include "segment.h"

namespace ek {

template <class Device>
class Segment {
  using Optional = std::optional<Tensor>;

  // One call of a kernel: its tensors and its options.
  struct Call {
    SegmentKernel kernel;
    const char* op;
    Tensor source, out;
    Optional other{}, weight{}, arg{}, arg_out{};
    RowsOf rows = RowsOf::edges;
    bool mean = false, largest = true, per_channel = false;
  };

 public:
  static Tensor sum(const Tensor& source, Optional weight, Optional arg, const Tensor& graph, int64_t num_edges,
                    int64_t kind, int64_t num_nodes, int64_t rows, bool mean) {
    Call c{SegmentKernel::sum, "segment_sum", source, nodes(source, num_nodes)};
    c.weight = weight;
    c.arg = arg;
    c.rows = RowsOf(rows);
    c.mean = mean;
    check_reduced(c, num_edges, num_nodes);
    run(c, graph, num_nodes, num_edges, kind);
    return c.out;
  }

  static std::tuple<Tensor, Tensor> extremum(const Tensor& source, Optional weight, const Tensor& graph,
                                             int64_t num_edges, int64_t kind, int64_t num_nodes, int64_t rows,
                                             bool largest) {
    Call c{SegmentKernel::extremum, "segment_extremum", source, nodes(source, num_nodes)};
    c.weight = weight;
    c.arg_out = uninitialised(c.out, {num_nodes, source.size(1)}, ScalarType::Long);
    c.rows = RowsOf(rows);
    c.largest = largest;
    STD_TORCH_CHECK(c.rows != RowsOf::receivers, c.op, ": rows: expected 0 or 1");
    check_reduced(c, num_edges, num_nodes);
    run(c, graph, num_nodes, num_edges, kind);
    return {c.out, *c.arg_out};
  }

  static Tensor gather_to_edges(const Tensor& source, Optional arg, const Tensor& graph, int64_t num_edges,
                                int64_t kind) {
    Call c{SegmentKernel::gather_to_edges, "gather_to_edges", source, nodes(source, num_edges)};
    c.arg = arg;
    run(c, graph, source.size(0), num_edges, kind);
    return c.out;
  }

  static Tensor edge_dot(const Tensor& receivers, const Tensor& senders, Optional arg, const Tensor& graph,
                         int64_t num_edges, int64_t kind, bool per_channel) {
    Call c{SegmentKernel::edge_dot, "edge_dot", receivers, nodes(receivers, num_edges)};
    if (!per_channel) c.out = uninitialised(receivers, {num_edges});
    check_shape(senders, c.op, "senders", {receivers.size(0), receivers.size(1)});
    c.other = senders;
    c.arg = arg;
    c.per_channel = per_channel;
    run(c, graph, receivers.size(0), num_edges, kind);
    return c.out;
  }

  static Tensor softmax(const Tensor& values, const Tensor& graph, int64_t num_edges, int64_t kind, int64_t num_nodes) {
    Call c{SegmentKernel::softmax, "segment_softmax", values, nodes(values, num_edges)};
    check_shape(values, c.op, "values", {num_edges, -1});
    run(c, graph, num_nodes, num_edges, kind);
    return c.out;
  }

  static Tensor softmax_backward(const Tensor& grad, const Tensor& output, const Tensor& graph, int64_t num_edges,
                                 int64_t kind, int64_t num_nodes) {
    Call c{SegmentKernel::softmax_gradient, "segment_softmax_backward", grad, nodes(grad, num_edges)};
    check_shape(grad, c.op, "grad", {num_edges, -1});
    check_shape(output, c.op, "output", {num_edges, grad.size(1)});
    c.other = output;
    run(c, graph, num_nodes, num_edges, kind);
    return c.out;
  }

 private:
  // An output with the channels of a two-dimensional `like`.
  static Tensor nodes(const Tensor& like, int64_t rows) {
    STD_TORCH_CHECK(like.dim() == 2, "segment: expected two dimensions");
    return uninitialised(like, {rows, like.size(1)});
  }

  static void check_reduced(const Call& c, int64_t num_edges, int64_t num_nodes) {
    STD_TORCH_CHECK(int(c.rows) >= 0 && int(c.rows) <= 2, c.op, ": rows: expected 0, 1 or 2");
    check_shape(c.source, c.op, "source", {c.rows == RowsOf::edges ? num_edges : num_nodes, -1});
    STD_TORCH_CHECK(!c.weight || c.rows != RowsOf::edges, c.op, ": weight: expected none for rows of edges");
    if (!c.weight) return;
    if (c.weight->dim() == 1)
      check_shape(*c.weight, c.op, "weight", {num_edges});
    else
      check_shape(*c.weight, c.op, "weight", {num_edges, c.source.size(1)});
  }

  static void run(Call& c, const Tensor& graph, int64_t num_nodes, int64_t num_edges, int64_t kind) {
    typename Device::Guard guard(c.source);
    const auto type = c.source.scalar_type();
    if (c.arg) {
      check_shape(*c.arg, c.op, "arg", {num_nodes, c.source.size(1)});
      STD_TORCH_CHECK(c.arg->scalar_type() == ScalarType::Long, c.op, ": arg: expected int64");
      c.arg = as_contiguous(*c.arg);
    }
    c.source = as_contiguous(c.source);
    for (Optional* t : {&c.other, &c.weight}) {
      if (!*t) continue;
      STD_TORCH_CHECK((*t)->scalar_type() == type, c.op, ": expected tensors of one dtype");
      *t = as_contiguous(**t);
    }
    dispatch_stored(type, c.op, [&](auto zero) {
      using S = decltype(zero);
      auto pointer = [](const Optional& t) { return t ? static_cast<const S*>(t->const_data_ptr()) : nullptr; };
      SegmentArgs<S> args;
      args.graph = graph_view(graph, num_nodes, num_edges, kind);
      args.channels = c.source.size(1);
      args.source = pointer(c.source);
      args.other = pointer(c.other);
      args.weight = pointer(c.weight);
      args.arg = c.arg ? c.arg->template const_data_ptr<int64_t>() : nullptr;
      args.out = static_cast<S*>(c.out.mutable_data_ptr());
      args.arg_out = c.arg_out ? c.arg_out->template mutable_data_ptr<int64_t>() : nullptr;
      args.rows = c.rows;
      args.weights = !c.weight ? Weight::none : c.weight->dim() == 1 ? Weight::edge : Weight::channel;
      args.mean = c.mean;
      args.largest = c.largest;
      args.per_channel = c.per_channel;
      if constexpr (Device::cuda) {
        Device::launch(c.source, [&](auto stream) { return segment_cuda(c.kernel, args, stream); });
      } else if (c.kernel == SegmentKernel::gather_to_edges && !args.graph.complete() && !args.arg) {
        in_order_of_edges(c, args);
      } else {
        Device::over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
          SegmentCpu<decltype(isa), S>::run(c.kernel, args, begin, end);
        });
      }
    });
  }

  // A node's edges may lie anywhere: rows of edges are written faster one after the other, for which each edge's
  // receiver is looked up first.
  template <class S>
  static void in_order_of_edges(const Call& c, SegmentArgs<S>& args) {
    const GraphView& g = args.graph;
    Tensor receivers = uninitialised(c.source, {g.num_edges}, ScalarType::Long);
    int64_t* receiver = receivers.template mutable_data_ptr<int64_t>();
    Device::over_receivers(g, [&](auto, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t k = g.in.ptr[i]; k < g.in.ptr[i + 1]; ++k) receiver[g.in.edge[k]] = i;
    });
    args.receiver = receiver;
    Device::share(
        g.num_edges, [](int64_t e) { return e; },
        [&](auto isa, int64_t begin, int64_t end) { SegmentCpu<decltype(isa), S>::run(c.kernel, args, begin, end); });
  }
};

}  // namespace ek
