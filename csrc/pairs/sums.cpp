// Sum and extremum read T once: rows are summed in registers, columns in scratch. An event that is cut between two
// shares is read twice, for the rows of one's particles and for their columns.
#include "../core/isa.h"
#include "flat_sums.h"
#include "pairs.h"
#include "particles.h"

namespace ek {
namespace {

#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 4, kColumnPanel = 4;
#else
constexpr int kRowsAtOnce = 2, kColumnPanel = 2;
#endif

enum class Summand { plain, weighted, selected, masked };

// One panel of the channels of one event.
template <class T, int kWidth>
struct EventPanel {
  static constexpr int W = lanes<T>, width = kWidth;
  const Rank2Args<T>& a;
  int64_t node, pair, n, channel;
  Tail<T> tail;

  Vec<T> load_vector(const T* row, int v) const {
    return v + 1 < kWidth ? load(row + channel + v * W) : tail.load(row + channel + v * W);
  }
  void store_vector(T* row, int v, Vec<T> x) const {
    if (v + 1 < kWidth)
      store(row + channel + v * W, x);
    else
      tail.store(row + channel + v * W, x);
  }
  const T* tensor(int64_t i, int64_t j) const { return a.tensor + (pair + i * n + j) * a.channels; }
  T* table(int64_t p, int slot) const { return a.out + ((node + p) * 3 + slot) * a.channels; }
  const T* weight(int64_t p, int side) const { return a.weight + ((node + p) * 2 + side) * a.channels; }
  // All ones where arg of particle p's column (side 0) or row (side 1) is k.
  Bits<T> selects(int64_t p, int side, int v, int64_t k) const {
    const int32_t* row = a.arg + ((node + p) * 2 + side) * a.channels + channel + v * W;
    const int64_t left = a.channels - channel - v * W;
    Bits<T> chosen{};
    for (int l = 0; l < W && l < left; ++l) chosen[l] = row[l] == k ? -1 : 0;
    return chosen;
  }
};

template <class T, int kWidth>
inline void copy_diagonal(const EventPanel<T, kWidth>& e, int64_t p0, int64_t p1, const Rank2Args<T>& a, bool masked) {
  for (int64_t p = p0; p < p1; ++p)
    for (int v = 0; v < kWidth; ++v) {
      Vec<T> x = e.load_vector(e.tensor(p, p), v);
      if (masked) x = through(x, e.load_vector(a.activated + (e.tensor(p, p) - a.tensor), v), a.slope);
      e.store_vector(e.table(p, 0), v, x);
    }
}

// Adds T_ij, i0 <= i < i0 + kRows, j0 <= j < j1, to row sums (registers, stored) and column sums (scratch).
template <int kRows, Summand kSummand, class T, int kWidth>
inline void sum_rows(const EventPanel<T, kWidth>& e, int64_t i0, int64_t j0, int64_t j1, T* cols, bool want_rows) {
  constexpr int W = lanes<T>;
  const Rank2Args<T>& a = e.a;
  Vec<T> acc[kRows][kWidth] = {}, w_row[kRows][kWidth] = {};
  if constexpr (kSummand == Summand::weighted)
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) w_row[r][v] = e.load_vector(e.weight(i0 + r, 0), v);
  for (int64_t j = j0; j < j1; ++j) {
    T* to = cols + (j - j0) * kWidth * W;
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      Vec<T> column = load(to + v * W), w_col{};
      if constexpr (kSummand == Summand::weighted) w_col = e.load_vector(e.weight(j, 1), v);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const T* from = e.tensor(i0 + r, j);
        Vec<T> x = e.load_vector(from, v);
        if constexpr (kSummand == Summand::masked)
          x = through(x, e.load_vector(a.activated + (from - a.tensor), v), a.slope);
        if constexpr (kSummand == Summand::weighted) {
          acc[r][v] += x * w_col;
          column += x * w_row[r][v];
        } else if constexpr (kSummand == Summand::selected) {
          acc[r][v] += from_bits(bits(x) & e.selects(i0 + r, 1, v, j));
          column += from_bits(bits(x) & e.selects(j, 0, v, i0 + r));
        } else {
          acc[r][v] += x;
          column += x;
        }
      }
      store(to + v * W, column);
    }
  }
  if (!want_rows) return;
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kWidth; ++v) e.store_vector(e.table(i0 + r, 2), v, acc[r][v]);
}

template <Summand kSummand, class T, int kWidth>
inline void sum_block(const EventPanel<T, kWidth>& e, int64_t i0, int64_t i1, int64_t j0, int64_t j1, T* cols,
                      bool want_rows, bool want_cols) {
  constexpr int W = lanes<T>;
  for (int64_t k = 0; k < (j1 - j0) * kWidth * W; k += W) store(cols + k, Vec<T>{});
  int64_t i = i0;
  for (; i + kRowsAtOnce <= i1; i += kRowsAtOnce) sum_rows<kRowsAtOnce, kSummand>(e, i, j0, j1, cols, want_rows);
  for (; i < i1; ++i) sum_rows<1, kSummand>(e, i, j0, j1, cols, want_rows);
  if (!want_cols) return;
  for (int64_t j = j0; j < j1; ++j)
    for (int v = 0; v < kWidth; ++v) e.store_vector(e.table(j, 1), v, load(cols + ((j - j0) * kWidth + v) * W));
}

// f(event panel, p0, p1) for all panels of all events.
template <class T, class F>
inline void over_panels(const Rank2Args<T>& a, int64_t begin, int64_t end, F&& f) {
  constexpr int W = lanes<T>;
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    for_panels<kColumnPanel>(int(padded<T>(a.channels) / W), [&](auto width, int first) {
      constexpr int kWidth = decltype(width)::value;
      const int64_t channel = int64_t(first) * W;
      const Tail<T> tail(a.channels - channel - (kWidth - 1) * W);
      f(EventPanel<T, kWidth>{a, node, pair, n, channel, tail}, p0, p1);
    });
  });
}

template <Summand kSummand, class T>
void sum_range(const Rank2Args<T>& a, T* cols, int64_t begin, int64_t end) {
  over_panels(a, begin, end, [&](const auto& e, int64_t p0, int64_t p1) {
    if (p0 == 0 && p1 == e.n) {
      sum_block<kSummand>(e, 0, e.n, 0, e.n, cols, true, true);
    } else {
      sum_block<kSummand>(e, p0, p1, 0, e.n, cols, true, false);
      sum_block<kSummand>(e, 0, e.n, p0, p1, cols, false, true);
    }
    copy_diagonal(e, p0, p1, a, kSummand == Summand::masked);
  });
}

// The first of equals wins, and the first NaN over everything.
template <bool kLargest, class T>
inline void keep_better(Vec<T> x, int64_t k, Vec<T>& best, Bits<T>& from) {
  const Bits<T> better = (kLargest ? x > best : x < best) | ((x != x) & (best == best));
  best = better ? x : best;
  from = better ? number<T>(k) : from;
}

template <bool kLargest, class T, int kWidth>
inline void extremum_block(const EventPanel<T, kWidth>& e, int64_t i0, int64_t i1, int64_t j0, int64_t j1, T* cols,
                           bool want_rows, bool want_cols) {
  constexpr int W = lanes<T>;
  const Rank2Args<T>& a = e.a;
  T* from_cols = cols + (j1 - j0) * kWidth * W;
  auto write = [&](int64_t p, int side, int v, Vec<T> best, Bits<T> from) {
    e.store_vector(e.table(p, 1 + side), v, best);
    int32_t* arg = a.arg_out + ((e.node + p) * 2 + side) * a.channels + e.channel + v * W;
    const int64_t left = a.channels - e.channel - v * W;
    for (int l = 0; l < W && l < left; ++l) arg[l] = int32_t(from[l]);
  };
  for (int64_t j = j0; j < j1; ++j)
    for (int v = 0; v < kWidth; ++v) {
      const int64_t at = ((j - j0) * kWidth + v) * W;
      store(cols + at, e.load_vector(e.tensor(i0, j), v));
      store(from_cols + at, from_bits(number<T>(i0)));
    }
  for (int64_t i = i0; i < i1; ++i) {
    Vec<T> best[kWidth] = {};
    Bits<T> from[kWidth] = {};
    for (int v = 0; v < kWidth; ++v) {
      best[v] = e.load_vector(e.tensor(i, j0), v);
      from[v] = number<T>(j0);
    }
    for (int64_t j = j0; j < j1; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) {
        const Vec<T> x = e.load_vector(e.tensor(i, j), v);
        keep_better<kLargest, T>(x, j, best[v], from[v]);
        const int64_t at = ((j - j0) * kWidth + v) * W;
        Vec<T> top = load(cols + at);
        Bits<T> which = bits(load(from_cols + at));
        keep_better<kLargest, T>(x, i, top, which);
        store(cols + at, top);
        store(from_cols + at, from_bits(which));
      }
    if (want_rows)
      for (int v = 0; v < kWidth; ++v) write(i, 1, v, best[v], from[v]);
  }
  if (!want_cols) return;
  for (int64_t j = j0; j < j1; ++j)
    for (int v = 0; v < kWidth; ++v) {
      const int64_t at = ((j - j0) * kWidth + v) * W;
      write(j, 0, v, load(cols + at), bits(load(from_cols + at)));
    }
}

template <bool kLargest, class T>
void extremum_range(const Rank2Args<T>& a, T* cols, int64_t begin, int64_t end) {
  over_panels(a, begin, end, [&](const auto& e, int64_t p0, int64_t p1) {
    if (p0 == 0 && p1 == e.n) {
      extremum_block<kLargest>(e, 0, e.n, 0, e.n, cols, true, true);
    } else {
      extremum_block<kLargest>(e, p0, p1, 0, e.n, cols, true, false);
      extremum_block<kLargest>(e, 0, e.n, p0, p1, cols, false, true);
    }
    copy_diagonal(e, p0, p1, a, false);
  });
}

template <Summand kSummand, class T>
void broadcast_range(const Rank2Args<T>& a, int64_t begin, int64_t end) {
  over_panels(a, begin, end, [&](const auto& e, int64_t p0, int64_t p1) {
    constexpr int kWidth = std::decay_t<decltype(e)>::width;
    auto table = [&](int64_t p, int slot) { return a.table + ((e.node + p) * 3 + slot) * a.channels; };
    for (int64_t i = p0; i < p1; ++i) {
      Vec<T> row[kWidth] = {}, diag[kWidth] = {}, weight[kWidth] = {};
      for (int v = 0; v < kWidth; ++v) {
        row[v] = e.load_vector(table(i, 2), v);
        diag[v] = e.load_vector(table(i, 0), v);
        if (kSummand == Summand::weighted) weight[v] = e.load_vector(e.weight(i, 0), v);
      }
      for (int64_t j = 0; j < e.n; ++j) {
        T* out = a.out + (e.pair + i * e.n + j) * a.channels;
#pragma GCC unroll 4
        for (int v = 0; v < kWidth; ++v) {
          const Vec<T> column = e.load_vector(table(j, 1), v);
          Vec<T> x;
          if constexpr (kSummand == Summand::weighted) {
            x = row[v] * e.load_vector(e.weight(j, 1), v) + column * weight[v];
          } else if constexpr (kSummand == Summand::selected) {
            x = from_bits(bits(row[v]) & e.selects(i, 1, v, j)) + from_bits(bits(column) & e.selects(j, 0, v, i));
          } else {
            x = row[v] + column;
          }
          if (i == j) x += diag[v];
          e.store_vector(out, v, x);
        }
      }
    }
  });
}

// Extrema, weights and arguments have no such kernels.
template <class T>
bool flat(const Rank2Args<T>& a) {
  return a.channels > 0 && a.channels <= kFew<T> && !a.weight && !a.arg && !a.arg_out;
}

}  // namespace

template <class Isa, class T>
int64_t Rank2Cpu<Isa, T>::scratch_bytes(const Rank2Args<T>& a) {
  const int64_t longest = longest_event(a.graph);
  if (flat(a)) return flat_size<T>(longest, a.channels) * int64_t(sizeof(T));
  return 2 * longest * kColumnPanel * lanes<T> * int64_t(sizeof(T));
}

template <class Isa, class T>
void Rank2Cpu<Isa, T>::run(Rank2Kernel kernel, const Rank2Args<T>& a, void* scratch, int64_t begin, int64_t end) {
  T* cols = static_cast<T*>(scratch);
  if (flat(a) && kernel == Rank2Kernel::broadcast) return flat_broadcast(a, cols, begin, end);
  if (flat(a) && kernel == Rank2Kernel::sum)
    return a.activated ? flat_sum<true>(a, cols, begin, end) : flat_sum<false>(a, cols, begin, end);
  switch (kernel) {
    case Rank2Kernel::sum:
      if (a.weight) return sum_range<Summand::weighted>(a, cols, begin, end);
      if (a.arg) return sum_range<Summand::selected>(a, cols, begin, end);
      if (a.activated) return sum_range<Summand::masked>(a, cols, begin, end);
      return sum_range<Summand::plain>(a, cols, begin, end);
    case Rank2Kernel::broadcast:
      if (a.weight) return broadcast_range<Summand::weighted>(a, begin, end);
      if (a.arg) return broadcast_range<Summand::selected>(a, begin, end);
      return broadcast_range<Summand::plain>(a, begin, end);
    case Rank2Kernel::extremum:
      return a.largest ? extremum_range<true>(a, cols, begin, end) : extremum_range<false>(a, cols, begin, end);
  }
}

template struct Rank2Cpu<EK_ISA, float>;
template struct Rank2Cpu<EK_ISA, double>;

}  // namespace ek
