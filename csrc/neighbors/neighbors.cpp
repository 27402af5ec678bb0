#include "neighbors.h"

#include <algorithm>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "../core/isa.h"
#include "../core/minkowski.h"
#include "../simd/vector_fma.h"

namespace ek {
namespace {

#define EK_INLINE_LAMBDA __attribute__((always_inline))
#define EK_INLINE EK_INLINE_LAMBDA inline

constexpr int W = lanes<double>;
static_assert(W <= NeighborsArgs::kSlack);
constexpr double kInfinity = __builtin_inf();
constexpr double kTwoPi = 6.283185307179586;

// Distance squared of one receiver x to W candidates.
template <Separation kind, int kDim>
EK_INLINE vdouble distance2(const NeighborsArgs& args, const double* x, int64_t slot) {
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  if constexpr (kind == Separation::compensated) {
    vdouble a[kDim], b[kDim], square, dot;
    for (int c = 0; c < dim; ++c) {
      a[c] = splat(x[c]);
      b[c] = load(args.plane[c] + slot);
    }
    interval_and_product<true, vdouble, VectorFma>(a, b, args.metric, dim, square, dot);
    return abs(square);
  } else {
    vdouble square{};
    for (int c = 0; c < dim; ++c) {
      vdouble d = x[c] - load(args.plane[c] + slot);
      if (kind == Separation::periodic && c == dim - 1) {
        d = abs(d);
        d = min_of(kTwoPi - d, d);
      }
      square += kind == Separation::signature ? d * d * args.metric[c] : d * d;
    }
    return kind == Separation::signature ? abs(square) : square;
  }
}

constexpr int64_t kTile = 256;  // candidates at a time: their distances stay in the first cache

// Distances squared of the receiver in `slot` to the candidates [begin, end); up to the next vector, and where the
// receiver is no neighbour of its own, inf.
template <Separation kind, int kDim>
void distances(const NeighborsArgs& args, int64_t slot, int64_t begin, int64_t end, double* out) {
  double x[kDim];
  for (int c = 0; c < (kDim < kMaxDim ? kDim : args.dim); ++c) x[c] = args.plane[c][slot];
  int64_t l = 0;
  for (; l < end - begin; l += W) store(out + l, distance2<kind, kDim>(args, x, begin + l));
  while (l > end - begin) out[--l] = kInfinity;
  if (!args.loop && begin <= slot && slot < end) out[slot - begin] = kInfinity;
}
using Distances = void (*)(const NeighborsArgs&, int64_t, int64_t, int64_t, double*);

// The dimensions in use are unrolled; the others share one loop.
Distances choose(const NeighborsArgs& args) {
  switch (args.separation) {
    case Separation::periodic: return distances<Separation::periodic, 2>;
    case Separation::compensated:
      return args.dim == 4 ? distances<Separation::compensated, 4> : distances<Separation::compensated, kMaxDim>;
    case Separation::signature:
      return args.dim == 4 ? distances<Separation::signature, 4> : distances<Separation::signature, kMaxDim>;
    default:
      return args.dim == 2   ? distances<Separation::euclidean, 2>
             : args.dim == 3 ? distances<Separation::euclidean, 3>
             : args.dim == 4 ? distances<Separation::euclidean, 4>
                             : distances<Separation::euclidean, kMaxDim>;
  }
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each mask of four lanes the lanes that are set, first of all: as 32-bit halves, and as numbers.
struct Compress {
  alignas(32) int32_t halves[16][8] = {};
  alignas(32) int64_t lane[16][4] = {};
  constexpr Compress() {
    for (int mask = 0; mask < 16; ++mask)
      for (int l = 0, to = 0; l < 4; ++l)
        if (mask >> l & 1) {
          halves[mask][2 * to] = 2 * l;
          halves[mask][2 * to + 1] = 2 * l + 1;
          lane[mask][to++] = l;
        }
  }
};
constexpr Compress kCompress;
#endif

// The candidates of a tile at a distance of at most `limit`, in order; inf and NaN are not. Returns how many.
inline int64_t select(const double* square, int64_t count, double limit, double* near, int64_t* place) {
  int64_t found = 0;
#if defined(__AVX512F__)
  for (int64_t l = 0; l < count; l += W) {
    const vdouble v = load(square + l);
    const __mmask8 mask = __mmask8(lane_mask<double>(v <= limit));
    store(near + found, vdouble(_mm512_maskz_compress_pd(mask, (__m512d)v)));
    _mm512_storeu_si512(place + found, _mm512_maskz_compress_epi64(mask, (__m512i)(lane_numbers<double>() + l)));
    found += __builtin_popcount(mask);
  }
#elif defined(__AVX2__)
  for (int64_t l = 0; l < count; l += W) {
    const vdouble v = load(square + l);
    const unsigned mask = lane_mask<double>(v <= limit);
    const __m256i from = _mm256_load_si256((const __m256i*)kCompress.halves[mask]);
    store(near + found, (vdouble)_mm256_permutevar8x32_ps((__m256)v, from));
    const Bits<double> places = (Bits<double>)_mm256_load_si256((const __m256i*)kCompress.lane[mask]) + l;
    std::memcpy(place + found, &places, sizeof places);
    found += __builtin_popcount(mask);
  }
#else
  for (int64_t l = 0; l < count; ++l) {
    near[found] = square[l];
    place[found] = l;
    found += square[l] <= limit;
  }
#endif
  return found;
}

inline int64_t count_within(const double* square, int64_t count, double limit) {
  int64_t found = 0;
  for (int64_t l = 0; l < count; l += W) found += __builtin_popcount(lane_mask<double>(load(square + l) <= limit));
  return found;
}

// A distance within which a tile has at least k candidates, for k <= kRoom, and few more if it can be had cheaply.
// The farthest of kRoom lanes' nearest candidates is one; it is then halved towards the k-th.
template <int kRoom>
inline double enough(const double* square, int64_t count, int64_t k) {
  constexpr int R = kRoom / W;
  vdouble nearest[R];
  for (int r = 0; r < R; ++r) nearest[r] = splat(kInfinity);
  for (int64_t l = 0; l < count; l += kRoom)
    for (int r = 0; r < R; ++r) {
      if (l + r * W >= count) break;
      const vdouble v = load(square + l + r * W);
      nearest[r] = v < nearest[r] ? v : nearest[r];
    }
  for (int r = 1; r < R; ++r) nearest[0] = max_of(nearest[0], nearest[r]);
  double low = 0, high = 0;
  for (int l = 0; l < W; ++l) high = std::max(high, nearest[0][l]);
  for (int probe = 0; probe < 3; ++probe) {
    const double middle = 0.5 * (low + high);
    const bool held = count_within(square, count, middle) >= k;
    high = held ? middle : high;
    low = held ? low : middle;
  }
  return high;
}

struct Neighbor {
  double square;
  int64_t node;
  bool operator<(const Neighbor& other) const {
    return square < other.square || (square == other.square && node < other.node);
  }
};

// What is done with candidates: each sink keeps `limit`, the distance beyond which none is of use to it.

struct Count {
  double limit;
  int64_t found = 0;
  void start(const double*, int64_t) {}
  void add(Neighbor) { ++found; }
};

// Each lane takes its left neighbour's value; the first takes the last one of `before`.
template <class V>
inline V shifted(V before, V v) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(before, v, 7, 8, 9, 10, 11, 12, 13, 14);
#elif defined(__AVX2__)
  return __builtin_shufflevector(before, v, 3, 4, 5, 6);
#else
  return __builtin_shufflevector(before, v, 1, 2);
#endif
}

// The k nearest so far, in order, in registers: for k <= kRoom. They are the last k of kRoom lanes, so that the
// farthest is the last one of all; in front of them are lanes that are nearer than anything. kAscending: candidates
// come by rising index, and one equally far belongs behind those that are there.
template <int kRoom, bool kAscending>
struct Sorted {
  static constexpr int R = kRoom / W;
  double limit;
  int64_t k;
  vdouble square[R];
  Bits<double> node[R] = {};

  Sorted(double limit, int64_t k) : limit(limit), k(k) {
    for (int r = 0; r < R; ++r) square[r] = lane_numbers<double>() + r * W < kRoom - k ? splat(-1.0) : splat(kInfinity);
  }
  // Looks at the first tile before any of it is added: most of it need not be.
  void start(const double* square, int64_t count) { limit = std::min(limit, enough<kRoom>(square, count, k)); }
  // A candidate that is farther than all changes nothing.
  EK_INLINE void add(Neighbor n) {
    const vdouble s = splat(n.square);
    const Bits<double> i = Bits<double>{} + n.node;
    for (int r = R - 1; r >= 0; --r) {
      const vdouble left = shifted(r > 0 ? square[r - 1] : splat(-1.0), square[r]);
      const Bits<double> left_node = shifted(r > 0 ? node[r - 1] : Bits<double>{}, node[r]);
      Bits<double> before = s < square[r], before_left = s < left;
      if (!kAscending) {
        before |= (s == square[r]) & (i < node[r]);
        before_left |= (s == left) & (i < left_node);
      }
      square[r] = before ? (before_left ? left : s) : square[r];
      node[r] = before ? (before_left ? left_node : i) : node[r];
    }
    limit = std::min(limit, square[R - 1][W - 1]);
  }
  void write(double* square_out, int64_t* index) const {
    for (int64_t t = 0; t < k; ++t) {
      const int64_t l = kRoom - k + t;
      square_out[t] = square[l / W][l % W];
      index[t] = square_out[t] < kInfinity ? node[l / W][l % W] : -1;
    }
  }
};

// Candidates as they come; whenever there is no more room, all but the k nearest are dropped.
struct Pool {
  double limit;
  Neighbor* kept;
  int64_t k, room, found = 0;

  void start(const double*, int64_t) {}
  void add(Neighbor n) {
    kept[found++] = n;
    if (found < room) return;
    drop();
    limit = kept[k - 1].square;
  }
  void drop() {
    if (found <= k) return;
    std::nth_element(kept, kept + (k - 1), kept + found);
    found = k;
  }
  void write(double* square, int64_t* index) {
    drop();
    std::sort(kept, kept + found);
    for (int64_t t = 0; t < k; ++t) {
      square[t] = t < found ? kept[t].square : kInfinity;
      index[t] = t < found ? kept[t].node : -1;
    }
  }
};

// Shows the candidates of the receiver in `slot` to the sink: those of its event, all of them by rising index where
// there are no strips. Otherwise the search goes outwards from the receiver, in its own strip, number `own`, and from
// strip to strip: a side ends at the first candidate, or strip, that one coordinate alone puts too far. That is exact,
// since a rounded sum of terms that are not negative is never below one of them.
template <class Sink>
void search(const NeighborsArgs& args, Distances distances, int64_t slot, int64_t event, int64_t own, Sink& sink) {
  alignas(64) double square[kTile], near[kTile + W];
  alignas(64) int64_t place[kTile + W];

  auto tile = [&](int64_t begin, int64_t end, bool start) {
    distances(args, slot, begin, end, square);
    const int64_t count = (end - begin + W - 1) / W * W;
    if (start) sink.start(square, count);
    const int64_t found = select(square, count, sink.limit, near, place);
    for (int64_t t = 0; t < found; ++t) sink.add({near[t], args.node[begin + place[t]]});
  };
  const SlotOrder& order = args.order[event];
  if (order.strips == 0) {
    const int64_t first = args.events.ptr[event], last = args.last[event];
    for (int64_t s = first; s < last; s += kTile) tile(s, std::min(s + kTile, last), s == first);
    return;
  }
  auto too_far = [&](int64_t axis, double d) { return d * d * args.metric[axis] > sink.limit; };
  const double* across = args.plane[order.across];
  auto beyond = [&](int64_t s) { return too_far(order.across, across[slot] - across[s]); };
  // The candidates of a strip that are not seen yet: [begin, left) and [right, end).
  auto outwards = [&](const Strip& strip, int64_t left, int64_t right) {
    constexpr int64_t kStep = 32;
    while (left > strip.begin || right < strip.end) {
      if (right < strip.end) {
        const int64_t end = std::min(right + kStep, strip.end);
        if (beyond(right))
          right = strip.end;
        else
          tile(std::exchange(right, end), end, false);
      }
      if (left > strip.begin) {
        const int64_t begin = std::max(left - kStep, strip.begin);
        if (beyond(left - 1))
          left = strip.begin;
        else
          tile(begin, std::exchange(left, begin), false);
      }
    }
  };
  const Strip* strips = args.strip + order.first;
  constexpr int64_t kFirst = kTile / 4;
  const int64_t begin = std::max(slot - kFirst, strips[own].begin), end = std::min(slot + kFirst, strips[own].end);
  tile(begin, end, true);
  outwards(strips[own], begin, end);
  const double x = args.plane[order.along][slot];
  auto enter = [&](const Strip& strip) {
    const int64_t at = std::lower_bound(across + strip.begin, across + strip.end, across[slot]) - across;
    outwards(strip, at, at);
  };
  int64_t below = own, above = own + 1;  // not entered yet: those in front of `below`, and from `above` on
  while (below > 0 || above < order.strips) {
    if (above < order.strips) {
      if (too_far(order.along, strips[above].low - x))
        above = order.strips;
      else
        enter(strips[above++]);
    }
    if (below > 0) {
      if (too_far(order.along, x - strips[below - 1].high))
        below = 0;
      else
        enter(strips[--below]);
    }
  }
}

// Calls visit(slot, event, strip of the event, whether the node is finite) for every slot.
template <class Visit>
inline void over_slots(const NeighborsArgs& args, int64_t begin, int64_t end, Visit&& visit) {
  int64_t event = begin < end ? args.events.event_of(begin) : 0, own = 0;
  for (int64_t s = begin; s < end; ++s) {
    while (s >= args.events.ptr[event + 1]) ++event, own = 0;
    const SlotOrder& order = args.order[event];
    while (own + 1 < order.strips && s >= args.strip[order.first + own].end) ++own;
    visit(s, event, own, s < args.last[event]);
  }
}

struct Scratch {
  explicit Scratch(int64_t room) : p(static_cast<Neighbor*>(std::malloc(size_t(room) * sizeof(Neighbor)))) {}
  ~Scratch() { std::free(p); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Neighbor* p;
};

int64_t count_of(const NeighborsArgs& args, int64_t slot) {
  return args.first[args.node[slot] + 1] - args.first[args.node[slot]];
}

}  // namespace

template <class Isa>
void NeighborsCpu<Isa>::nearest(const NeighborsArgs& args, int64_t begin, int64_t end) {
  const Distances distances = choose(args);
  const int64_t k = args.k, room = 2 * k + 64;
  Scratch scratch(k <= 32 ? 0 : room);
  over_slots(args, begin, end, [&](int64_t s, int64_t event, int64_t own, bool finite) {
    auto fill = [&](auto sink) {
      if (finite) search(args, distances, s, event, own, sink);
      sink.write(args.square + args.node[s] * k, args.index + args.node[s] * k);
    };
    auto sorted = [&](auto room) {
      if (args.order[event].strips == 0)
        fill(Sorted<room(), true>(args.limit, k));
      else
        fill(Sorted<room(), false>(args.limit, k));
    };
    if (k <= 8)
      sorted(std::integral_constant<int, 8>{});
    else if (k <= 16)
      sorted(std::integral_constant<int, 16>{});
    else if (k <= 32)
      sorted(std::integral_constant<int, 32>{});
    else
      fill(Pool{args.limit, scratch.p, k, room});
  });
}

template <class Isa>
void NeighborsCpu<Isa>::count(const NeighborsArgs& args, int64_t begin, int64_t end) {
  const Distances distances = choose(args);
  over_slots(args, begin, end, [&](int64_t s, int64_t event, int64_t own, bool finite) {
    Count sink{args.limit};
    if (finite) search(args, distances, s, event, own, sink);
    args.count[args.node[s]] = sink.found;
  });
}

template <class Isa>
void NeighborsCpu<Isa>::within(const NeighborsArgs& args, int64_t begin, int64_t end) {
  const Distances distances = choose(args);
  int64_t most = 0;
  for (int64_t s = begin; s < end; ++s) most = std::max(most, count_of(args, s));
  Scratch scratch(most + 1);
  over_slots(args, begin, end, [&](int64_t s, int64_t event, int64_t own, bool finite) {
    Pool sink{args.limit, scratch.p, count_of(args, s), most + 1};
    if (finite) search(args, distances, s, event, own, sink);
    const int64_t out = args.first[args.node[s]];
    sink.write(args.square + out, args.index + out);
  });
}

template struct NeighborsCpu<EK_ISA>;

}  // namespace ek
