// Offsets of events on the host, in plain memory: what takes one pass over them, for batches of any size, without the
// start-up of an array library's operations, which take longer than the kernels of one event.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ek {

// The table of a complete graph of events from their offsets ptr [entries]: ptr itself, then the first edge of every
// event and their number. Returns that number; -1 where ptr does not start at 0, decreases or does not end at `nodes`,
// if that is not negative (the table is written all the same).
inline int64_t complete_table(const int64_t* ptr, int64_t entries, int64_t nodes, bool self_loops, int64_t* table) {
  std::copy(ptr, ptr + entries, table);  // checked and used is the copy
  uint64_t edges = 0;                    // unsigned: wrong offsets may overflow
  bool valid = table[0] == 0 && (nodes < 0 || table[entries - 1] == nodes);
  table[entries] = 0;
  for (int64_t b = 1; b < entries; ++b) {
    valid = valid && table[b] >= table[b - 1];
    const uint64_t nodes = uint64_t(table[b]) - uint64_t(table[b - 1]);
    edges += nodes * (self_loops ? nodes : nodes - 1);
    table[entries + b] = int64_t(edges);
  }
  return valid ? int64_t(edges) : -1;
}

// Events with k more rows in front of each: their table with self-loops, and for each of their rows, if source is
// given, where it lies in a list of the k rows followed by those of all events.
inline void prepended(const int64_t* ptr, int64_t entries, int64_t k, int64_t* table, int64_t* source) {
  uint64_t edges = 0;  // unsigned: see above
  table[0] = ptr[0];
  table[entries] = 0;
  for (int64_t b = 0; b + 1 < entries; ++b) {
    table[b + 1] = ptr[b + 1] + k * (b + 1);
    const uint64_t nodes = uint64_t(table[b + 1]) - uint64_t(table[b]);
    edges += nodes * nodes;
    table[entries + b + 1] = int64_t(edges);
    if (!source) continue;
    for (int64_t row = 0; row < k; ++row) *source++ = row;
    for (int64_t row = ptr[b]; row < ptr[b + 1]; ++row) *source++ = k + row;
  }
}

// Of the rows 0, step, 2 step, ... of p4 [rows, 4] = (E, px, py, pz): how many have E^2 - p^2 < -slack p^2.
template <class T>
int64_t spacelike(const T* p4, int64_t rows, int64_t step, double slack) {
  int64_t count = 0;
  for (int64_t i = 0; i < rows; i += step) {
    const double e = p4[4 * i], x = p4[4 * i + 1], y = p4[4 * i + 2], z = p4[4 * i + 3], p2 = x * x + y * y + z * z;
    count += e * e - p2 < -slack * p2;
  }
  return count;
}

}  // namespace ek
