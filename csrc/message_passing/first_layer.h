// The first layer as the kernels take it: tables of products over nodes where edges do not read both ends themselves,
// norms of given statistics folded into the layers before them, a measured one applied to the tables.
#pragma once

#include <algorithm>

#include "../invariants/moments.h"
#include "layer_ops.h"
#include "strategy.h"

namespace ek {

template <class Device>
class FirstLayer : protected LayerOps<Device, EdgeMlpInputs> {
  using Base = LayerOps<Device, EdgeMlpInputs>;

 protected:
  using Base::bias;
  using Base::copy;
  using Base::depth;
  using Base::doubles;
  using Base::empty;
  using Base::in;
  using Base::pass;
  using Base::weight;
  using Base::zeros;
  using typename Base::Optional;
  using typename Base::Optionals;
  template <class T>
  static T* put(const Tensor& t) {
    return Base::template put<T>(t);
  }

  const EdgeMlpOptions& o = in.options;
  bool channels, tables, tiles;
  GraphView graph;
  int64_t n, width;  // nodes, channels of the first layer

  // The first layer as the kernels take it.
  Tensor ends[2];         // tables A, B [n, width]; of a measured norm before it
  Tensor normed[2];       // after it
  Tensor plain, columns;  // of W_1 for invariants and attributes [width, K], before and after a measured norm
  Tensor statistics, running[2],
      state;  // of a measured norm: mean and variance, as running averages want them, its sums

  FirstLayer(const Optionals& tensors, const Tensor& table, int64_t num_edges, int64_t kind,
             const std::vector<int64_t>& ints, const std::vector<double>& numbers)
      : Base(tensors, table, num_edges, kind, EdgeMlpOptions(ints, numbers)), n(in.nodes()), width(in.width(0)) {
    tiles = Plan(o.plan) == Plan::tiles;  // runs on every device, whatever the plan
    const EdgeMlpShape shape(in);
    const Planned planned = tiles ? Planned{Plan::tiles, tiles_limit(o, shape)} : plan_for<Device>(o, shape);
    STD_TORCH_CHECK(planned.limit.empty(), "message_passing: layers: no kernel for ", planned.limit);
    STD_TORCH_CHECK(planned.plan == Plan(o.plan),
                    "message_passing: options: expected the plan of message_passing_plan");
    channels = planned.plan == Plan::channels;
    tables = planned.plan != Plan::ends;
    graph = graph_view(table, n, num_edges, kind);
  }

  int64_t inputs() const { return weight[0].size(1); }
  int64_t invariants() const { return in.part_width[kInvariantsPart]; }
  int64_t attributes() const { return in.part_width[kAttributesPart]; }
  int64_t bound() const { return invariants() + attributes(); }  // K
  // f(part, its columns in `columns`) for the invariants and the attributes
  template <class F>
  void over_columns(F&& f) const {
    if (invariants() > 0) f(kInvariantsPart, int64_t(0));
    if (attributes() > 0) f(kAttributesPart, invariants());
  }

  // U or V [width, features], contiguous.
  template <class T>
  Tensor end_weight(EdgePart part) const {
    Tensor w = empty({width, in.part_width[part]});
    copy(put<T>(weight[0]) + in.column[part], inputs(), put<T>(w), in.part_width[part], width, in.part_width[part]);
    return w;
  }

  // --- the first layer ---
  template <class T>
  void make_tables() {
    for (EdgePart part : {kReceiverPart, kSenderPart}) {
      Tensor& table = ends[part];
      table = empty({n, width});
      const Optional b = part == kReceiverPart ? bias[0] : std::nullopt;
      if (o.has(part)) {
        Device::template linear<T>(*in.h, end_weight<T>(part), b, table);
      } else {
        const Tensor row = b ? *b : zeros({width});
        copy(put<T>(row), 0, put<T>(table), width, n, width);
      }
    }
  }
  template <class T>
  void take_columns() {
    plain = empty({width, bound()});
    over_columns([&](EdgePart part, int64_t at) {
      copy(put<T>(weight[0]) + in.column[part], inputs(), put<T>(plain) + at, bound(), width, in.part_width[part]);
    });
    columns = plain;
    normed[0] = ends[0], normed[1] = ends[1];
  }

  // A measured norm: `state` outlives the call, `room` is for the passes of this one.
  template <class T>
  EdgeNormArgs<T> norm_args(Tensor& room) const {
    const LayerTensors& t = in.layers[0];
    const int64_t K = bound();
    EdgeNormArgs<T> a;
    a.graph = graph;
    a.width = width;
    a.columns = int(K);
    a.receiver = put<T>(ends[0]);
    a.sender = put<T>(ends[1]);
    a.ends = o.has(kReceiverPart) || o.has(kSenderPart);
    a.weight = put<T>(plain);
    a.gamma = pointer<T>(t.norm_weight);
    a.beta = pointer<T>(t.norm_bias);
    a.eps = o.layers[0].eps;
    a.mean = put<double>(statistics);
    a.variance = a.mean + width;
    double* p = put<double>(state);
    for (double** row : {&a.mean_a, &a.mean_b, &a.scale, &a.shift}) *row = p, p += width;
    a.columns_mean = p, p += K;
    a.gram = p, p += K * K;
    a.received = p, p += n * K;
    a.sent = p;
    const int64_t partial = a.chunks() * std::max<int64_t>({2 * width, K * width, K * K});
    room = doubles({partial + (K + 2 * a.sums() + 2) * width + K * K + K + 2 * n * K});
    p = put<double>(room);
    const auto take = [&](double*& row, int64_t count) { row = p, p += count; };
    take(a.partial, partial);
    take(a.transposed, K * width);
    take(a.sum_a, a.sums() * width);
    take(a.sum_b, a.sums() * width);
    take(a.grad_mean, width);
    take(a.grad_variance, width);
    take(a.pull, K * K + K);
    take(a.node_pull, 2 * n * K);
    return a;
  }
  template <class T, class X>
  EdgeColumns<T, X> edge_columns() const {
    EdgeColumns<T, X> c;
    c.x = pointer<X>(in.x);
    c.dim = int(o.metric.size());
    for (size_t k = 0; k < o.metric.size(); ++k) c.metric[k] = o.metric[k];
    c.interval = invariants() > 0 && o.interval;
    c.product = invariants() > 0 && o.product;
    c.psi = o.psi;
    c.edge_attr = attributes() > 0 ? pointer<T>(in.edge_attr) : nullptr;
    c.edge_width = attributes();
    return c;
  }
  template <class X>
  MomentsArgs<X> moments_args() const {
    MomentsArgs<X> m;
    m.graph = graph;
    m.x = pointer<X>(in.x);
    m.dim = int(o.metric.size());
    for (size_t k = 0; k < o.metric.size(); ++k) m.metric[k] = o.metric[k];
    m.psi = o.psi;
    return m;
  }

  template <class T>
  void apply_norm(EdgeNormArgs<T> a) {
    for (Tensor& t : normed) t = empty({n, width});
    a.table[0] = put<T>(normed[0]);
    a.table[1] = put<T>(normed[1]);
    pass(a.chunks(), a.chunk() * width, NormTables<T>{a});
    pass(width, bound(), NormColumns<T>{a});
  }
  template <class T, class X>
  void measure_norm() {
    const int64_t K = bound();
    state = doubles({4 * width + K + K * K + 2 * n * K});
    statistics = uninitialised(in.like(), {2, width}, ScalarType::Double);
    for (Tensor& t : running) t = empty({width});
    columns = empty({width, K});
    Tensor room;
    EdgeNormArgs<T> a = norm_args<T>(room);
    a.folded = put<T>(columns);
    a.unbiased[0] = put<T>(running[0]);
    a.unbiased[1] = put<T>(running[1]);
    const int64_t chunk_work = a.chunk() * width;
    if (attributes() > 0) {
      pass(a.chunks(), a.chunk() * 64, EdgeSums<T, X>{a, edge_columns<T, X>()});
      pass(1, 1, FinishGram<T>{a});
    } else if (K > 0) {
      const Tensor moments = doubles({n * kMoments});
      MomentsArgs<X> m = moments_args<X>();
      m.out = put<double>(moments);
      Device::template moments<X>(in.like(), m, true);
      pass(n + 1, 8, SumsFromMoments<T>{a, m.out, o.interval, o.product});
    }
    pass(a.chunks(), chunk_work, NormMeans<T>{a});
    pass(1, width, NormFinishMeans<T>{a});
    if (a.ends) {
      pass(K, width, NormTranspose<T>{a});
      pass(a.sums(), width, NormSenders<T>{a});
      pass(a.chunks(), chunk_work, NormSquares<T>{a});
    }
    pass(1, width, NormFold<T>{a});
    apply_norm(a);
  }

  // As measure_norm left it, from `state`.
  template <class T>
  void renew_norm() {
    columns = empty({width, bound()});
    Tensor room;
    EdgeNormArgs<T> a = norm_args<T>(room);
    a.folded = put<T>(columns);
    apply_norm(a);
  }

  // Gradients around a measured norm.
  template <class T, class X>
  struct NormGradients {
    const Tensor* tables;  // two, of the normed tables on entry, of those before the norm afterwards
    Tensor columns;        // likewise
    const double* statistics = nullptr;
    T *gamma = nullptr, *beta = nullptr;
    X* x = nullptr;  // added to, as the next
    T* edge_attr = nullptr;
  };
  template <class T, class X>
  void norm_backward(const NormGradients<T, X>& g) {
    const int64_t K = bound();
    Tensor room;
    EdgeNormArgs<T> a = norm_args<T>(room);
    a.table[0] = put<T>(g.tables[0]);
    a.table[1] = put<T>(g.tables[1]);
    a.folded = put<T>(g.columns);
    a.grad_statistics = g.statistics;
    a.grad_gamma = g.gamma;
    a.grad_beta = g.beta;
    const int64_t chunk_work = a.chunk() * width;
    pass(a.chunks(), chunk_work, NormGradSums<T>{a});
    pass(1, width, NormGradFold<T>{a});
    if (a.ends) {
      pass(K, width, NormTranspose<T>{a});
      pass(a.sums(), width, NormSenders<T>{a});
      pass(a.sums(), width, NormReceivers<T>{a});
    }
    pass(a.chunks(), chunk_work, NormGradTables<T>{a});
    if (K == 0) return;
    pass(1, width, NormGradWeights<T>{a});
    if (!g.x && !g.edge_attr) return;
    pass(n, 2 * width, NormNodePull<T>{a});
    if (attributes() > 0) {
      pass(n, 1024, EdgePull<T, X>{a, edge_columns<T, X>(), invariants() > 0 ? g.x : nullptr, g.edge_attr});
    } else if (g.x) {
      const Tensor moments = doubles({n * kMoments});
      MomentsArgs<X> m = moments_args<X>();
      const Tensor to_x = uninitialised(*in.x, in.x->sizes());
      m.grad_out = put<double>(moments);
      m.grad_x = put<X>(to_x);
      pass(n, 8, MomentsPull<T>{a, put<double>(moments), o.interval, o.product});
      Device::template moments<X>(in.like(), m, false);
      pass(n, m.dim, CopyColumns<X>{m.grad_x, g.x, m.dim, m.dim, m.dim, true});
    }
  }
};

}  // namespace ek
