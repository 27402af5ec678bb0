// Passes over a tile of edges: which they are, and what the coordinates at both ends make of them. X: of the
// coordinates.
#pragma once

#include "channels/message.h"
#include "edge_sums.h"
#include "tile_sums.h"

namespace ek {

// The edges of slots first .. first + rows - 1, by receiver.
struct TileEdges {
  GraphView graph;
  int64_t first = 0, rows = 0;
  int64_t *receiver = nullptr, *sender = nullptr, *edge = nullptr;

  // The last k with ptr[k] <= slot, of which there are `count`.
  static EK_RUN int64_t find(const int64_t* ptr, int64_t count, int64_t slot) {
    int64_t lo = 0, hi = count;
    while (hi - lo > 1) {
      const int64_t mid = lo + (hi - lo) / 2;
      (ptr[mid] <= slot ? lo : hi) = mid;
    }
    return lo;
  }
  template <int kStep>
  EK_RUN void run(int64_t group, int64_t thread) const {
    const int64_t end = rows < (group + 1) * kTileThreads ? rows : (group + 1) * kTileThreads;
    for (int64_t r = group * kTileThreads + thread; r < end; r += kStep) {
      const int64_t slot = first + r;
      if (!graph.complete()) {
        receiver[r] = find(graph.in.ptr, graph.num_nodes, slot);
        sender[r] = graph.in.other[slot];
        edge[r] = graph.in.edge[slot];
        continue;
      }
      const int64_t event = find(graph.edge_ptr, graph.num_events, slot), node0 = graph.ptr[event];
      const int64_t width = graph.ptr[event + 1] - node0 - (graph.self_loops ? 0 : 1);
      const int64_t p = (slot - graph.edge_ptr[event]) / width, q = (slot - graph.edge_ptr[event]) % width;
      receiver[r] = node0 + p;
      sender[r] = node0 + q + (!graph.self_loops && q >= p);
      edge[r] = slot;
    }
  }
};

// What both ends' coordinates make of an edge.
template <class T, class X>
struct TileGeometry {
  EdgeColumns<T, X> columns;
  Direction direction = Direction::difference;
  double norm_inside = 0, norm_offset = 0, clamp = __builtin_inf();
  int64_t rows = 0;
  const int64_t *receiver = nullptr, *sender = nullptr, *edge = nullptr;

  // d_ij, and what x_i - x_j is divided by in it
  EK_RUN double directions(int64_t i, int64_t j, double* d) const {
    double norm = 1;
    if (has_norm(direction)) norm = sqrt(columns.both(i, j).interval() + norm_inside) + norm_offset;
    for (int c = 0; c < kMaxDim; ++c) {
      if (c >= columns.dim) continue;
      const double b = double(columns.x[j * columns.dim + c]);
      d[c] = direction == Direction::sender ? b : (double(columns.x[i * columns.dim + c]) - b) / norm;
    }
    return norm;
  }
  template <int kStep, class F>
  EK_RUN void over(int64_t group, int64_t thread, F&& f) const {
    const int64_t end = rows < (group + 1) * kTileThreads ? rows : (group + 1) * kTileThreads;
    for (int64_t r = group * kTileThreads + thread; r < end; r += kStep) f(r, receiver[r], sender[r]);
  }
};

// u_ij
template <class T, class X>
struct TileInputs {
  TileGeometry<T, X> geometry;
  int columns = 0;
  T* out = nullptr;  // [rows, columns]

  template <int kStep>
  EK_RUN void run(int64_t group, int64_t thread) const {
    geometry.template over<kStep>(group, thread, [&](int64_t r, int64_t i, int64_t j) {
      double invariant[2] = {};
      if (geometry.columns.invariants() > 0) geometry.columns.products(i, j, invariant);
      for (int k = 0; k < columns; ++k)
        out[r * columns + k] = T(geometry.columns.column(invariant, geometry.edge[r], k));
    });
  }
};

// clamp(t_ij d_ij)
template <class S, class T, class X>
struct TileSteps {
  TileGeometry<T, X> geometry;
  const S* t = nullptr;   // [rows]
  double* out = nullptr;  // [rows, dim]

  template <int kStep>
  EK_RUN void run(int64_t group, int64_t thread) const {
    geometry.template over<kStep>(group, thread, [&](int64_t r, int64_t i, int64_t j) {
      double d[kMaxDim] = {};
      geometry.directions(i, j, d);
      const double weight = double(widen(t[r])), bound = geometry.clamp;
      for (int c = 0; c < kMaxDim; ++c) {
        if (c >= geometry.columns.dim) continue;
        const double y = weight * d[c];
        out[r * geometry.columns.dim + c] = y > bound ? bound : y < -bound ? -bound : y;
      }
    });
  }
};

// Backward of both. First the gradient of t; at the end, given that of u_ij, what reaches the coordinates.
template <class S, class T, class X>
struct TilePull {
  TileGeometry<T, X> geometry;
  const S* t = nullptr;       // [rows], or null: no gradient of the coordinates' update
  const X* seed = nullptr;    // [n, dim]
  S* grad_t = nullptr;        // [rows]; or, where null:
  const S* grad_u = nullptr;  // [rows, columns] or null
  int columns = 0;
  double *to_receiver = nullptr, *to_sender = nullptr;  // [rows, dim]

  template <int kStep>
  EK_RUN void run(int64_t group, int64_t thread) const {
    geometry.template over<kStep>(group, thread, [&](int64_t r, int64_t i, int64_t j) {
      const EdgeColumns<T, X>& x = geometry.columns;
      const int dim = x.dim;
      double d[kMaxDim] = {}, g[kMaxDim] = {}, sum = 0, norm = 1, weight = 0;
      if (t) {
        norm = geometry.directions(i, j, d);
        weight = double(widen(t[r]));
        for (int c = 0; c < kMaxDim; ++c) {
          if (c >= dim) continue;
          if (!(fabs(weight * d[c]) <= geometry.clamp)) continue;
          g[c] = double(seed[i * dim + c]);
          sum += g[c] * d[c];
        }
      }
      if (grad_t) return narrow(T(sum), grad_t[r]);
      const bool of_sender = geometry.direction == Direction::sender;
      double along = 0;  // what the norm itself passes on
      if (geometry.direction == Direction::normed && norm != geometry.norm_offset)
        along = sum / (norm - geometry.norm_offset);
      double slope[2] = {};
      if (grad_u && x.invariants() > 0) {
        double z[2] = {};
        x.products(i, j, z);
        for (int k = 0; k < 2; ++k)
          if (k < x.invariants()) slope[k] = double(widen(grad_u[r * columns + k])) / (x.psi ? 1 + fabs(z[k]) : 1);
      }
      const double to_interval = x.interval ? slope[0] : 0, to_product = x.interval ? slope[1] : slope[0];
      for (int c = 0; c < kMaxDim; ++c) {
        if (c >= dim) continue;
        double first = 0, second = of_sender ? g[c] * weight : 0;
        if (!of_sender && i != j) {  // of a self-loop x_i - x_j is 0, whatever x
          first = (g[c] / norm - along * x.metric[c] * d[c]) * weight;
          second = -first;
        }
        const double a = double(x.x[i * dim + c]), b = double(x.x[j * dim + c]);
        const double difference = 2 * to_interval * x.metric[c] * (a - b), product = to_product * x.metric[c];
        to_receiver[r * dim + c] = first + difference + product * b;
        to_sender[r * dim + c] = second - difference + product * a;
      }
    });
  }
};

// Every pass, for the files that compile them.
#define EK_TILE_PASSES_OF(EK_PASS, ...) \
  EK_PASS(TileLayer<__VA_ARGS__>)       \
  EK_PASS(TileSlope<__VA_ARGS__>)       \
  EK_PASS(TileThroughNorm<__VA_ARGS__>) \
  EK_PASS(TileGate<__VA_ARGS__>)        \
  EK_PASS(TileRowSums<__VA_ARGS__>)     \
  EK_PASS(TileSeed<__VA_ARGS__>)        \
  EK_PASS(TileStore<__VA_ARGS__>)       \
  EK_PASS(TileSums<__VA_ARGS__>)        \
  EK_PASS(TileMoments<__VA_ARGS__>)
#define EK_TILE_EDGE_PASSES_OF(EK_PASS, ...) \
  EK_PASS(TileSteps<__VA_ARGS__>)            \
  EK_PASS(TilePull<__VA_ARGS__>)
#define EK_EACH_TILE_PASS(EK_PASS)                      \
  EK_PASS(TileEdges)                                    \
  EK_PASS(TileMerge)                                    \
  EK_PASS(TileMergeMoments)                             \
  EK_PASS(TileMean<float>)                              \
  EK_PASS(TileMean<double>)                             \
  EK_PASS(TileNormFold<float>)                          \
  EK_PASS(TileNormFold<double>)                         \
  EK_PASS(TileInputs<float, float>)                     \
  EK_PASS(TileInputs<float, double>)                    \
  EK_PASS(TileInputs<double, double>)                   \
  EK_PASS(TileStore<double, float>)                     \
  EK_TILE_PASSES_OF(EK_PASS, float, float)              \
  EK_TILE_PASSES_OF(EK_PASS, double, double)            \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, float, float, float)  \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, float, float, double) \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, double, double, double)
// Of storage in 16 bits, on GPUs alone.
#define EK_EACH_HALF_TILE_PASS(EK_PASS)                    \
  EK_TILE_PASSES_OF(EK_PASS, BFloat16, float)              \
  EK_TILE_PASSES_OF(EK_PASS, Float16, float)               \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, BFloat16, float, float)  \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, BFloat16, float, double) \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, Float16, float, float)   \
  EK_TILE_EDGE_PASSES_OF(EK_PASS, Float16, float, double)

}  // namespace ek
