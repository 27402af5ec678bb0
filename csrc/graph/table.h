// A graph's table from its edges: CSR by receiver and its transpose, each a counting sort, O(edges + nodes).
#pragma once

#include <algorithm>
#include <atomic>
#include <utility>

#include "../core/cpu.h"

namespace ek {

// Slots of one side: edges grouped by `end`, in their own order. ptr [num_nodes + 1], other and edge [num_edges].
// False where an end is no node.
inline bool group_by(const int64_t* end, const int64_t* from, int64_t num_nodes, int64_t num_edges, int64_t* ptr,
                     int64_t* other, int64_t* edge) {
  std::fill_n(ptr, num_nodes + 1, int64_t(0));
  for (int64_t e = 0; e < num_edges; ++e) {
    if (end[e] < 0 || end[e] >= num_nodes) return false;
    ++ptr[end[e] + 1];
  }
  // ptr[i + 1] is the next free slot of i until its last edge has come, and then the first of i + 1.
  int64_t before = 0;
  for (int64_t i = 0; i < num_nodes; ++i) before += std::exchange(ptr[i + 1], before);
  for (int64_t e = 0; e < num_edges; ++e) {
    const int64_t slot = ptr[end[e] + 1]++;
    other[slot] = from[e];
    edge[slot] = e;
  }
  return true;
}

inline Tensor edge_table(const Tensor& edge_index, int64_t num_nodes) {
  const char* op = "edge_table";
  STD_TORCH_CHECK(edge_index.scalar_type() == ScalarType::Long, op, ": edge_index: expected int64");
  check_shape(edge_index, op, "edge_index", {2, -1});
  STD_TORCH_CHECK(num_nodes >= 0, op, ": num_nodes: expected at least 0, got ", num_nodes);
  const Tensor edges = as_contiguous(edge_index);
  const int64_t count = edges.size(1), side = num_nodes + 1 + 2 * count;
  Tensor table = uninitialised(edges, {2 * side});
  const int64_t* ends = edges.const_data_ptr<int64_t>();
  int64_t* out = table.mutable_data_ptr<int64_t>();
  std::atomic<bool> valid{true};
  const auto make = [&](int64_t k) {  // 0: by receiver, 1: by sender
    int64_t* ptr = out + k * side;
    int64_t *other = ptr + num_nodes + 1, *edge = other + count;
    if (!group_by(ends + (1 - k) * count, ends + k * count, num_nodes, count, ptr, other, edge)) valid = false;
  };
  constexpr int64_t kGrain = 4096;  // edges below which a second thread costs more than it brings
  if (count < kGrain) {
    make(0);
    make(1);
  } else {
    Cpu::over_items(2, [&](Queue& queue) {
      for (int64_t k; queue.take(k);) make(k);
    });
  }
  STD_TORCH_CHECK(valid, op, ": edge_index: expected indices in [0, ", num_nodes, "), got others");
  return table;
}

}  // namespace ek
