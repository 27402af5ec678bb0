// Sum and broadcast over rows of pairs of few channels: row i of an event is one run of n channels numbers.
#pragma once

#include "flat.h"
#include "pairs.h"
#include "particles.h"

namespace ek {
namespace {

// Numbers of scratch: a run of an event's columns, and a pattern.
template <class T>
int64_t flat_size(int64_t longest, int64_t channels) {
  return padded<T>(longest * channels) + pattern_size<T>(channels);
}

// One event of sum; what is added up does not depend on which of its particles are asked for.
template <bool kMasked, class T>
class FlatSum {
 public:
  FlatSum(const Rank2Args<T>& args, int64_t node, int64_t pair, int64_t n, T* scratch)
      : a(args), C(args.channels), node_(node), pair_(pair), n_(n), columns_(scratch) {
    pattern_ = scratch + padded<T>(n * C);
  }

  // Rows [i0, i1), and numbers [k0, k1) of the columns: those of all rows, where columns are wanted.
  void run(int64_t i0, int64_t i1, int64_t k0, int64_t k1, bool want_rows, bool want_columns) {
    for (int64_t k = 0; k < k1 - k0; k += W) store(columns_ + k, Vec<T>{});
    for (int64_t i = i0; i < i1; ++i) {
      const int64_t at = (pair_ + i * n_) * C + k0;
      for (int64_t v = 0; v < C; ++v) {
        Vec<T> total{};
        int64_t k = v * W;
        for (; k + W <= k1 - k0; k += C * W) add(k, masked(load(a.tensor + at + k), at + k, nullptr), total);
        if (k < k1 - k0) {
          const Tail<T> tail(k1 - k0 - k);
          add(k, masked(tail.load(a.tensor + at + k), at + k, &tail), total);
        }
        store(pattern_ + v * W, total);
      }
      if (want_rows) fold_pattern(pattern_, C, table(i, 2));
    }
    if (!want_columns) return;
    for (int64_t j = k0 / C; j < k1 / C; ++j)
      for (int64_t c = 0; c < C; ++c) table(j, 1)[c] = columns_[j * C - k0 + c];
  }
  void diagonal(int64_t p) const {
    const int64_t at = (pair_ + p * n_ + p) * C;
    const Tail<T> tail(C);
    tail.store(table(p, 0), masked(tail.load(a.tensor + at), at, &tail));
  }

 private:
  static constexpr int W = lanes<T>;

  T* table(int64_t p, int slot) const { return a.out + ((node_ + p) * 3 + slot) * C; }
  Vec<T> masked(Vec<T> x, int64_t at, const Tail<T>* tail) const {
    if constexpr (!kMasked) return x;
    return through(x, tail ? tail->load(a.activated + at) : load(a.activated + at), a.slope);
  }
  void add(int64_t k, Vec<T> x, Vec<T>& total) const {
    store(columns_ + k, load(columns_ + k) + x);
    total += x;
  }

  const Rank2Args<T>& a;
  const int64_t C, node_, pair_, n_;
  T *columns_, *pattern_;
};

template <bool kMasked, class T>
void flat_sum(const Rank2Args<T>& a, T* scratch, int64_t begin, int64_t end) {
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    FlatSum<kMasked, T> event(a, node, pair, n, scratch);
    const int64_t C = a.channels;
    if (p0 == 0 && p1 == n) {
      event.run(0, n, 0, n * C, true, true);
    } else {
      event.run(p0, p1, 0, n * C, true, false);
      event.run(0, n, p0 * C, p1 * C, false, true);
    }
    for (int64_t p = p0; p < p1; ++p) event.diagonal(p);
  });
}

template <class T>
void flat_broadcast(const Rank2Args<T>& a, T* scratch, int64_t begin, int64_t end) {
  constexpr int W = lanes<T>;
  const int64_t C = a.channels;
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    auto table = [&](int64_t p, int slot) { return a.table + ((node + p) * 3 + slot) * C; };
    T *columns = scratch, *pattern = scratch + padded<T>(n * C);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t c = 0; c < C; ++c) columns[j * C + c] = table(j, 1)[c];
    for (int64_t i = p0; i < p1; ++i) {
      T* out = a.out + (pair + i * n) * C;
      repeat_row(table(i, 2), C, pattern);
      for (int64_t v = 0; v < C; ++v) {
        const Vec<T> row = load(pattern + v * W);
        int64_t k = v * W;
        for (; k + W <= n * C; k += C * W) store(out + k, row + load(columns + k));
        if (k < n * C) Tail<T>(n * C - k).store(out + k, row + load(columns + k));
      }
      for (int64_t c = 0; c < C; ++c) out[i * C + c] += table(i, 0)[c];
    }
  });
}

}  // namespace
}  // namespace ek
