// Lanes that change places: rows of a few channels to one vector a channel and back.
#pragma once

#include "flat.h"
#include "matrix_product.h"

namespace ek {
namespace {

// Lane l of the result is lane from[l] of x.
template <class V, class B>
inline V lanes_of(V x, B from) {
#if defined(__clang__)
  V out;
  for (unsigned l = 0; l < sizeof(V) / sizeof(x[0]); ++l) out[l] = x[from[l]];
  return out;
#else
  return __builtin_shuffle(x, from);
#endif
}

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
        Vec<T> out = lanes_of(in[0], lane);
#pragma GCC unroll 8
        for (int k = 1; k < C; ++k) out = takes[v][k] ? lanes_of(in[k], lane) : out;
        x[v] = out;
      }
    });
  }

  int channels_;
  Bits<T> split_from_[kMost], join_from_[kMost], split_takes_[kMost][kMost], join_takes_[kMost][kMost];
};

}  // namespace
}  // namespace ek
