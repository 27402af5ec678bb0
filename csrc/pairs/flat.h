// Rows of few channels as one run of numbers: lanes go across rows instead of channels, and all of them are used
// however few channels there are. Which channel a lane belongs to repeats after `channels` vectors: a pattern.
#pragma once

#include "../simd/dense.h"

namespace ek {
namespace {

// Rows of at most this many channels fill too little of a vector.
template <class T>
inline constexpr int64_t kFew = lanes<T> / 2;

// Numbers of scratch that a pattern takes.
template <class T>
constexpr int64_t pattern_size(int64_t channels) {
  return (channels + 1) * lanes<T>;
}

// The row, over and over.
template <class T>
inline void repeat_row(const T* row, int64_t channels, T* pattern) {
  constexpr int W = lanes<T>;
  if (channels == 1) return store(pattern, splat(row[0]));
  const Vec<T> x = Tail<T>(channels).load(row);
  for (int r = 0; r < W; ++r, pattern += channels) {
    store(pattern, x);  // lanes that are too many are overwritten next
    for (int64_t c = W; c < channels; ++c) pattern[c] = row[c];
  }
}

// Sums of a pattern's lanes by channel.
template <class T>
inline void fold_pattern(const T* pattern, int64_t channels, T* row) {
  constexpr int W = lanes<T>;
  if (channels == 1) {
    row[0] = add_lanes(load(pattern));
    return;
  }
  for (int64_t first = 0; first < channels; first += W) {
    const T* from = pattern + first;
    Vec<T> total{};
    for (int r = 0; r < W; ++r, from += channels) total += load(from);
    Tail<T>(channels - first).store(row + first, total);
  }
}

// f(v, first, step): the vectors first, first + step, ... < count of a run of numbers are those of vector v of the
// pattern. kBlock of each at a time, so that the next v finds them in cache.
template <class T, class F>
inline void over_pattern(int64_t count, int64_t channels, F&& f) {
  constexpr int64_t kBlock = 32;
  const int64_t step = channels * lanes<T>;
  for (int64_t begin = 0; begin < count; begin += kBlock * step) {
    const int64_t end = count - begin < kBlock * step ? count : begin + kBlock * step;
    for (int64_t v = 0; v < channels; ++v) f(v, begin + v * lanes<T>, end, step);
  }
}

}  // namespace
}  // namespace ek
