// message_passing a tile of edges at a time: edges in the receivers' order, from the first layer's tables, see tiles.h.
#pragma once

#include "edge_tile_passes.h"
#include "tiles.h"

namespace ek {

template <class Device, class S, class T, class X>
class EdgeTiles {
  using Net = Tiles<Device, S, T>;
  using Tile = typename Net::Tile;
  template <class V>
  static V* put(const Tensor& t) {
    return Net::template put<V>(t);
  }

 public:
  Net net;
  MessageArgs<T, X>
      a;              // but for layers: what is read, what is wanted, and gradients of tables, coordinates, attributes
  Tensor columns;     // T [width, K], K: invariants and attributes
  int64_t edges = 0;  // how many
  int edges_at = -1, messages_at = 0;
  T* grad_columns = nullptr;  // backward: added to, as gradients of tables; [width, K]

  EdgeTiles(const Tensor& like, const MessageArgs<T, X>& args, const Tensor& of_columns, int64_t count)
      : net(like), a(args), columns(of_columns), edges(count) {
    net.edges = true;
    net.more = 2 * inputs() * int64_t(sizeof(T)) + (7 * 8 + 3 * a.dim * 8);
  }

  void forward() {
    net.prepare(false);
    const auto first = [&](Tile& tile) { make(tile); };
    net.measure(edges, first);
    const Tensor moved = net.zeros({a.coordinates ? a.graph.num_nodes : 0, a.dim});
    net.over(edges, false, [&](Tile& tile) {
      make(tile);
      const Tensor t = net.run(tile, false, [&](size_t l, const Tensor& out) {
        if (int(l) == messages_at && a.messages) add_rows<S, T>(tile.receiver, nullptr, out, a.messages);
        if (int(l) == edges_at && a.edges) store(tile, out, 0, out.size(1), a.edges);
      });
      if (!a.coordinates) return;
      const Tensor steps = net.doubles({tile.rows, a.dim});
      TileSteps<S, T, X> p;
      p.geometry = geometry(tile);
      p.t = put<S>(t);
      p.out = put<double>(steps);
      threads(tile.rows, p);
      add_rows<double, double>(tile.receiver, nullptr, steps, put<double>(moved));
    });
    if (a.messages && a.mean_messages) mean(a.messages, a.messages, message_width());
    if (!a.coordinates) return;
    if (a.mean_coordinates) mean<double>(put<double>(moved), put<double>(moved), a.dim);
    round_to(moved, a.coordinates);
  }

  void backward() {
    net.prepare(true);
    const Tensor seeds = mean_of(a.grad_messages, a.mean_messages, net.like({1, 0}), message_width());
    const Tensor steps = mean_of(a.grad_coordinates, a.mean_coordinates, net.zeros({1, 0}), a.dim);
    const auto first = [&](Tile& tile) { make(tile); };
    const auto seed = [&](const Tile& tile, size_t l, const Tensor& g) { return seeded(tile, l, g); };
    net.measure_pull(edges, first, seed);
    const Tensor points = net.zeros({a.grad_x ? a.graph.num_nodes : 0, a.dim});
    net.over(edges, true, [&](Tile& tile) {
      make(tile);
      net.run(tile, true, [](size_t, const Tensor&) {});
      pull_first(tile, net.pull(tile, seed), points);
    });
    if (a.grad_x) round_to(points, a.grad_x);
    net.finish();
  }

 private:
  int64_t inputs() const { return columns.size(1); }
  int64_t message_width() const { return net.layers[size_t(messages_at)].width(); }

  // --- the first layer ---
  void make(Tile& tile) const {
    for (Tensor* t : {&tile.receiver, &tile.sender, &tile.edge})
      *t = uninitialised(columns, {tile.rows}, ScalarType::Long);
    TileEdges p;
    p.graph = a.graph;
    p.first = tile.begin;
    p.rows = tile.rows;
    p.receiver = put<int64_t>(tile.receiver);
    p.sender = put<int64_t>(tile.sender);
    p.edge = put<int64_t>(tile.edge);
    threads(tile.rows, p);
    tile.table[0] = a.receiver;
    tile.table[1] = a.sender;
    if (inputs() == 0) return;
    tile.u = net.like({tile.rows, inputs()});
    TileInputs<T, X> u;
    u.geometry = geometry(tile);
    u.columns = int(inputs());
    u.out = put<T>(tile.u);
    threads(tile.rows, u);
    if (net.was_kept) return;
    tile.product = net.like({tile.rows, columns.size(0)});
    Device::template linear<T>(tile.u, columns, std::nullopt, tile.product);
  }
  // From the gradient of z, not defined where it is 0.
  void pull_first(const Tile& tile, const Tensor& g, const Tensor& points) const {
    const auto [owner, order] = sorted(tile.sender);
    Tensor to_u;
    if (g.defined()) {
      add_rows<S, T>(tile.receiver, nullptr, g, a.grad_receiver);
      add_rows<S, T>(owner, put<int64_t>(order), g, a.grad_sender);
      if (inputs() > 0) {
        net.add_outer(g, net.stored(tile.u), grad_columns);
        to_u = net.room({tile.rows, inputs()});
        Device::template product<S>(g, net.stored(columns), to_u);
        if (a.grad_edge_attr) store(tile, to_u, a.invariants(), a.edge_width, a.grad_edge_attr);
      }
    }
    const bool invariants = to_u.defined() && a.invariants() > 0;
    if (!a.grad_x || !(invariants || a.grad_coordinates)) return;
    const Tensor to[2] = {net.doubles({tile.rows, a.dim}), net.doubles({tile.rows, a.dim})};
    auto p = pulling(tile);
    p.grad_u = invariants ? put<S>(to_u) : nullptr;
    p.columns = int(inputs());
    p.to_receiver = put<double>(to[0]);
    p.to_sender = put<double>(to[1]);
    threads(tile.rows, p);
    add_rows<double, double>(tile.receiver, nullptr, to[0], put<double>(points));
    add_rows<double, double>(owner, put<int64_t>(order), to[1], put<double>(points));
  }

  // --- geometry ---
  TileGeometry<T, X> geometry(const Tile& tile) const {
    TileGeometry<T, X> g;
    g.columns.x = a.x;
    g.columns.dim = a.dim;
    for (int c = 0; c < a.dim; ++c) g.columns.metric[c] = a.metric[c];
    g.columns.interval = a.interval;
    g.columns.product = a.product;
    g.columns.psi = a.psi;
    g.columns.edge_attr = a.edge_attr;
    g.columns.edge_width = a.edge_width;
    g.direction = a.direction;
    g.norm_inside = a.norm_inside;
    g.norm_offset = a.norm_offset;
    g.clamp = a.clamp;
    g.rows = tile.rows;
    g.receiver = put<int64_t>(tile.receiver);
    g.sender = put<int64_t>(tile.sender);
    g.edge = put<int64_t>(tile.edge);
    return g;
  }
  TilePull<S, T, X> pulling(const Tile& tile) const {
    TilePull<S, T, X> p;
    p.geometry = geometry(tile);
    if (a.grad_coordinates) p.t = put<S>(tile.out.back());
    p.seed = a.grad_coordinates;
    return p;
  }

  // What reaches the output of a layer from outside, added to g.
  Tensor seeded(const Tile& tile, size_t l, Tensor g) const {
    if (l + 1 == net.layers.size() && a.grad_coordinates) {
      g = net.room({tile.rows, 1});
      auto p = pulling(tile);
      p.grad_t = put<S>(g);
      threads(tile.rows, p);
    }
    TileSeed<S, T> p;
    p.nodes = int(l) == messages_at ? a.grad_messages : nullptr;
    p.edges = int(l) == edges_at ? a.grad_edges : nullptr;
    if (!p.nodes && !p.edges) return g;
    p.width = net.layers[l].width();
    p.add = g.defined();
    if (!p.add) g = net.room({tile.rows, p.width});
    p.receiver = put<int64_t>(tile.receiver);
    p.edge = put<int64_t>(tile.edge);
    p.grad = put<S>(g);
    net.pass(tile.rows, p.width, p);
    return g;
  }

  // --- rows, edges and nodes ---
  template <class Pass>
  void threads(int64_t rows, const Pass& p) const {
    net.pass(tile_groups(rows, kTileThreads), kTileThreads * 64, p);
  }
  template <class From, class To>
  void add_rows(const Tensor& owner, const int64_t* order, const Tensor& rows, To* to) const {
    TileRowSums<From, To> p;
    p.rows = rows.size(0);
    p.width = rows.size(1);
    p.owner = put<int64_t>(owner);
    p.order = order;
    p.from = put<From>(rows);
    p.to = to;
    net.pass(p.rows, p.width, p);
  }
  void store(const Tile& tile, const Tensor& rows, int64_t at, int64_t count, T* to) const {
    TileStore<S, T> p;
    p.count = count;
    p.stride = rows.size(1);
    p.from = put<S>(rows) + at;
    p.edge = put<int64_t>(tile.edge);
    p.to = to;
    net.pass(tile.rows, count, p);
  }
  template <class V>
  void mean(const V* from, V* to, int64_t width) const {
    TileMean<V> p;
    p.graph = a.graph;
    p.width = width;
    p.from = from;
    p.to = to;
    net.pass(a.graph.num_nodes, width, p);
  }
  // A cotangent of means as one of sums; the room it takes is returned.
  template <class V>
  Tensor mean_of(const V*& cotangent, bool is_mean, const Tensor& like, int64_t width) const {
    if (!cotangent || !is_mean) return like;
    const ScalarType type = sizeof(V) == 4 ? ScalarType::Float : ScalarType::Double;
    const Tensor out = uninitialised(like, {a.graph.num_nodes, width}, type);
    mean<V>(cotangent, put<V>(out), width);
    cotangent = put<V>(out);
    return out;
  }
  void round_to(const Tensor& sums, X* to) const {
    TileStore<double, X> p;
    p.count = p.stride = a.dim;
    p.from = put<double>(sums);
    p.to = to;
    net.pass(sums.size(0), a.dim, p);
  }
};

}  // namespace ek
