// Products of rows of pairs, or of any rows, with matrices; and outer products of them.
#include <type_traits>

#include "products.h"
#include "tile.cuh"

namespace ek {
namespace {

// What a block knows of the rows of its tile: where they and their transposes begin, and the nodes of a pair.
struct Places {
  int64_t *here, *transpose;
  int *i, *j;
  __device__ Places(int64_t* shared, int rows)
      : here(shared), transpose(shared + rows), i(reinterpret_cast<int*>(transpose + rows)), j(i + rows) {}
};
constexpr int kPlaces = 3;  // numbers of 64 bits a row

// A matrix of this size at most stays in shared memory while a block works on one tile after another.
constexpr int64_t kMostMatrix = 24 * 1024;
constexpr unsigned kMostBlocks = 1056;  // eight on each of 132 SMs, of which two or three are there at a time

// kTileColumns neighbours of a row: in packs, or of those that exist `count`.
template <bool kPacks, class W, class T>
__device__ inline void add_row(const W* from, int count, T (&z)[kTileColumns]) {
  T x[kTileColumns];
  if (kPacks) {
#pragma unroll
    for (int o = 0; o < kTileColumns; o += kPackOf<T>) load<W, kPackOf<T>>(from + o, x + o);
  } else {
#pragma unroll
    for (int o = 0; o < kTileColumns; ++o) x[o] = o < count ? widen(from[o]) : T(0);
  }
#pragma unroll
  for (int o = 0; o < kTileColumns; ++o) z[o] += x[o];
}

template <class S, class W, bool kPacks>
__global__ void __launch_bounds__(kThreads, 2) product_kernel(ProductArgs<S, W> a, ProductLayout l, bool whole) {
  using T = Accumulator<S>;
  constexpr int kRows = kTileRows<T>;
  const int rows = l.groups * kRows;
  const Places places(block_memory<int64_t>(), rows);
  const bool of_pairs = a.second || a.table, both = a.first && a.second;
  T* const shared = reinterpret_cast<T*>(block_memory<int64_t>() + kPlaces * rows);
  const int group = threadIdx.x / l.columns, column = threadIdx.x % l.columns, in = int(a.in), width = int(a.width);
  const int depth = both ? 2 * in : in;
  T* const all = whole ? shared + l.shared_numbers<T>() : nullptr;
  for (unsigned block = blockIdx.x; block < unsigned(l.tiles * l.passes); block += gridDim.x) {
    const int64_t first_row = int64_t(block / l.passes) * rows;
    const int first_column = int(block % l.passes) * l.columns * kTileColumns;
    const int count = a.rows - first_row < rows ? int(a.rows - first_row) : rows;
    __syncthreads();  // places were read
    for (int r = threadIdx.x; r < count; r += blockDim.x) {
      places.here[r] = (first_row + r) * in;
      if (!of_pairs) continue;
      const Place p(a.graph, first_row + r);
      places.transpose[r] = p.transpose * a.in;
      places.i[r] = int(p.i);
      places.j[r] = int(p.j);
    }
    const auto right = [&](int k) {
      const bool behind = both && k >= in;
      const W* const from =
          (behind || !a.first ? a.second : a.first) + (behind ? k - in : k) * a.stride_in + first_column * a.stride_out;
      const int step = int(a.stride_out);
      return [=](int o) { return widen(from[o * step]); };
    };
    if (whole && block == blockIdx.x) read_columns(l, 0, depth, width, right, all);  // seen behind the next barrier
    T z[kRows][kTileColumns];
    tile_product<T>(
        l, shared, depth, count, width - first_column,
        [&](int k) {
          const bool behind = both && k >= in;
          const int64_t* const begins = behind || !a.first ? places.transpose : places.here;
          const S* const from = a.x + (behind ? k - in : k);
          return [=](int r) { return widen(from[begins[r]]); };
        },
        right, z, all);
    const int channel = first_column + column * kTileColumns, left = width - channel;
    const int wide = left < kTileColumns ? left : kTileColumns;
    if (group >= l.groups || left <= 0) continue;
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const int r = group * kRows + m;
      if (r >= count) break;
      if (a.table) {
        const int i = places.i[r], j = places.j[r];
        const W* const table = a.table + channel;
        add_row<kPacks>(table + int64_t(i * 3 + 2) * width, wide, z[m]);
        add_row<kPacks>(table + int64_t(j * 3 + 1) * width, wide, z[m]);
        if (i == j) add_row<kPacks>(table + int64_t(i * 3) * width, wide, z[m]);
      }
      if (a.bias) add_row<kPacks>(a.bias + channel, wide, z[m]);
#pragma unroll
      for (int o = 0; o < kTileColumns; ++o) z[m][o] = activate(z[m][o], a.slope);
      S* const to = a.out + (first_row + r) * a.width + channel;
      if (kPacks) {
#pragma unroll
        for (int o = 0; o < kTileColumns; o += kPackOf<T>) store<S, kPackOf<T>>(to + o, z[m] + o);
      } else {
#pragma unroll
        for (int o = 0; o < kTileColumns; ++o)
          if (o < wide) narrow(z[m][o], to[o]);
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 2) outer_kernel(OuterArgs<S> a, OuterLayout l, int depth) {
  using T = Accumulator<S>;
  int64_t* const transpose = block_memory<int64_t>();  // [step], where it is asked for
  T* const shared = reinterpret_cast<T*>(transpose + (a.second ? l.step : 0));
  const unsigned pieces = l.pieces_down * l.pieces_across;
  const int in = int(a.in), sides = depth - a.ones, side = a.first ? in : 0;
  const bool ones = a.ones;
  for (unsigned block = blockIdx.x; block < l.shares * pieces; block += gridDim.x) {
    const int64_t share = block / pieces, begin = share * l.rows_each;
    outer_product<T>(
        l, shared, block % pieces, begin, begin + l.rows_each < a.rows ? begin + l.rows_each : a.rows, depth,
        int(a.width),
        [&](int64_t first, int count) {
          if (a.second)
            for (int r = threadIdx.x; r < count; r += blockDim.x)
              transpose[r] = Place(a.graph, first + r).transpose * a.in;
        },
        [&](int r, int64_t row) {
          const S *const here = a.x + row * in, *const there = a.second ? a.x + transpose[r] - side : nullptr;
          return [=](int k) { return k < sides ? widen((k < side ? here : there)[k]) : T(k == sides && ones); };
        },
        [&](int64_t row) {
          const S* const from = a.grad + row * a.width;
          return [=](int o) { return widen(from[o]); };
        },
        a.parts + share * depth * a.width);
  }
}

template <class S>
OuterLayout layout_of(const OuterArgs<S>& a) {
  return OuterLayout(a.rows, a.depth(), a.width, kTileRows<Accumulator<S>>);
}

}  // namespace

template <class S, class W>
cudaError_t product_cuda(const ProductArgs<S, W>& a, cudaStream_t stream) {
  using T = Accumulator<S>;
  if (a.rows == 0 || a.width == 0) return cudaSuccess;
  const ProductLayout l(a.rows, a.width, kTileRows<T>);
  const int places = kPlaces * l.groups * kTileRows<T>;
  const bool packs = a.width % kTileColumns == 0 && aligned(a.out) && aligned(a.table) && aligned(a.bias);
  const int64_t matrix = sizeof(T) * (a.first && a.second ? 2 : 1) * a.in * l.columns * kTileColumns;
  const bool whole = l.passes == 1 && matrix <= kMostMatrix;
  const size_t shared = sizeof(int64_t) * places + sizeof(T) * l.shared_numbers<T>() + (whole ? matrix : 0);
  const unsigned blocks = whole && l.grid() > kMostBlocks ? kMostBlocks : l.grid();
  const auto run = [&](auto kernel) {
    return launch_threads(kernel, blocks, unsigned(l.threads), shared, stream, a, l, whole);
  };
  return packs ? run(product_kernel<S, W, true>) : run(product_kernel<S, W, false>);
}

template <class S>
int64_t outer_shares(const OuterArgs<S>& a) {
  return a.depth() == 0 || a.width == 0 ? 0 : layout_of(a).shares;
}
template <class S>
cudaError_t outer_cuda(const OuterArgs<S>& a, cudaStream_t stream) {
  using T = Accumulator<S>;
  if (outer_shares(a) == 0) return cudaSuccess;
  const OuterLayout l = layout_of(a);
  const size_t shared = sizeof(int64_t) * (a.second ? l.step : 0) + sizeof(T) * l.shared_numbers<T>();
  return launch_threads(outer_kernel<S>, l.grid(), unsigned(l.threads), shared, stream, a, l, int(a.depth()));
}

#define EK_PRODUCT(S, W) template cudaError_t product_cuda(const ProductArgs<S, W>&, cudaStream_t);
#define EK_OUTER(S)                                   \
  template int64_t outer_shares(const OuterArgs<S>&); \
  template cudaError_t outer_cuda(const OuterArgs<S>&, cudaStream_t);
EK_PRODUCT(float, float)
EK_PRODUCT(double, double)
EK_PRODUCT(BFloat16, BFloat16)
EK_PRODUCT(BFloat16, float)
EK_PRODUCT(Float16, Float16)
EK_PRODUCT(Float16, float)
EK_OUTER(float)
EK_OUTER(double)
EK_OUTER(BFloat16)
EK_OUTER(Float16)
#undef EK_PRODUCT
#undef EK_OUTER

}  // namespace ek
