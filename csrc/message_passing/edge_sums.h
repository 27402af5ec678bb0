// Sums over edges of what edges bring to the first layer, u_ij = the invariants asked for and the edge attributes, and
// what a gradient of those sums makes of the coordinates and the attributes. All in float64, see edge_norm.h.
#pragma once

#include "../core/minkowski.h"
#include "edge_norm.h"

namespace ek {

// Without edge attributes the sums come from the moments of the invariants, [n, 7], see invariants/moments.h.
template <class T>
struct SumsFromMoments {
  EdgeNormArgs<T> norm;
  const double* moments = nullptr;
  bool interval = true, product = true;

  // Items: nodes, and one more for the sums over all of them.
  template <int kStep>
  EK_HD void run(int64_t i, int64_t first) const {
    if (first > 0) return;
    const int K = norm.columns, skip = interval ? 0 : 1;
    if (i < norm.graph.num_nodes) {
      for (int k = 0; k < K; ++k) {
        norm.received[i * K + k] = moments[i * 7 + skip + k];
        norm.sent[i * K + k] = moments[i * 7 + 2 + skip + k];
      }
      return;
    }
    for (int at = 0; at < K * K; ++at) {
      const int64_t entry = 4 + (K == 1 ? 2 * skip : at / K + at % K);
      double sum = 0;
      for (int64_t j = 0; j < norm.graph.num_nodes; ++j) sum += moments[j * 7 + entry];
      norm.gram[at] = sum;
    }
  }
};

// The gradients of the moments.
template <class T>
struct MomentsPull {
  EdgeNormArgs<T> norm;
  double* grad = nullptr;  // [n, 7]
  bool interval = true, product = true;

  // Items: nodes.
  template <int kStep>
  EK_HD void run(int64_t i, int64_t first) const {
    if (first > 0) return;
    const int K = norm.columns, skip = interval ? 0 : 1;
    double* g = grad + i * 7;
    for (int k = 0; k < 7; ++k) g[k] = 0;
    const double *pull = norm.pull, *node = norm.node_pull + i * 2 * K;
    for (int k = 0; k < K; ++k) {
      g[skip + k] = pull[K * K + k] + node[k];
      g[2 + skip + k] = node[K + k];
      g[4 + 2 * (skip + k)] = pull[k * K + k] / 2;
    }
    if (K == 2) g[5] = pull[1];
  }
};

// With edge attributes, edge by edge.
template <class T, class X>
struct EdgeColumns {
  struct ScalarFma {
    static EK_HD double apply(double a, double b, double c) { return ::fma(a, b, c); }
  };
  using CompensatedInvariants = IntervalAndProduct<(sizeof(X) == 8), double, ScalarFma>;

  const X* x = nullptr;  // [n, dim]
  int dim = 4;
  double metric[kMaxDim] = {};
  bool interval = true, product = true, psi = true;
  const T* edge_attr = nullptr;  // [E, edge_width]
  int64_t edge_width = 0;

  EK_HD int invariants() const { return int(interval) + int(product); }
  EK_HD static double squash(double z) { return z < 0 ? -log1p(-z) : log1p(z); }

  // The invariants of i and j before psi, interval first; out[1] is read if there are two. Small arrays are indexed by
  // constants throughout: on a GPU others do not lie in registers.
  EK_HD void products(int64_t i, int64_t j, double* out) const {
    const auto sums = both(i, j);
    out[0] = interval ? sums.interval() : sums.product();
    out[1] = sums.product();
  }
  EK_HD auto both(int64_t i, int64_t j) const {
    CompensatedInvariants sums;
    for (int c = 0; c < dim; ++c) sums.add(double(x[i * dim + c]), double(x[j * dim + c]), metric[c]);
    return sums;
  }
  EK_HD double column(const double* invariant, int64_t edge, int k) const {
    if (k >= invariants()) return double(edge_attr[edge * edge_width + k - invariants()]);
    const double z = k == 0 ? invariant[0] : invariant[1];
    return psi ? squash(z) : z;
  }
};

template <class T, class X>
struct EdgeSums {
  EdgeNormArgs<T> norm;
  EdgeColumns<T, X> columns;

  // Items: chunks. Sums of nodes, and partial sums [K K] over the chunk's received edges.
  template <int kStep>
  EK_HD void run(int64_t chunk, int64_t first) const {
    const int K = norm.columns;
    double* gram = norm.partial + chunk * K * K;
    for (int64_t at = first; at < K * K; at += kStep) gram[at] = 0;
    for (int64_t i = chunk * norm.chunk(); i < norm.chunk_end(chunk); ++i)
      for (int side = 0; side < 2; ++side) {
        const int64_t event = norm.event(i);
        const Row row = side == 0 ? norm.graph.received(i, event) : norm.graph.sent(i, event);
        double* out = (side == 0 ? norm.received : norm.sent) + i * K;
        for (int64_t k = first; k < K; k += kStep) out[k] = 0;
        for (int64_t e = 0; e < row.count; ++e) {
          const int64_t j = row.node(e), edge = row.edge(e);
          double invariant[2] = {};
          if (columns.invariants() > 0) columns.products(i, j, invariant);
          for (int64_t k = first; k < K; k += kStep) out[k] += columns.column(invariant, edge, int(k));
          for (int64_t at = first; side == 0 && at < K * K; at += kStep)
            gram[at] += columns.column(invariant, edge, int(at / K)) * columns.column(invariant, edge, int(at % K));
        }
      }
  }
};

// One item: the Gram matrix.
template <class T>
struct FinishGram {
  EdgeNormArgs<T> norm;
  template <int kStep>
  EK_HD void run(int64_t, int64_t first) const {
    const int size = norm.columns * norm.columns;
    for (int64_t at = first; at < size; at += kStep) {
      double sum = 0;
      for (int64_t k = 0; k < norm.chunks(); ++k) sum += norm.partial[k * size + at];
      norm.gram[at] = sum;
    }
  }
};

// Items: nodes. Adds to the gradients of x and of the attributes of received edges.
template <class T, class X>
struct EdgePull {
  EdgeNormArgs<T> norm;
  EdgeColumns<T, X> columns;
  X* grad_x = nullptr;          // [n, dim] or absent
  T* grad_edge_attr = nullptr;  // [E, edge_width] or absent

  template <int kStep>
  EK_HD void run(int64_t i, int64_t first) const {
    if (first > 0) return;
    const int K = norm.columns, invariants = columns.invariants();
    const int64_t event = norm.event(i);
    double total[kMaxDim] = {};
    for (int side = 0; side < 2; ++side) {
      const Row row = side == 0 ? norm.graph.received(i, event) : norm.graph.sent(i, event);
      for (int64_t e = 0; e < row.count; ++e) {
        const int64_t j = row.node(e), edge = row.edge(e), receiver = side == 0 ? i : j, sender = side == 0 ? j : i;
        double invariant[2] = {};
        if (invariants > 0) columns.products(i, j, invariant);
        const auto pull = [&](int k) {
          double g =
              norm.pull[K * K + k] + norm.node_pull[receiver * 2 * K + k] + norm.node_pull[sender * 2 * K + K + k];
          for (int l = 0; l < K; ++l) g += norm.pull[k * K + l] * columns.column(invariant, edge, l);
          return g;
        };
        if (side == 0 && grad_edge_attr)
          for (int k = invariants; k < K; ++k) grad_edge_attr[edge * columns.edge_width + k - invariants] += T(pull(k));
        if (!grad_x) continue;
        const auto scaled = [&](int k, double z) {
          return k < invariants ? pull(k) * (columns.psi ? 1 / (1 + fabs(z)) : 1) : 0.0;
        };
        const double first_of = scaled(0, invariant[0]), second = scaled(1, invariant[1]);
        const double to_interval = columns.interval ? first_of : 0, to_product = columns.interval ? second : first_of;
        for (int c = 0; c < kMaxDim; ++c) {
          if (c >= columns.dim) continue;
          const double a = double(columns.x[i * columns.dim + c]), b = double(columns.x[j * columns.dim + c]);
          total[c] += 2 * to_interval * (a - b) + to_product * b;
        }
      }
    }
    if (grad_x)
      for (int c = 0; c < kMaxDim; ++c)
        if (c < columns.dim) grad_x[i * columns.dim + c] += X(total[c] * columns.metric[c]);
  }
};

}  // namespace ek
