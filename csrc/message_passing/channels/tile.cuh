// Tiles of 16 edges, one to a warp: which edges they are, what they need of the nodes at both ends, and how their rows
// are added to the nodes that own them.
#pragma once

#include "../../core/launch.cuh"
#include "../../invariants/device.cuh"
#include "message.h"

namespace ek {
namespace {

constexpr int kRows = 16;  // edges of a tile

// What a warp knows of the edges of its tile, in shared memory. owner: the node that the edge is listed with, -1 past
// the last edge; other: the node at its other end.
struct TileRows {
  int64_t owner[kRows], other[kRows], edge[kRows], degree[kRows];  // degree: edges that the receiver has
  bool last[kRows];                                                // of its owner
  int64_t node[kRows], slot[kRows], event[kRows];                  // where the walk over edges is: not in registers
  float invariant[2][kRows];
  float factor[kRows];
};

// Walks over the edges of the nodes [node, end), received or sent, one after another whatever their owner: row r of a
// tile over every 16th. Whole warps call both.
__device__ inline void start_walk(const GraphView& g, int64_t node, int64_t end, TileRows& rows) {
  __syncwarp();  // all have read the tile before
  const int r = lane();
  if (r >= kRows) return;
  rows.node[r] = node;
  rows.slot[r] = r;
  rows.event[r] = node < end && g.complete() ? g.event_of(node) : 0;
}
// Whether there are edges left; those of the next tile.
__device__ inline bool next_tile(const GraphView& g, bool receiving, int64_t end, TileRows& rows) {
  __syncwarp();
  const int r = lane();
  if (r < kRows) {
    int64_t node = rows.node[r], slot = rows.slot[r], event = rows.event[r];
    Row row;
    for (; node < end; ++node) {
      while (g.complete() && node >= g.ptr[event + 1]) ++event;
      row = receiving ? g.received(node, event) : g.sent(node, event);
      if (slot < row.count) break;
      slot -= row.count;
    }
    rows.node[r] = node;
    rows.event[r] = event;
    rows.slot[r] = slot + kRows;
    rows.owner[r] = node < end ? node : -1;
    rows.invariant[0][r] = rows.invariant[1][r] = 0.f;
    if (node < end) {
      const int64_t other = row.node(slot);
      rows.other[r] = other;
      rows.edge[r] = row.edge(slot);
      rows.last[r] = slot == row.count - 1;
      // in an event of a complete graph all nodes hear equally many
      rows.degree[r] = receiving || g.complete() ? row.count : g.received(other, 0).count;
    }
  }
  __syncwarp();
  return rows.owner[0] >= 0;
}

// Coordinates at both ends of an edge, and their products.
template <int kDim, class X>
struct Pair {
  double receiver[kDim] = {}, sender[kDim] = {};
  double interval = 0, product = 0;

  template <class T>
  __device__ Pair(const MessageArgs<T, X>& args, int64_t i, int64_t j) {
#pragma unroll
    for (int c = 0; c < kDim; ++c) {
      if (c >= args.dim) continue;
      receiver[c] = args.x[i * args.dim + c];
      sender[c] = args.x[j * args.dim + c];
    }
    invariants_of<kDim, X>(receiver, sender, args.metric, interval, product);
  }

  // What x_i - x_j is divided by on its way into d_ij.
  template <class T>
  __device__ double norm(const MessageArgs<T, X>& args) const {
    return has_norm(args.direction) ? sqrt(interval + args.norm_inside) + args.norm_offset : 1.0;
  }
  __device__ double direction(Direction kind, double norm, int c) const {
    return kind == Direction::sender ? sender[c] : (receiver[c] - sender[c]) / norm;
  }
};

// f(a number of coordinates as a constant, at least dim).
template <class F>
__device__ inline void with_room(int dim, F&& f) {
  if (dim <= 4)
    f(std::integral_constant<int, 4>{});
  else
    f(std::integral_constant<int, kMessageDim>{});
}

// s_ij of the tile's edges, a lane each. A whole warp calls it.
template <class T, class X>
__device__ inline void find_invariants(const MessageArgs<T, X>& args, bool receiving, TileRows& rows) {
  const int row = lane();
  if (args.interval || args.product) {
    if (row < kRows && rows.owner[row] >= 0)
      with_room(args.dim, [&](auto dim) {
        const int64_t i = receiving ? rows.owner[row] : rows.other[row];
        const Pair<dim, X> pair(args, i, receiving ? rows.other[row] : rows.owner[row]);
        const X z0 = X(pair.interval), z1 = X(pair.product);
        if (args.interval) rows.invariant[0][row] = float(args.psi ? psi(z0) : z0);
        if (args.product) rows.invariant[args.interval][row] = float(args.psi ? psi(z1) : z1);
      });
    __syncwarp();
  }
}

// Sums of rows by their owners, in the order of the edges, whatever tiles they come in: a lane has columns lane,
// lane + 32 and so on.
template <class T, class Out, int kColumns>
class OwnerSums {
 public:
  // more: on top of what is there.
  __device__ OwnerSums(Out* out, int width, bool mean, bool more = false)
      : out_(out), width_(width), mean_(mean), more_(more) {}

  // Owners without an edge have 0.
  __device__ void clear(int64_t node, int64_t end) const {
    for (; node < end; ++node)
#pragma unroll
      for (int v = 0; v < kColumns; ++v)
        if (column(v) < width_) out_[node * width_ + column(v)] = 0;
  }
  __device__ void add(const TileRows& rows, const T* tile, int stride) {
    for (int r = 0; r < kRows && rows.owner[r] >= 0; ++r) {
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        if (column(v) >= width_) continue;
        sum_[v] += tile[r * stride + column(v)];
        if (!rows.last[r]) continue;
        Out& out = out_[rows.owner[r] * width_ + column(v)];
        if (more_) sum_[v] += out;
        out = Out(mean_ ? sum_[v] / T(rows.degree[r]) : sum_[v]);
        sum_[v] = 0;
      }
    }
  }

 private:
  static __device__ int column(int v) { return lane() + v * kWarp; }

  Out* const out_;
  const int width_;
  const bool mean_, more_;
  T sum_[kColumns] = {};
};

}  // namespace
}  // namespace ek
