// How kernels share work out among blocks and warps: arithmetic on sizes, without CUDA, so that a CPU's tests can run
// it. What a device has enters only where the order of no sum depends on it.
#pragma once

#include <cstdint>

namespace ek {

// Blocks that fill a GPU: four for each multiprocessor of an H200. A constant, so that results do not depend on the
// device; the tests' emulator has a number of its own.
#if !defined(EK_FULL_GRID)
#define EK_FULL_GRID (4 * 132)
#endif
inline int64_t full_grid() { return EK_FULL_GRID; }

inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// --- lanes across channels: a warp owns nodes and walks over their edges in tiles of 16 ---------------------------

// Shared memory in bytes: what a block has once, what each of its warps has, what a block may have, and what a
// multiprocessor has.
struct WarpRoom {
  int64_t once, each, block, processor;
  int fewest, most;  // warps of a block; also, at most, of a multiprocessor
};

// Edges of a graph, a complete one of `events` included whose number of edges nobody has read from the device (0).
inline int64_t edges_expected(int64_t nodes, int64_t edges, int64_t events) {
  if (edges > 0 || events == 0) return edges;
  const int64_t degree = nodes / events;
  return nodes * (degree < 128 ? degree : 128);
}

struct MessageSchedule {
  int warps = 0;       // of a block; 0: a block's shared memory has no room for one
  int64_t nodes = 1;   // that a warp takes at a time
  int64_t groups = 0;  // of nodes, each of them a block's at a time
  int64_t shared = 0;  // bytes of a block
};

// Warps of a block: the fewest that fill a multiprocessor as well as the most do, and fewer where multiprocessors would
// have no block. Nodes of a warp: of about 128 edges, lest tiles stay half empty, but not so many that blocks do not
// fill the GPU.
inline MessageSchedule message_schedule(int64_t nodes, int64_t edges, const WarpRoom& room) {
  constexpr int64_t kReserved = 1024, kEdges = 128, kMostNodes = 64, kSchedulers = 4;
  const auto resident = [&](int warps) {
    const int64_t bytes = room.once + warps * room.each, blocks = room.processor / (bytes + kReserved);
    if (bytes > room.block) return int64_t(0);
    return warps * (blocks < 1 ? 1 : blocks < room.most / warps ? blocks : int64_t(room.most / warps));
  };
  MessageSchedule s;
  for (int warps = 1; warps <= room.most; ++warps)
    if (resident(warps) > (s.warps < room.fewest ? 0 : resident(s.warps))) s.warps = warps;
  if (s.warps == 0) return s;
  while (s.warps >= 2 * kSchedulers && nodes < full_grid() / 4 * s.warps) s.warps /= 2;
  const int64_t full = edges > 0 ? int64_t(double(kEdges) * double(nodes) / double(edges)) : kMostNodes;
  const int64_t warps = full_grid() * s.warps, fair = nodes / (warps < 1 ? 1 : warps);
  s.nodes = full < fair ? full : fair;
  s.nodes = s.nodes < 1 ? 1 : s.nodes > kMostNodes ? kMostNodes : s.nodes;
  s.groups = ceil_div(nodes, s.nodes * s.warps);
  s.shared = room.once + s.warps * room.each;
  return s;
}

// --- lanes across edges: a block owns receivers, or rows, and takes their edges by tiles --------------------------

// Edges that `tiles` of a block have on average: were the last one to be full, half the blocks would have one more.
inline int64_t edges_of_block(int64_t tile, int64_t tiles, bool rows) { return tile * tiles - (rows ? 0 : tile / 8); }

// Whether blocks of two such tiles fill the GPU; where they do not, smaller tiles do better.
inline bool tiles_fill(int64_t edges, int64_t tile, bool rows) {
  return edges / edges_of_block(tile, 2, rows) >= full_grid();
}

struct ChainSchedule {
  int64_t per_block = 1, blocks = 0;  // receivers, or rows, of a block
};

// Blocks have a tile each, two where that fills the GPU (receivers then fill them better), or more where there would
// be more than `most` blocks.
inline ChainSchedule chain_schedule(int64_t all, int64_t edges, int64_t tile, bool rows, int64_t most) {
  constexpr double kMostNodes = 128 * 64;
  const int64_t fewest = tiles_fill(edges, tile, rows) ? 2 : 1;
  const int64_t tiles = ceil_div(ceil_div(edges, most) + (rows ? 0 : tile / 8), tile);
  const double wanted = double(edges_of_block(tile, tiles < fewest ? fewest : tiles, rows));
  const double nodes = edges > 0 ? wanted * double(all) / double(edges) : kMostNodes;
  ChainSchedule s;
  s.per_block = int64_t(nodes < 1 ? 1 : nodes < kMostNodes ? nodes : kMostNodes);
  s.blocks = ceil_div(all, s.per_block);
  return s;
}

// --- pairs: a block owns some columns of an event's matrix ---------------------------------------------------------

// Columns of a thread, of `most` at most: fewer where events are too few to fill the GPU. `groups` threads share a row.
inline int panel_columns(int64_t nodes, int64_t events, int groups, int most) {
  const int64_t longest = events > 0 ? ceil_div(nodes, events) : 0;  // on average
  int columns = most;
  while (columns > 1 && events * ceil_div(longest, groups * columns) < full_grid()) columns /= 2;
  return columns;
}

}  // namespace ek
