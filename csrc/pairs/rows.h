// Products of rows (particles, pairs) with small matrices, the same numbers on any number of threads (a BLAS promises
// less):
//   product  out [rows, width] = x weight          outer  out [in, width] = x^T grad
//   layer    out [rows, width] = act(x weight^T + bias), and the mean and variance of each of its channels
//   moments  mean and variance of each channel        affine  out [rows, channels] = scale x + shift, by channel
// The first two are each other's gradients. Of the layer, with G = act'(out) (grad + to_mean + to_out out):
//   grad_x = G weight,  grad_weight [width, in] = G^T x,  grad_bias = sum of G
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

template <class T>
struct RowsLayerArgs {
  int64_t rows = 0, in = 0, width = 0;
  const T* x = nullptr;       // [rows, in]
  const T* weight = nullptr;  // [width, in]
  const T* bias = nullptr;    // [width] or absent
  T slope = 1;
  T* out = nullptr;           // [rows, width]; of the backward pass an input
  double* moments = nullptr;  // mean [width], then biased variance [width], or absent
  const T* grad = nullptr;    // [rows, width] or absent, as the next two [width]
  const T *to_mean = nullptr, *to_out = nullptr;
  T *grad_x = nullptr, *grad_weight = nullptr, *grad_bias = nullptr;  // the last two together, or absent
};

template <class T>
struct RowMomentsArgs {
  int64_t rows = 0, channels = 0;
  const T* x = nullptr;       // [rows, channels]
  double* moments = nullptr;  // mean [channels], then biased variance [channels]
};

template <class T>
struct RowAffineArgs {
  int64_t rows = 0, channels = 0;
  const T* x = nullptr;                        // [rows, channels]
  const T *scale = nullptr, *shift = nullptr;  // [channels]
  T* out = nullptr;
};

// Rows of a chunk of a sum over rows; chunks are summed in order.
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
  static void add_up(const RowsArgs<T>& args, T* partials, int64_t chunks);
};

template <class Isa, class T>
struct RowsLayerCpu {
  static int64_t packed_size(const RowsLayerArgs<T>& args, bool backward);
  static void pack(const RowsLayerArgs<T>& args, bool backward, T* packed);
  static void forward(const RowsLayerArgs<T>& args, const T* packed, int64_t begin, int64_t end);

  static int64_t partial_size(const RowsLayerArgs<T>& args);
  static int64_t scratch_size(const RowsLayerArgs<T>& args);
  static void backward(const RowsLayerArgs<T>& args, const T* packed, T* partial, T* scratch, int64_t begin,
                       int64_t end);
  static void add_up(const RowsLayerArgs<T>& args, T* partials, int64_t chunks);
};

template <class Isa, class T>
struct RowMomentsCpu {
  static int64_t scratch_size(int64_t channels);
  // sums: about the chunk's first row, of the channels and of their squares, [2][channels].
  static void add_up(const RowMomentsArgs<T>& args, double* scratch, double* sums, int64_t begin, int64_t end);
  static void finish(const RowMomentsArgs<T>& args, const double* sums, int64_t step);
};

template <class Isa, class T>
struct RowAffineCpu {
  static int64_t packed_size(int64_t channels);
  static void pack(const RowAffineArgs<T>& args, T* packed);
  static void run(const RowAffineArgs<T>& args, const T* packed, int64_t begin, int64_t end);
};

}  // namespace ek
