// From tensors to the neighbour search, for any device.
#pragma once

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "../core/reader.h"
#include "neighbors.h"

namespace ek {

struct NeighborsInputs {
  Reader& in;
  Tensor x = in.next<Tensor>();
  GraphInputs graph{in};
  std::optional<double> radius = in.next<std::optional<double>>();
  std::vector<double> metric = in.next<std::vector<double>>();
  bool periodic = in.next<bool>();
  bool compensated = in.next<bool>();
  bool loop = in.next<bool>();
};

template <class Device>
struct Neighbors {
  // (node [n, k], distance squared [n, k])
  static std::tuple<Tensor, Tensor> nearest(Reader& in) {
    const NeighborsInputs inputs{in};
    const int64_t k = in.next<int64_t>();
    STD_TORCH_CHECK(k >= 1, "nearest_neighbors: k: expected at least 1");
    Search search("nearest_neighbors", inputs);
    const int64_t n = search.x.size(0);
    Tensor index = uninitialised(search.x, {n, k}, ScalarType::Long);
    Tensor square = uninitialised(search.x, {n, k});
    search.args.k = k;
    search.args.index = index.mutable_data_ptr<int64_t>();
    search.args.square = square.mutable_data_ptr<double>();
    search.select();
    return {index, square};
  }

  // (first [n + 1], node [E], distance squared [E]): those of node i are first[i] .. first[i + 1] - 1
  static std::tuple<Tensor, Tensor, Tensor> within(Reader& in) {
    const NeighborsInputs inputs{in};
    Search search("neighbors_within", inputs);
    const int64_t n = search.x.size(0);
    Tensor counts = torch::stable::new_zeros(search.x, {n + 1}, ScalarType::Long);
    search.args.count = counts.mutable_data_ptr<int64_t>() + 1;
    search.count();
    const Tensor first = running_sums(counts);
    int64_t found = 0;  // by which the outputs are made: on CUDA this waits for the device
    TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(torch::stable::select(first, 0, n).get(), &found));
    Tensor index = uninitialised(search.x, {found}, ScalarType::Long);
    Tensor square = uninitialised(search.x, {found});
    search.args.first = first.const_data_ptr<int64_t>();
    search.args.index = index.mutable_data_ptr<int64_t>();
    search.args.square = square.mutable_data_ptr<double>();
    search.select();
    return {first, index, square};
  }

 private:
  static Tensor running_sums(const Tensor& t) {
    std::array<StableIValue, 3> stack{torch::stable::detail::from(t), torch::stable::detail::from(int64_t(0)),
                                      torch::stable::detail::from(std::optional<ScalarType>())};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  }

  // The coordinates laid out for the kernels, and the arguments all of them share.
  struct Search {
    Tensor x, plane, node, last;
    std::vector<SlotOrder> order;
    std::vector<Strip> strip;
    NeighborsArgs args;

    Search(const char* op, const NeighborsInputs& inputs) : x(as_contiguous(inputs.x)) {
      const std::vector<double>& metric = inputs.metric;
      check_shape(x, op, "x", {-1, int64_t(metric.size())});
      STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
      STD_TORCH_CHECK(!inputs.periodic || metric.size() == 2, op, ": periodic: expected two coordinates");
      STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double, op, ": x: expected float64");
      STD_TORCH_CHECK(inputs.graph.kind != 0, op, ": graph: expected a complete graph");
      args.events = inputs.graph.view(x.size(0));
      args.dim = int(metric.size());
      args.loop = inputs.loop;
      args.limit = inputs.radius ? std::min(*inputs.radius * *inputs.radius, DBL_MAX) : DBL_MAX;
      std::copy(metric.begin(), metric.end(), args.metric);
      const bool unit = std::all_of(metric.begin(), metric.end(), [](double m) { return m == 1; });
      args.separation = inputs.periodic      ? Separation::periodic
                        : unit               ? Separation::euclidean
                        : inputs.compensated ? Separation::compensated
                                             : Separation::signature;

      if constexpr (Device::cuda)
        transpose();
      else
        arrange(op, inputs.periodic);
    }

    void count() const {
      typename Device::Guard guard(x);
      if constexpr (Device::cuda)
        Device::launch(x, [&](auto stream) { return neighbors_count_cuda(args, stream); });
      else
        run([](auto kernel, auto... a) { kernel.count(a...); });
    }
    void select() const {
      typename Device::Guard guard(x);
      if constexpr (Device::cuda)
        Device::launch(x, [&](auto stream) { return neighbors_select_cuda(args, stream); });
      else
        run([&](auto kernel, auto... a) { args.first ? kernel.within(a...) : kernel.nearest(a...); });
    }

   private:
    static constexpr int64_t kGrain = 16384;  // pairs below which a second thread costs more than it brings
    static constexpr int64_t kOrdered = 512;  // nodes from which on an event is worth putting in order
    static constexpr int64_t kInStrip = 1024;

    template <class F>
    void run(F&& f) const {
      Device::over_receivers(
          args.events,
          [&](auto isa, int64_t begin, int64_t end) { f(NeighborsCpu<decltype(isa)>{}, args, begin, end); }, kGrain);
    }

    void transpose() {
      plane = as_contiguous(torch::stable::transpose(x, 0, 1));
      for (int c = 0; c < args.dim; ++c) args.plane[c] = plane.const_data_ptr<double>() + c * x.size(0);
    }

    void arrange(const char* op, bool periodic) {
      const int64_t n = x.size(0), events = args.events.num_events, stride = n + NeighborsArgs::kSlack;
      STD_TORCH_CHECK(args.events.ptr[0] == 0 && args.events.ptr[events] == n, op, ": graph: expected ", n, " nodes");
      plane = uninitialised(x, {args.dim * stride});
      node = uninitialised(x, {n}, ScalarType::Long);
      last = uninitialised(x, {events}, ScalarType::Long);
      double* planes = plane.mutable_data_ptr<double>();
      for (int c = 0; c < args.dim; ++c) args.plane[c] = planes + c * stride;
      args.node = node.mutable_data_ptr<int64_t>();
      args.last = last.mutable_data_ptr<int64_t>();
      order.resize(size_t(events));
      int64_t strips = 0;
      for (int64_t b = 0; b < events; ++b) {
        order[size_t(b)].first = strips;
        strips += 1 + (args.events.ptr[b + 1] - args.events.ptr[b]) / kInStrip;
      }
      strip.resize(size_t(strips));
      args.order = order.data();
      args.strip = strip.data();
      const bool ordered = std::all_of(args.metric, args.metric + args.dim, [](double m) { return m >= 0; });
      Device::share(
          events, [&](int64_t b) { return args.events.ptr[b]; },
          [&](auto, int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) arrange(b, planes, stride, ordered, periodic);
          });
    }

    // Lays out one event: its nodes that are not finite last, the others, in a large event and under a metric that
    // is not indefinite, in strips along the coordinate that spreads most, each by the one that spreads most but for
    // it.
    void arrange(int64_t b, double* planes, int64_t stride, bool ordered, bool periodic) {
      const double* rows = x.const_data_ptr<double>();
      const int64_t begin = args.events.ptr[b], end = args.events.ptr[b + 1], dim = args.dim;
      int64_t* nodes = node.mutable_data_ptr<int64_t>();
      int64_t finite = begin, bad = end;
      for (int64_t i = begin; i < end; ++i) {
        bool good = true;
        for (int64_t c = 0; c < dim; ++c) good = good && std::isfinite(rows[i * dim + c]);
        nodes[good ? finite++ : --bad] = i;
      }
      last.mutable_data_ptr<int64_t>()[b] = finite;
      if (ordered && finite - begin >= kOrdered) put_in_order(order[size_t(b)], begin, finite, periodic ? 1 : dim);
      for (int64_t c = 0; c < dim; ++c)
        for (int64_t s = begin; s < end; ++s) planes[c * stride + s] = rows[nodes[s] * dim + c];
    }

    // By coordinates of the first `dim`.
    void put_in_order(SlotOrder& o, int64_t begin, int64_t end, int64_t dim) {
      const int64_t count = end - begin;
      o.along = o.across = widest(begin, end, dim, -1);
      o.strips = dim > 1 ? std::max<int64_t>(1, count / kInStrip) : 1;
      if (o.strips > 1) {
        o.across = widest(begin, end, dim, o.along);
        sort_by(o.along, begin, end);
      }
      const double* rows = x.const_data_ptr<double>();
      for (int64_t k = 0; k < o.strips; ++k) {
        Strip& s = strip[size_t(o.first + k)];
        s.begin = begin + count * k / o.strips;
        s.end = begin + count * (k + 1) / o.strips;
        s.low = rows[args.node[s.begin] * args.dim + o.along];
        s.high = rows[args.node[s.end - 1] * args.dim + o.along];
        sort_by(o.across, s.begin, s.end);
      }
    }
    void sort_by(int64_t coordinate, int64_t begin, int64_t end) {
      const double* rows = x.const_data_ptr<double>();
      int64_t* nodes = node.mutable_data_ptr<int64_t>();
      std::vector<std::pair<double, int64_t>> keys(size_t(end - begin));
      for (int64_t s = begin; s < end; ++s)
        keys[size_t(s - begin)] = {rows[nodes[s] * args.dim + coordinate], nodes[s]};
      std::sort(keys.begin(), keys.end());
      for (int64_t s = begin; s < end; ++s) nodes[s] = keys[size_t(s - begin)].second;
    }

    // The coordinate, of the first `dim` and another than `but`, with the largest variance under the metric.
    int64_t widest(int64_t begin, int64_t end, int64_t dim, int64_t but) const {
      const double* rows = x.const_data_ptr<double>();
      int64_t best = but == 0 ? 1 : 0;
      double most = -1;
      for (int64_t c = 0; c < dim; ++c) {
        if (c == but) continue;
        double sum = 0, square = 0;
        for (int64_t s = begin; s < end; ++s) sum += rows[args.node[s] * args.dim + c];
        for (int64_t s = begin; s < end; ++s) {
          const double d = rows[args.node[s] * args.dim + c] - sum / double(end - begin);
          square += d * d;
        }
        if (square * args.metric[c] > most) {
          most = square * args.metric[c];
          best = c;
        }
      }
      return best;
    }
  };
};

}  // namespace ek
