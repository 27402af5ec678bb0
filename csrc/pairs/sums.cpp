// Sum and extremum read T once: rows are summed in registers, columns in scratch. An event that is cut between two
// shares is read twice, for the rows of one's particles and for their columns. Channels go in panels, all of them for a
// row of pairs before the next: what the panels share of a row's lines stays in the first-level cache.
#include "../core/isa.h"
#include "flat_sums.h"
#include "pairs.h"
#include "particles.h"

namespace ek {
namespace {

#if defined(__AVX512F__)
constexpr int kColumnPanel = 4;
#else
constexpr int kColumnPanel = 2;
#endif
constexpr int kRowsAtOnce = 4;

enum class Summand { plain, weighted, selected, masked };

// One event of n particles.
template <class T>
struct Event {
  const Rank2Args<T>& a;
  int64_t node, pair, n;

  const T* tensor(int64_t i, int64_t j) const { return a.tensor + (pair + i * n + j) * a.channels; }
  T* pair_out(int64_t i, int64_t j) const { return a.out + (pair + i * n + j) * a.channels; }
  T* table_out(int64_t p, int slot) const { return a.out + ((node + p) * 3 + slot) * a.channels; }
  const T* table(int64_t p, int slot) const { return a.table + ((node + p) * 3 + slot) * a.channels; }
  const T* weight(int64_t p, int side) const { return a.weight + ((node + p) * 2 + side) * a.channels; }
};

// One panel of an event's channels.
template <class T, int kWidth>
struct EventPanel : Event<T> {
  static constexpr int W = lanes<T>, kVectors = kWidth;
  int64_t channel;
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
  // All ones where arg of particle p's column (side 0) or row (side 1) is k.
  Bits<T> selects(int64_t p, int side, int v, int64_t k) const {
    const int64_t C = this->a.channels, left = C - channel - v * W;
    const int32_t* row = this->a.arg + ((this->node + p) * 2 + side) * C + channel + v * W;
    Bits<T> chosen{};
    for (int l = 0; l < W && l < left; ++l) chosen[l] = row[l] == k ? -1 : 0;
    return chosen;
  }
  // A vector of a row of scratch that has room for a number for each of the event's columns and channels.
  int64_t scratch(int64_t columns, int64_t j, int v) const { return channel * columns + (j * kWidth + v) * W; }
};

template <bool kMasked, class T, int kWidth>
inline void copy_diagonal(const EventPanel<T, kWidth>& e, int64_t p0, int64_t p1) {
  const Rank2Args<T>& a = e.a;
  for (int64_t p = p0; p < p1; ++p)
    for (int v = 0; v < kWidth; ++v) {
      Vec<T> x = e.load_vector(e.tensor(p, p), v);
      if (kMasked) x = through(x, e.load_vector(a.activated + (e.tensor(p, p) - a.tensor), v), a.slope);
      e.store_vector(e.table_out(p, 0), v, x);
    }
}

// f(panel) for each panel of an event's channels.
template <class T, class F>
inline void over_panels(const Event<T>& event, F&& f) {
  constexpr int W = lanes<T>;
  for_panels<kColumnPanel>(int(padded<T>(event.a.channels) / W), [&](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t channel = int64_t(first) * W;
    f(EventPanel<T, kWidth>{event, channel, Tail<T>(event.a.channels - channel - (kWidth - 1) * W)});
  });
}

// Pairs (i, j) of an event, i0 <= i < i1, j0 <= j < j1, whose rows or columns are asked for.
struct Block {
  int64_t i0, i1, j0, j1;
  bool rows, columns;
};

// f(event, block) for particles [begin, end); their diagonals are copied.
template <bool kMasked, class T, class F>
inline void over_blocks(const Rank2Args<T>& a, int64_t begin, int64_t end, F&& f) {
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    const Event<T> event{a, node, pair, n};
    if (p0 == 0 && p1 == n) {
      f(event, Block{0, n, 0, n, true, true});
    } else {
      f(event, Block{p0, p1, 0, n, true, false});
      f(event, Block{0, n, p0, p1, false, true});
    }
    over_panels(event, [&](const auto& e) { copy_diagonal<kMasked>(e, p0, p1); });
  });
}

// Adds T_ij, i0 <= i < i0 + kRows, to row sums (registers, stored) and column sums (scratch).
template <int kRows, Summand kSummand, class T, int kWidth>
inline void sum_rows(const EventPanel<T, kWidth>& e, int64_t i0, const Block& b, T* cols) {
  const Rank2Args<T>& a = e.a;
  Vec<T> acc[kRows][kWidth] = {}, w_row[kRows][kWidth] = {};
  if constexpr (kSummand == Summand::weighted)
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) w_row[r][v] = e.load_vector(e.weight(i0 + r, 0), v);
  T* to = cols + e.scratch(b.j1 - b.j0, 0, 0);
  for (int64_t j = b.j0; j < b.j1; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v, to += lanes<T>) {
      Vec<T> column = load(to), w_col{};
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
      store(to, column);
    }
  }
  if (!b.rows) return;
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kWidth; ++v) e.store_vector(e.table_out(i0 + r, 2), v, acc[r][v]);
}

template <Summand kSummand, class T>
void sum_range(const Rank2Args<T>& a, T* cols, int64_t begin, int64_t end) {
  over_blocks<kSummand == Summand::masked>(a, begin, end, [&](const Event<T>& event, const Block& b) {
    const int64_t columns = b.j1 - b.j0;
    for (int64_t k = 0; k < columns * padded<T>(a.channels); k += lanes<T>) store(cols + k, Vec<T>{});
    int64_t i = b.i0;
    for (; i + kRowsAtOnce <= b.i1; i += kRowsAtOnce)
      over_panels(event, [&](const auto& e) { sum_rows<kRowsAtOnce, kSummand>(e, i, b, cols); });
    for (; i < b.i1; ++i) over_panels(event, [&](const auto& e) { sum_rows<1, kSummand>(e, i, b, cols); });
    if (!b.columns) return;
    over_panels(event, [&](const auto& e) {
      for (int64_t j = 0; j < columns; ++j)
        for (int v = 0; v < e.kVectors; ++v)
          e.store_vector(e.table_out(b.j0 + j, 1), v, load(cols + e.scratch(columns, j, v)));
    });
  });
}

// The first of equals wins, and the first NaN over everything.
template <bool kLargest, class T>
inline void keep_better(Vec<T> x, int64_t k, Vec<T>& best, Bits<T>& from) {
  const Bits<T> better = (kLargest ? x > best : x < best) | ((x != x) & (best == best));
  best = better ? x : best;
  from = better ? number<T>(k) : from;
}

// The extrema of particle p's column (side 0) or row (side 1), and where they are.
template <class T, int kWidth>
inline void store_extremum(const EventPanel<T, kWidth>& e, int64_t p, int side, int v, Vec<T> best, Bits<T> from) {
  e.store_vector(e.table_out(p, 1 + side), v, best);
  const int64_t C = e.a.channels, channel = e.channel + v * lanes<T>;
  int32_t* arg = e.a.arg_out + ((e.node + p) * 2 + side) * C + channel;
  for (int l = 0; l < lanes<T> && channel + l < C; ++l) arg[l] = int32_t(from[l]);
}

template <bool kLargest, class T, int kWidth>
inline void extremum_row(const EventPanel<T, kWidth>& e, int64_t i, const Block& b, T* cols, T* from_cols) {
  Vec<T> best[kWidth];
  Bits<T> from[kWidth];
  for (int v = 0; v < kWidth; ++v) {
    best[v] = e.load_vector(e.tensor(i, b.j0), v);
    from[v] = number<T>(b.j0);
  }
  for (int64_t j = b.j0; j < b.j1; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const Vec<T> x = e.load_vector(e.tensor(i, j), v);
      keep_better<kLargest, T>(x, j, best[v], from[v]);
      const int64_t at = e.scratch(b.j1 - b.j0, j - b.j0, v);
      Vec<T> top = i == b.i0 ? x : load(cols + at);
      Bits<T> which = i == b.i0 ? number<T>(i) : bits(load(from_cols + at));
      keep_better<kLargest, T>(x, i, top, which);
      store(cols + at, top);
      store(from_cols + at, from_bits(which));
    }
  if (!b.rows) return;
  for (int v = 0; v < kWidth; ++v) store_extremum(e, i, 1, v, best[v], from[v]);
}

template <bool kLargest, class T>
void extremum_range(const Rank2Args<T>& a, T* cols, int64_t begin, int64_t end) {
  over_blocks<false>(a, begin, end, [&](const Event<T>& event, const Block& b) {
    const int64_t columns = b.j1 - b.j0;
    T* from_cols = cols + columns * padded<T>(a.channels);
    for (int64_t i = b.i0; i < b.i1; ++i)
      over_panels(event, [&](const auto& e) { extremum_row<kLargest>(e, i, b, cols, from_cols); });
    if (!b.columns) return;
    over_panels(event, [&](const auto& e) {
      for (int64_t j = 0; j < columns; ++j)
        for (int v = 0; v < e.kVectors; ++v) {
          const int64_t at = e.scratch(columns, j, v);
          store_extremum(e, b.j0 + j, 0, v, load(cols + at), bits(load(from_cols + at)));
        }
    });
  });
}

// The sums over a table of the particles i and j, for the pairs of particle i.
template <Summand kSummand, class T, int kWidth>
inline void broadcast_row(const EventPanel<T, kWidth>& e, int64_t i) {
  Vec<T> row[kWidth], diag[kWidth], weight[kWidth] = {};
  for (int v = 0; v < kWidth; ++v) {
    row[v] = e.load_vector(e.table(i, 2), v);
    diag[v] = e.load_vector(e.table(i, 0), v);
    if (kSummand == Summand::weighted) weight[v] = e.load_vector(e.weight(i, 0), v);
  }
  for (int64_t j = 0; j < e.n; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const Vec<T> column = e.load_vector(e.table(j, 1), v);
      Vec<T> x;
      if constexpr (kSummand == Summand::weighted) {
        x = row[v] * e.load_vector(e.weight(j, 1), v) + column * weight[v];
      } else if constexpr (kSummand == Summand::selected) {
        x = from_bits(bits(row[v]) & e.selects(i, 1, v, j)) + from_bits(bits(column) & e.selects(j, 0, v, i));
      } else {
        x = row[v] + column;
      }
      if (i == j) x += diag[v];
      e.store_vector(e.pair_out(i, j), v, x);
    }
}

template <Summand kSummand, class T>
void broadcast_range(const Rank2Args<T>& a, int64_t begin, int64_t end) {
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    const Event<T> event{a, node, pair, n};
    for (int64_t i = p0; i < p1; ++i) over_panels(event, [&](const auto& e) { broadcast_row<kSummand>(e, i); });
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
  return 2 * longest * padded<T>(a.channels) * int64_t(sizeof(T));
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
