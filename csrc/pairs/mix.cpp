// Arithmetic per pair at 35 -> 60 channels: forward 2 x 35 x 60 multiply-adds, backward twice that; bytes: 95 floats
// read or written forward, 190 backward. A tile of pairs (i, j) and its mirror (j, i) are worked on together: each
// row of T is loaded once and feeds both outputs from cache.
#include "../core/isa.h"
#include "matrix_product.h"
#include "pairs.h"
#include "particles.h"

namespace ek {
namespace {

// The matrices in the kernels' order, one after another: W and V forward, their transposes backward.
template <class T>
struct PackedMix {
  const T *identity = nullptr, *transpose = nullptr;
  int64_t size = 0;

  PackedMix(const Rank2MixArgs<T>& a, bool backward, const void* base) {
    const T* p = static_cast<const T*>(base);
    const int64_t each = backward ? panels_size<T>(a.width, a.in) : panels_size<T>(a.in, a.width);
    if (a.identity) identity = p;
    size += a.identity ? each : 0;
    if (a.transpose) transpose = p + size;
    size += a.transpose ? each : 0;
  }
};

// Particles of a tile's side: two tiles of rows in and out fill half of the second-level cache.
inline int64_t tile_side(int64_t bytes_of_pair) {
  int64_t side = 8;
  while (side < 32 && 2 * (side + 2) * (side + 2) * bytes_of_pair <= (1 << 19)) side += 2;
  return side;
}

// The tiles of an event: f(i0, i1, j0, j1), i0 <= j0, for those whose first row is in [p0, p1).
template <class F>
inline void over_tiles(int64_t n, int64_t side, int64_t p0, int64_t p1, F&& f) {
  const int64_t tiles = (n + side - 1) / side;
  for (int64_t s = 0; s < tiles; ++s) {
    const int64_t i0 = n * s / tiles, i1 = n * (s + 1) / tiles;
    if (i0 < p0 || i0 >= p1) continue;
    for (int64_t t = s; t < tiles; ++t) f(i0, i1, n * t / tiles, n * (t + 1) / tiles);
  }
}

// out_ij = act(x_ij identity + x_ji transpose + what broadcast makes of a table), for a tile of pairs of one event:
// particles i0 + i, j0 + j, i < rows, j < columns.
template <class T>
struct Tile {
  int64_t i0, j0, rows, columns;
  int64_t in, width;
  const T *identity, *transpose;  // packed; one may be absent
  const T* x;                     // x_ij of the tile's first pair, and what a step of i and of j adds to the address
  int64_t x_i, x_j;
  const T* mirror;  // the same of x_ji
  int64_t mirror_i, mirror_j;
  const T* table;  // [3][width] of the event's first particle, or absent
  T slope;
  T* out;
  int64_t out_i, out_j;
};

// The channels of one panel, of row i of the tile.
template <int kWidth, class T>
inline void mix_row(const Tile<T>& t, int64_t i, int begin) {
  constexpr int W = lanes<T>;
  const int64_t channel = int64_t(begin) * W, offset = panel_offset<T>(t.in, begin);
  const Tail<T> tail(t.width - channel - (kWidth - 1) * W);
  auto table = [&](int64_t p, int slot) { return t.table + (p * 3 + slot) * t.width + channel; };
  Vec<T> row[kWidth] = {};
  if (t.table) load_row(table(t.i0 + i, 2), row, tail);
  Factor<T> factors[2];
  int count = 0;
  if (t.identity) factors[count++] = {t.x + i * t.x_i, t.x_j, t.identity + offset};
  if (t.transpose) factors[count++] = {t.mirror + i * t.mirror_i, t.mirror_j, t.transpose + offset};
  const T* none = nullptr;
  multiply_rows<kWidth>(factors, count, t.columns, t.in, none, [&](int64_t j, Vec<T>(&x)[kWidth]) {
    if (t.table) {
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) x[v] += row[v];
      add_row(table(t.j0 + j, 1), x, tail);
      if (t.i0 + i == t.j0 + j) add_row(table(t.i0 + i, 0), x, tail);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) x[v] = act(x[v], t.slope);
    store_row(t.out + i * t.out_i + j * t.out_j + channel, x, tail);
  });
}

// Row by row, all panels of the matrices for each: a row of x, its mirror and the panels stay in the first-level cache.
template <class T>
inline void mix_tile(const Tile<T>& t) {
  for (int64_t i = 0; i < t.rows; ++i)
    for_panels<kMostWidth>(int(padded<T>(t.width) / lanes<T>),
                           [&](auto panel, int begin) { mix_row<decltype(panel)::value>(t, i, begin); });
}

template <class T>
inline void forward_tile(const Rank2MixArgs<T>& a, const PackedMix<T>& packed, int64_t node, int64_t pair, int64_t n,
                         int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  const int64_t C = a.in, D = a.width;
  const T *x = a.tensor + (pair + i0 * n + j0) * C, *mirror = a.tensor + (pair + j0 * n + i0) * C;
  const T* table = a.table ? a.table + node * 3 * D : nullptr;
  mix_tile<T>({i0, j0, i1 - i0, j1 - j0, C, D, packed.identity, packed.transpose, x, n * C, C, mirror, C, n * C, table,
               a.slope, a.out + (pair + i0 * n + j0) * D, n * D, D});
}

// A tile of G in scratch, [i1 - i0][j1 - j0] rows of padded width.
template <class T>
struct GradTile {
  T* rows;
  int64_t outer, inner, stride;  // stride of a row

  T* at(int64_t i, int64_t j) const { return rows + (i * inner + j) * stride; }

  void fill(const Rank2MixArgs<T>& a, int64_t pair, int64_t n, int64_t i0, int64_t j0) const {
    constexpr int W = lanes<T>;
    const int64_t last = stride - W;
    const Tail<T> tail(a.width - last);
    for (int64_t i = 0; i < outer; ++i)
      for (int64_t j = 0; j < inner; ++j) {
        const int64_t from = (pair + (i0 + i) * n + j0 + j) * a.width;
        T* to = at(i, j);
        for (int64_t k = 0; k <= last; k += W) {
          const bool whole = k < last;
          Vec<T> g = whole ? load(a.grad + from + k) : tail.load(a.grad + from + k);
          if (a.activated)
            g = through(g, whole ? load(a.activated + from + k) : tail.load(a.activated + from + k), a.slope);
          store(to + k, g);
        }
      }
  }
};

// grad_tensor of the tile `here` of G; `mirror` holds the pairs (j, i).
template <class T>
inline void tensor_gradient(const Rank2MixArgs<T>& a, const PackedMix<T>& packed, int64_t node, int64_t pair, int64_t n,
                            int64_t i0, int64_t j0, const GradTile<T>& here, const GradTile<T>& mirror) {
  const int64_t C = a.in, stride = here.stride;
  const T* table = a.table ? a.table + node * 3 * C : nullptr;
  mix_tile<T>({i0, j0, here.outer, here.inner, a.width, C, packed.identity, packed.transpose, here.rows,
               here.inner * stride, stride, mirror.rows, stride, mirror.inner * stride, table, T(1),
               a.grad_tensor + (pair + i0 * n + j0) * C, n * C, C});
}

template <class T>
int64_t backward_side(const Rank2MixArgs<T>& a) {
  return tile_side((2 * a.in + 2 * padded<T>(a.width)) * int64_t(sizeof(T)));
}
template <class T>
int64_t grad_tile_size(const Rank2MixArgs<T>& a) {
  const int64_t side = backward_side(a);
  return side * side * padded<T>(a.width);
}
template <class T>
int64_t weight_size(const Rank2MixArgs<T>& a) {
  return a.in * padded<T>(a.width);
}

}  // namespace

template <class Isa, class T>
int64_t Rank2MixCpu<Isa, T>::packed_bytes(const Rank2MixArgs<T>& a, bool backward) {
  if (Rank2PlanesCpu<Isa, T>::fits(a)) return 0;
  return PackedMix<T>(a, backward, nullptr).size * int64_t(sizeof(T));
}

template <class Isa, class T>
void Rank2MixCpu<Isa, T>::pack(const Rank2MixArgs<T>& a, bool backward, void* base) {
  if (Rank2PlanesCpu<Isa, T>::fits(a)) return;
  const PackedMix<T> packed(a, backward, base);
  auto put = [&](const T* w, const T* to) {
    const int64_t width = a.width;
    if (!w) return;
    if (backward)
      pack_matrix(width, a.in, [&](int64_t k, int64_t o) { return w[o * width + k]; }, const_cast<T*>(to));
    else
      pack_matrix(a.in, width, [&](int64_t k, int64_t o) { return w[k * width + o]; }, const_cast<T*>(to));
  };
  put(a.identity, packed.identity);
  put(a.transpose, packed.transpose);
}

template <class Isa, class T>
void Rank2MixCpu<Isa, T>::forward(const Rank2MixArgs<T>& a, const void* base, void* scratch, int64_t begin,
                                  int64_t end) {
  if (Rank2PlanesCpu<Isa, T>::fits(a)) return Rank2PlanesCpu<Isa, T>::forward(a, scratch, begin, end);
  const PackedMix<T> packed(a, false, base);
  const int64_t side = tile_side((a.in + a.width) * int64_t(sizeof(T)));
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    over_tiles(n, side, p0, p1, [&](int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
      forward_tile(a, packed, node, pair, n, i0, i1, j0, j1);
      if (i0 != j0) forward_tile(a, packed, node, pair, n, j0, j1, i0, i1);
    });
  });
}

template <class Isa, class T>
Rank2Plan Rank2MixCpu<Isa, T>::plan(const Rank2MixArgs<T>& a) {
  constexpr int64_t kGrain = 1024;  // pairs
  const GraphView& g = a.graph;
  Rank2Plan plan;
  plan.chunk_bytes =
      ((a.grad_identity != nullptr) + (a.grad_transpose != nullptr)) * weight_size(a) * int64_t(sizeof(T));
  if (g.num_nodes == 0) return plan;
  const int64_t total = tiles_before(g, g.num_nodes);
  plan.chunks = 1;
  while (plan.chunks < Rank2Plan::kMostChunks && total / (2 * plan.chunks) >= kGrain) plan.chunks *= 2;
  for (int k = 1; k < plan.chunks; ++k) {
    int64_t lo = plan.first[k - 1], hi = g.num_nodes;
    while (lo < hi) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (tiles_before(g, mid) < total / plan.chunks * k)
        lo = mid + 1;
      else
        hi = mid;
    }
    plan.first[k] = lo;
  }
  plan.first[plan.chunks] = g.num_nodes;
  return plan;
}

template <class Isa, class T>
int64_t Rank2MixCpu<Isa, T>::scratch_bytes(const Rank2MixArgs<T>& a, bool backward) {
  if (Rank2PlanesCpu<Isa, T>::fits(a)) return Rank2PlanesCpu<Isa, T>::scratch_bytes(a);
  return !backward ? 0 : 2 * grad_tile_size(a) * int64_t(sizeof(T));
}

template <class Isa, class T>
void Rank2MixCpu<Isa, T>::backward(const Rank2MixArgs<T>& a, const void* base, const Rank2Plan& plan, int chunk,
                                   void* partials, void* scratch) {
  T* grad_identity = reinterpret_cast<T*>(static_cast<char*>(partials) + chunk * plan.chunk_bytes);
  T* grad_transpose = grad_identity + (a.grad_identity ? weight_size(a) : 0);
  for (int64_t k = 0; k < plan.chunk_bytes / int64_t(sizeof(T)); k += lanes<T>) store(grad_identity + k, Vec<T>{});
  const int64_t begin = plan.first[chunk], end = plan.first[chunk + 1];
  if (Rank2PlanesCpu<Isa, T>::fits(a))
    return Rank2PlanesCpu<Isa, T>::backward(a, scratch, begin, end, grad_identity, grad_transpose);
  const PackedMix<T> packed(a, true, base);
  const int64_t side = backward_side(a), stride = padded<T>(a.width), C = a.in;
  over_events(a.graph, begin, end, [&](int64_t node, int64_t pair, int64_t n, int64_t p0, int64_t p1) {
    over_tiles(n, side, p0, p1, [&](int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
      const bool mirrored = i0 != j0;
      T* rows = static_cast<T*>(scratch);
      const GradTile<T> here{rows, i1 - i0, j1 - j0, stride};
      const GradTile<T> mirror = mirrored ? GradTile<T>{rows + grad_tile_size(a), j1 - j0, i1 - i0, stride} : here;
      here.fill(a, pair, n, i0, j0);
      if (mirrored) mirror.fill(a, pair, n, j0, i0);
      if (a.grad_tensor) {
        tensor_gradient(a, packed, node, pair, n, i0, j0, here, mirror);
        if (mirrored) tensor_gradient(a, packed, node, pair, n, j0, i0, mirror, here);
      }
      const T *t_here = a.tensor + (pair + i0 * n + j0) * C, *t_mirror = a.tensor + (pair + j0 * n + i0) * C;
      const int64_t across = here.inner * stride, down = mirror.inner * stride;
      if (a.grad_identity) {
        const Sweep<T> sweeps[2] = {{t_here, n * C, C, here.rows, across, stride, here.outer, here.inner},
                                    {t_mirror, n * C, C, mirror.rows, down, stride, mirror.outer, mirror.inner}};
        weight_gradient(C, a.width, sweeps, 1 + mirrored, grad_identity);
      }
      if (a.grad_transpose) {
        const Sweep<T> sweeps[2] = {{t_mirror, C, n * C, here.rows, across, stride, here.outer, here.inner},
                                    {t_here, C, n * C, mirror.rows, down, stride, mirror.outer, mirror.inner}};
        weight_gradient(C, a.width, sweeps, 1 + mirrored, grad_transpose);
      }
    });
  });
}

template <class Isa, class T>
void Rank2MixCpu<Isa, T>::reduce_weights(const Rank2MixArgs<T>& a, const Rank2Plan& plan, void* partials) {
  const int64_t stride = padded<T>(a.width);
  T* first = static_cast<T*>(partials);
  if (plan.chunks > 0) add_chunks(first, plan.chunk_bytes / int64_t(sizeof(T)), plan.chunks);
  T* const outs[2] = {a.grad_identity, a.grad_transpose};
  for (T* out : outs) {
    if (!out) continue;
    for (int64_t c = 0; c < a.in; ++c)
      for (int64_t d = 0; d < a.width; ++d) out[c * a.width + d] = plan.chunks > 0 ? first[c * stride + d] : T(0);
    first += weight_size(a);
  }
}

template struct Rank2MixCpu<EK_ISA, float>;
template struct Rank2MixCpu<EK_ISA, double>;

}  // namespace ek
