// Rows of numbers as a thread reads and writes them: several neighbours at a time, and coordinates.
#pragma once

#include "../core/graph.h"
#include "../core/storage.h"

namespace ek {

template <class S, int kVec>
struct alignas(sizeof(S) * kVec) Pack {
  S item[kVec];
};

template <size_t kBytes>
struct WordsOf;
template <>
struct WordsOf<2> {
  using type = unsigned short;
};
template <>
struct WordsOf<4> {
  using type = unsigned;
};
template <>
struct WordsOf<8> {
  using type = uint2;
};
template <>
struct WordsOf<16> {
  using type = uint4;
};

// kVec neighbours, widened to their accumulator; p is aligned to all of them.
template <class S, int kVec>
__device__ inline void load(const S* p, Accumulator<S>* x) {
  const Pack<S, kVec> pack = *reinterpret_cast<const Pack<S, kVec>*>(p);
#pragma unroll
  for (int v = 0; v < kVec; ++v) x[v] = widen(pack.item[v]);
}
// Assigned as a struct, a pack may be taken apart into a store for each number: the compiler is left no choice.
template <class S, int kVec>
__device__ inline void store(S* p, const Accumulator<S>* x) {
  Pack<S, kVec> pack;
#pragma unroll
  for (int v = 0; v < kVec; ++v) narrow(x[v], pack.item[v]);
  using Words = typename WordsOf<sizeof pack>::type;
  Words words;
  memcpy(&words, &pack, sizeof words);
  __stwb(reinterpret_cast<Words*>(p), words);
}

// Whether rows that start at p can be read 16 bytes at a time, given that their length can.
EK_HD bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// The `dim` coordinates of one node, dim <= kDim. wide: the table is aligned, and rows of 2 or 4 lie in whole packs.
template <int kDim, class From, class To>
__device__ inline void load_node(bool wide, const From* row, int dim, To* out) {
  if constexpr (kDim == 2 || kDim == 4) {
    constexpr int kVec = kDim * sizeof(From) <= 16 ? kDim : 2;
    if (wide) {
#pragma unroll
      for (int c = 0; c < kDim; c += kVec) {
        From x[kVec];
        load<From, kVec>(row + c, x);
#pragma unroll
        for (int v = 0; v < kVec; ++v) out[c + v] = x[v];
      }
      return;
    }
  }
#pragma unroll
  for (int c = 0; c < kDim; ++c)
    if (c < dim) out[c] = row[c];
}

}  // namespace ek
