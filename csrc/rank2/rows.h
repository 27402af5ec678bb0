// Products of particles' rows with small matrices, the same numbers on any number of threads (a BLAS promises less):
//   product  out [rows, width] = x weight          outer  out [in, width] = x^T grad
// Each is made of the other's gradients.
#pragma once

#include <cstdint>

namespace ek {

template <class T>
struct RowsArgs {
  int64_t rows = 0, in = 0, width = 0;
  const T* x = nullptr;       // [rows, in]
  const T* weight = nullptr;  // product: [in, width]
  const T* grad = nullptr;    // outer: [rows, width]
  T* out = nullptr;
};

// Rows of a chunk of an outer product; chunks are summed in order.
inline int64_t outer_chunk(int64_t rows) {
  constexpr int64_t kLeast = 256, kMostChunks = 64;
  const int64_t even = (rows + kMostChunks - 1) / kMostChunks;
  return even > kLeast ? even : kLeast;
}

// CPU: the rows [begin, end).
template <class Isa, class T>
struct RowsCpu {
  static int64_t packed_size(const RowsArgs<T>& args);
  static void pack(const RowsArgs<T>& args, T* packed);
  static void product(const RowsArgs<T>& args, const T* packed, int64_t begin, int64_t end);

  static int64_t partial_size(const RowsArgs<T>& args);
  static int64_t scratch_size(const RowsArgs<T>& args);
  static void outer(const RowsArgs<T>& args, T* partial, T* scratch, int64_t begin, int64_t end);
  static void add_up(const RowsArgs<T>& args, const T* partials, int64_t chunks);
};

}  // namespace ek
