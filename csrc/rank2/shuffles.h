// Lanes that change places: rows of a few channels to one vector a channel and back, and a square of lanes transposed.
#pragma once

#include <utility>

#include "flat.h"
#include "product.h"

namespace ek {
namespace {

// `channels` vectors hold a row of channels for each of as many particles as a vector has lanes.
template <class T>
class Channels {
 public:
  static constexpr int W = lanes<T>, kMost = int(kFew<T>);

  explicit Channels(int64_t channels) : channels_(int(channels)) {
    for (int v = 0; v < channels_; ++v)
      for (int l = 0; l < W; ++l) {
        const int apart = l * channels_ + v, together = v * W + l;
        split_from_[v][l] = apart % W;
        join_from_[v][l] = together / channels_;
        for (int k = 0; k < channels_; ++k) {
          split_takes_[v][k][l] = apart / W == k ? -1 : 0;
          join_takes_[v][k][l] = together % channels_ == k ? -1 : 0;
        }
      }
  }
  // One vector a channel, from rows.
  void split(Vec<T>* x) const { move(x, split_from_, split_takes_); }
  // Rows, from one vector a channel.
  void join(Vec<T>* x) const { move(x, join_from_, join_takes_); }

 private:
  void move(Vec<T>* x, const Bits<T>* from, const Bits<T> (*takes)[kMost]) const {
    for_tiles<kMost>(channels_ > 1 ? channels_ : 0, [&](auto channels, int64_t) {
      constexpr int C = decltype(channels)::value;
      Vec<T> in[C];
#pragma GCC unroll 8
      for (int k = 0; k < C; ++k) in[k] = x[k];
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) {
        const Bits<T> lane = from[v];
        Vec<T> out = __builtin_shuffle(in[0], lane);
#pragma GCC unroll 8
        for (int k = 1; k < C; ++k) out = takes[v][k] ? __builtin_shuffle(in[k], lane) : out;
        x[v] = out;
      }
    });
  }

  int channels_;
  Bits<T> split_from_[kMost], join_from_[kMost], split_takes_[kMost][kMost], join_takes_[kMost][kMost];
};

// Exchanges, between two rows `step` apart, the lanes that stand on the wrong side of the diagonal.
template <int kStep, class V, size_t... L>
inline void exchange(V& a, V& b, std::index_sequence<L...>) {
  constexpr int W = sizeof...(L);
  const V first = __builtin_shufflevector(a, b, (int(L) & kStep ? W + int(L) - kStep : int(L))...);
  b = __builtin_shufflevector(a, b, (int(L) & kStep ? W + int(L) : int(L) + kStep)...);
  a = first;
}

// x[r] lane l  <->  x[l] lane r
template <int kStep = 1, class T, int W>
inline void transpose(Vec<T> (&x)[W]) {
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r)
    if (!(r & kStep)) exchange<kStep>(x[r], x[r | kStep], std::make_index_sequence<W>{});
  if constexpr (2 * kStep < W) transpose<2 * kStep, T, W>(x);
}

}  // namespace
}  // namespace ek
