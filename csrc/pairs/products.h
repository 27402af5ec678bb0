// Products of rows, of pairs or any others, with small matrices on CUDA, and what stands around them. Numbers are
// stored as S and added as Accumulator<S>; matrices, biases and tables are W: S, or what S is added as.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/graph.h"
#include "../core/storage.h"

namespace ek {

// out_r = act(x_r first + x_t second + bias + what broadcast makes of a table), see pairs.h, where row t is the
// transpose of pair r. One of both matrices may be absent. Element (k, o) of a matrix stands at k stride_in + o
// stride_out.
template <class S, class W>
struct ProductArgs {
  using T = Accumulator<S>;
  GraphView graph;  // complete, with self-loops; read where there is a second matrix or a table
  int64_t rows = 0, in = 0, width = 0;
  const S* x = nullptr;
  const W *first = nullptr, *second = nullptr;
  int64_t stride_in = 0, stride_out = 1;
  const W* bias = nullptr;   // [width]
  const W* table = nullptr;  // [nodes, 3, width]
  T slope = 1;
  S* out = nullptr;  // [rows, width]
};
template <class S, class W>
cudaError_t product_cuda(const ProductArgs<S, W>& args, cudaStream_t stream);

// Sums over rows of x_r^T grad_r and below it of x_t^T grad_r, each where wanted, and last, where wanted, of grad_r.
// They are left in `shares` parts, [shares, depth, width].
template <class S>
struct OuterArgs {
  using T = Accumulator<S>;
  GraphView graph;
  int64_t rows = 0, in = 0, width = 0;
  bool first = true, second = false, ones = false;
  const S* x = nullptr;
  const S* grad = nullptr;
  T* parts = nullptr;
  int64_t depth() const { return in * (first + second) + ones; }
};
template <class S>
int64_t outer_shares(const OuterArgs<S>& args);
template <class S>
cudaError_t outer_cuda(const OuterArgs<S>& args, cudaStream_t stream);

// out = sum of `count` parts, in order, several at once. A part is `size` numbers, `stride` behind the one before; out
// has them as they are, or those of [size / columns, columns] transposed.
template <class T, class O>
struct Parts {
  const T* parts = nullptr;
  O* out = nullptr;
  int64_t count = 0, stride = 0, size = 0, columns = 0;
};
template <class T, class O>
struct AddUpArgs {
  static constexpr int kMost = 4;
  Parts<T, O> of[kMost];
};
template <class T, class O>
cudaError_t add_up_cuda(const AddUpArgs<T, O>& args, cudaStream_t stream);

// out = act'(activated) (grad + statistics[0] + statistics[1] (activated - statistics[2])), number by number, where
// statistics are by channel: in float64, because numbers may be much greater than their spread.
template <class S>
struct ThroughArgs {
  int64_t rows = 0, width = 0;
  const S *grad = nullptr, *activated = nullptr;  // grad may be absent
  const double* statistics = nullptr;             // [3, width] or absent
  Accumulator<S> slope = 1;
  S* out = nullptr;
};
template <class S>
cudaError_t through_cuda(const ThroughArgs<S>& args, cudaStream_t stream);

// The norm of rows, see rows_op.h: moments measured (in parts, [shares, 2, width]) or running statistics.
template <class S>
struct NormArgs {
  int64_t rows = 0, width = 0;
  const S* x = nullptr;                          // [rows, width]
  double *parts = nullptr, *moments = nullptr;   // of the batch; [2, width], an input of backward
  const S *mean = nullptr, *variance = nullptr;  // or running
  const S *gamma = nullptr, *beta = nullptr;
  double eps = 0;
  S *affine = nullptr, *running = nullptr;  // [2, width]; the second of the batch
  const S* grad_affine = nullptr;           // [2, width] or absent
  S* to[4] = {};                            // gradients of gamma, beta, mean, variance, where wanted
  double* statistics = nullptr;             // [3, width], of a batch: what the norm gives out, see ThroughArgs
  EK_HD bool of_batch() const { return moments != nullptr; }
};
int64_t moments_shares(int64_t rows);
template <class S>
cudaError_t moments_cuda(const NormArgs<S>& args, cudaStream_t stream);
template <class S>
cudaError_t norm_cuda(const NormArgs<S>& args, cudaStream_t stream);
template <class S>
cudaError_t norm_backward_cuda(const NormArgs<S>& args, cudaStream_t stream);

}  // namespace ek
