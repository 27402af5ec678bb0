// Batch norm of the first layer's output over all edges, at the cost of nodes, in float64:
//   z_ij = A_i + B_j + W u_ij        A, B [n, H]; u_ij: the K invariants and edge attributes of edge j -> i
//   mean, variance of each channel over the E edges;  norm(z) = scale z + shift
// Sums over edges are sums over nodes, given for each node its degrees, the sum of the rows at the other ends of its
// edges and the sums of u over its edges. Each part of z is centred by itself, so that a large mean costs no digits.
//
// One source for every device: a pass is a functor called for items 0 .. count - 1 (chunks of nodes, nodes, rows or
// channels); within an item, channels first, first + kStep, ... are the caller's. A CPU thread has all of them.
#pragma once

#include <cmath>

#include "../core/graph.h"

namespace ek {

inline constexpr int64_t kMostNormChunks = 64;

template <class T>
struct EdgeNormArgs {
  GraphView graph;
  int64_t width = 0;                          // H
  int columns = 0;                            // K
  const T* receiver = nullptr;                // A [n, H]
  const T* sender = nullptr;                  // B [n, H]
  bool ends = true;                           // whether z reads nodes; otherwise A is one row, B zero
  const T* weight = nullptr;                  // W [H, K]
  const T *gamma = nullptr, *beta = nullptr;  // [H] or absent
  double eps = 0;

  // Sums of u: received[i K + k] over the edges that node i receives, sent[...] over those it sends, gram [K, K] of u_k
  // u_l over all edges.
  double *received = nullptr, *sent = nullptr, *gram = nullptr;

  double* partial = nullptr;                  // [chunks, rows of the pass, H]
  double *sum_a = nullptr, *sum_b = nullptr;  // [events or nodes, H]: of A, B over an event, or a node's neighbours
  double *columns_mean = nullptr, *transposed = nullptr;  // [K]; W as [K, H]
  // [H] each
  double *mean_a = nullptr, *mean_b = nullptr, *mean = nullptr, *variance = nullptr, *scale = nullptr, *shift = nullptr;
  T* table[2] = {};     // forward: scale A + shift, scale B; backward: gradients of those, then of A and B
  T* folded = nullptr;  // scale W [H, K]; backward: its gradient, then that of W
  T* unbiased[2] = {};  // mean and E / (E - 1) variance [H], for running averages

  // Backward. Per channel: gradients of gamma, beta, mean, variance.
  const double* grad_statistics = nullptr;  // [2, H]: what reaches mean and variance from elsewhere, or absent
  T *grad_gamma = nullptr, *grad_beta = nullptr;
  double *grad_mean = nullptr, *grad_variance = nullptr;
  double* pull = nullptr;       // [K K + K]: L, then a: the gradient of u_ij is a + p_i + q_j + L u_ij
  double* node_pull = nullptr;  // [n, 2 K]: p and q

  EK_HD double edges() const { return double(graph.complete() ? graph.edge_ptr[graph.num_events] : graph.num_edges); }
  EK_HD double some_edges() const { return edges() > 1 ? edges() : 1; }
  EK_HD int64_t chunk() const {
    const int64_t even = (graph.num_nodes + kMostNormChunks - 1) / kMostNormChunks;
    return even > 64 ? even : 64;
  }
  EK_HD int64_t chunks() const { return (graph.num_nodes + chunk() - 1) / chunk(); }
  EK_HD int64_t chunk_end(int64_t c) const {
    const int64_t end = (c + 1) * chunk();
    return end < graph.num_nodes ? end : graph.num_nodes;
  }
  EK_HD int64_t event(int64_t i) const { return graph.complete() ? graph.event_of(i) : 0; }
  EK_HD int64_t sums() const { return graph.complete() ? graph.num_events : graph.num_nodes; }
  // Sum over chunks, in order, of row r of a pass with `rows` rows.
  EK_HD double total(int64_t rows, int64_t r, int64_t c) const {
    double sum = 0;
    for (int64_t k = 0; k < chunks(); ++k) sum += partial[(k * rows + r) * width + c];
    return sum;
  }
};

// The contribution of a node to the sums over its edges.
template <class T>
struct NormNode {
  int64_t i, event;
  double received, sent;  // degrees

  EK_HD NormNode(const EdgeNormArgs<T>& a, int64_t node)
      : i(node),
        event(a.event(node)),
        received(double(a.graph.received(node, event).count)),
        sent(double(a.graph.sent(node, event).count)) {}
  // Sum of (B_j - mean) over the senders j of i, of a table's sums; of A over its receivers likewise.
  EK_HD double others(const EdgeNormArgs<T>& a, const double* sums, const T* table, double mean, double degree,
                      int64_t c) const {
    if (!a.graph.complete()) return sums[i * a.width + c] - degree * mean;
    const double everyone = sums[event * a.width + c];
    return (a.graph.self_loops ? everyone : everyone - double(table[i * a.width + c])) - degree * mean;
  }
  // W (sum of u - degree mean of u), over received or sent edges.
  EK_HD double invariants(const EdgeNormArgs<T>& a, const double* sums, double degree, int64_t c) const {
    double sum = 0;
    for (int k = 0; k < a.columns; ++k)
      sum += a.transposed[k * a.width + c] * (sums[i * a.columns + k] - degree * a.columns_mean[k]);
    return sum;
  }
};

// Sums of a table's rows, for item: over the nodes of an event of a complete graph, or over a node's neighbours.
template <bool kReceivers, int kStep, class T>
EK_HD void sum_neighbours(const EdgeNormArgs<T>& a, int64_t item, int64_t first) {
  double* out = (kReceivers ? a.sum_a : a.sum_b) + item * a.width;
  const T* table = kReceivers ? a.receiver : a.sender;
  for (int64_t c = first; c < a.width; c += kStep) out[c] = 0;
  const auto add = [&](int64_t node) {
    const T* row = table + node * a.width;
    for (int64_t c = first; c < a.width; c += kStep) out[c] += double(row[c]);
  };
  if (a.graph.complete()) {
    for (int64_t i = a.graph.ptr[item]; i < a.graph.ptr[item + 1]; ++i) add(i);
    return;
  }
  const Row row = kReceivers ? a.graph.sent(item, 0) : a.graph.received(item, 0);
  for (int64_t k = 0; k < row.count; ++k) add(row.node(k));
}

// Items: events of a complete graph, or nodes. Sums of B over those a node receives from, of A over those it sends to.
template <class T>
struct NormSenders {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t item, int64_t first) const {
    sum_neighbours<false, kStep>(a, item, first);
  }
};
template <class T>
struct NormReceivers {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t item, int64_t first) const {
    sum_neighbours<true, kStep>(a, item, first);
  }
};

// Items: chunks. Partial sums of degree A and degree B.
template <class T>
struct NormMeans {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t chunk, int64_t first) const {
    double *pa = a.partial + chunk * 2 * a.width, *pb = pa + a.width;
    for (int64_t c = first; c < a.width; c += kStep) pa[c] = pb[c] = 0;
    for (int64_t i = chunk * a.chunk(); i < a.chunk_end(chunk); ++i) {
      const NormNode<T> node(a, i);
      const T *ra = a.receiver + i * a.width, *rb = a.sender + i * a.width;
      for (int64_t c = first; c < a.width; c += kStep) {
        pa[c] += node.received * double(ra[c]);
        pb[c] += node.sent * double(rb[c]);
      }
    }
  }
};

// Items: columns of W.
template <class T>
struct NormTranspose {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t k, int64_t first) const {
    for (int64_t c = first; c < a.width; c += kStep)
      a.transposed[k * a.width + c] = double(a.weight[c * a.columns + k]);
  }
};

// One item: means of the parts of z.
template <class T>
struct NormFinishMeans {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t, int64_t first) const {
    for (int64_t c = first; c < a.width; c += kStep) {
      a.mean_a[c] = a.total(2, 0, c) / a.some_edges();
      a.mean_b[c] = a.total(2, 1, c) / a.some_edges();
    }
    for (int64_t k = first; k < a.columns; k += kStep) {
      double sum = 0;
      for (int64_t i = 0; i < a.graph.num_nodes; ++i) sum += a.received[i * a.columns + k];
      a.columns_mean[k] = sum / a.some_edges();
    }
  }
};

// Items: chunks. Partial sums of (z - mean)^2, but for the part of u alone.
template <class T>
struct NormSquares {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t chunk, int64_t first) const {
    double* out = a.partial + chunk * a.width;
    for (int64_t c = first; c < a.width; c += kStep) out[c] = 0;
    for (int64_t i = chunk * a.chunk(); i < a.chunk_end(chunk); ++i) {
      const NormNode<T> node(a, i);
      const T *ra = a.receiver + i * a.width, *rb = a.sender + i * a.width;
      for (int64_t c = first; c < a.width; c += kStep) {
        const double da = double(ra[c]) - a.mean_a[c], db = double(rb[c]) - a.mean_b[c];
        const double senders = node.others(a, a.sum_b, a.sender, a.mean_b[c], node.received, c);
        const double in = node.invariants(a, a.received, node.received, c),
                     out_of = node.invariants(a, a.sent, node.sent, c);
        out[c] += da * (node.received * da + 2 * (senders + in)) + db * (node.sent * db + 2 * out_of);
      }
    }
  }
};

// One item: statistics, scale and shift.
template <class T>
struct NormFold {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t, int64_t first) const {
    const double n = a.some_edges();
    for (int64_t c = first; c < a.width; c += kStep) {
      const T* w = a.weight + c * a.columns;
      double square = a.ends ? a.total(1, 0, c) : 0, mean = a.mean_a[c] + a.mean_b[c];
      for (int k = 0; k < a.columns; ++k) {
        mean += double(w[k]) * a.columns_mean[k];
        for (int l = 0; l < a.columns; ++l)
          square += double(w[k]) * double(w[l]) *
                    (a.gram[k * a.columns + l] - a.edges() * a.columns_mean[k] * a.columns_mean[l]);
      }
      a.mean[c] = mean;
      a.variance[c] = square > 0 || square != square ? square / n : 0;
      a.unbiased[0][c] = T(mean);
      a.unbiased[1][c] = T(a.variance[c] * n / (n > 1 ? n - 1 : 1));
      const double rate = 1 / sqrt(a.variance[c] + a.eps);
      a.scale[c] = a.gamma ? rate * double(a.gamma[c]) : rate;
      a.shift[c] = (a.beta ? double(a.beta[c]) : 0) - a.mean[c] * a.scale[c];
    }
  }
};

// Items: channels. scale W.
template <class T>
struct NormColumns {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t c, int64_t first) const {
    for (int64_t k = c * a.columns + first; k < (c + 1) * a.columns; k += kStep)
      a.folded[k] = T(a.scale[c] * double(a.weight[k]));
  }
};

// Items: chunks. scale A + shift, scale B.
template <class T>
struct NormTables {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t chunk, int64_t first) const {
    for (int64_t i = chunk * a.chunk(); i < a.chunk_end(chunk); ++i) {
      const int64_t at = i * a.width;
      for (int64_t c = first; c < a.width; c += kStep) {
        const T scale = T(a.scale[c]);
        a.table[0][at + c] = a.receiver[at + c] * scale + T(a.shift[c]);
        a.table[1][at + c] = a.sender[at + c] * scale;
      }
    }
  }
};

// Items: chunks. Partial sums of the gradients of scale (but for that of the weights) and shift.
template <class T>
struct NormGradSums {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t chunk, int64_t first) const {
    double *scale = a.partial + chunk * 2 * a.width, *shift = scale + a.width;
    for (int64_t c = first; c < a.width; c += kStep) scale[c] = shift[c] = 0;
    for (int64_t i = chunk * a.chunk(); i < a.chunk_end(chunk); ++i) {
      const int64_t at = i * a.width;
      const T *g = a.table[0] + at, *h = a.table[1] + at;
      for (int64_t c = first; c < a.width; c += kStep) {
        scale[c] += double(g[c]) * double(a.receiver[at + c]) + double(h[c]) * double(a.sender[at + c]);
        shift[c] += double(g[c]);
      }
    }
  }
};

// One item: gradients of gamma, beta, mean and variance; the weights' share of the scale's gradient, and theirs.
template <class T>
struct NormGradFold {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t, int64_t first) const {
    for (int64_t c = first; c < a.width; c += kStep) {
      double scale = a.total(2, 0, c);
      const double shift = a.total(2, 1, c), rate = 1 / sqrt(a.variance[c] + a.eps);
      for (int k = 0; k < a.columns; ++k) {
        T& g = a.folded[c * a.columns + k];
        scale += double(g) * double(a.weight[c * a.columns + k]);
        g = T(double(g) * a.scale[c]);
      }
      scale -= shift * a.mean[c];
      if (a.grad_gamma) a.grad_gamma[c] = T(scale * rate);
      if (a.grad_beta) a.grad_beta[c] = T(shift);
      a.grad_mean[c] = -shift * a.scale[c];
      a.grad_variance[c] = -0.5 * scale * (a.gamma ? double(a.gamma[c]) : 1) * rate * rate * rate;
      if (!a.grad_statistics) continue;
      a.grad_mean[c] += a.grad_statistics[c];
      a.grad_variance[c] += a.grad_statistics[a.width + c];
    }
  }
};

// Items: chunks. Gradients of A and B, and partial sums of those of W [K, H] through the statistics. Where z reads no
// nodes, of A alone, and without what cancels in its sum over nodes.
template <class T>
struct NormGradTables {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t chunk, int64_t first) const {
    const int K = a.columns;
    const double n = a.some_edges();
    double* weights = a.partial + chunk * K * a.width;
    for (int k = 0; k < K; ++k)
      for (int64_t c = first; c < a.width; c += kStep) weights[k * a.width + c] = 0;
    for (int64_t i = chunk * a.chunk(); i < a.chunk_end(chunk); ++i) {
      const int64_t at = i * a.width;
      T *g = a.table[0] + at, *h = a.table[1] + at;
      const NormNode<T> node(a, i);
      if (!a.ends) {
        for (int64_t c = first; c < a.width; c += kStep)
          g[c] = T(double(g[c]) * a.scale[c] + a.grad_mean[c] / n * node.received);
        continue;
      }
      for (int64_t c = first; c < a.width; c += kStep) {
        const double level = a.grad_mean[c] / n, slope = 2 * a.grad_variance[c] / n;
        const double da = double(a.receiver[at + c]) - a.mean_a[c], db = double(a.sender[at + c]) - a.mean_b[c];
        const double to_a = node.received * da + node.others(a, a.sum_b, a.sender, a.mean_b[c], node.received, c) +
                            node.invariants(a, a.received, node.received, c);
        const double to_b = node.sent * db + node.others(a, a.sum_a, a.receiver, a.mean_a[c], node.sent, c) +
                            node.invariants(a, a.sent, node.sent, c);
        g[c] = T(double(g[c]) * a.scale[c] + level * node.received + slope * to_a);
        h[c] = T(double(h[c]) * a.scale[c] + level * node.sent + slope * to_b);
        for (int k = 0; k < K; ++k) weights[k * a.width + c] += da * a.received[i * K + k] + db * a.sent[i * K + k];
      }
    }
  }
};

// One item: gradients of W and what reaches u.
template <class T>
struct NormGradWeights {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t, int64_t first) const {
    const int K = a.columns;
    const double n = a.some_edges(), edges = a.edges();
    const auto spread = [&](int k, int l) { return a.gram[k * K + l] - edges * a.columns_mean[k] * a.columns_mean[l]; };
    for (int64_t c = first; c < a.width; c += kStep) {
      const T* w = a.weight + c * K;
      for (int k = 0; k < K; ++k) {
        double sum = a.ends ? a.total(K, k, c) : 0;
        for (int l = 0; l < K; ++l) sum += double(w[l]) * spread(l, k);
        a.folded[c * K + k] += T(a.grad_mean[c] / n * edges * a.columns_mean[k] + 2 * a.grad_variance[c] / n * sum);
      }
    }
    for (int64_t at = first; at < K * K; at += kStep) {
      double sum = 0;
      for (int64_t c = 0; c < a.width; ++c)
        sum += 2 * a.grad_variance[c] / n * double(a.weight[c * K + at / K]) * double(a.weight[c * K + at % K]);
      a.pull[at] = sum;
    }
    for (int64_t k = first; k < K; k += kStep) {
      double sum = 0;
      for (int64_t c = 0; c < a.width; ++c) {
        double centre = 0;
        for (int l = 0; l < K; ++l) centre += double(a.weight[c * K + l]) * a.columns_mean[l];
        sum += (a.grad_mean[c] - 2 * a.grad_variance[c] * centre) / n * double(a.weight[c * K + k]);
      }
      a.pull[K * K + k] = sum;
    }
  }
};

// Items: nodes. p_i and q_i.
template <class T>
struct NormNodePull {
  EdgeNormArgs<T> a;
  template <int kStep>
  EK_HD void run(int64_t i, int64_t first) const {
    const int K = a.columns;
    const double n = a.some_edges();
    for (int64_t k = first; k < K; k += kStep) {
      double p = 0, q = 0;
      for (int64_t c = 0; a.ends && c < a.width; ++c) {
        const double slope = 2 * a.grad_variance[c] / n * double(a.weight[c * K + k]);
        p += slope * (double(a.receiver[i * a.width + c]) - a.mean_a[c]);
        q += slope * (double(a.sender[i * a.width + c]) - a.mean_b[c]);
      }
      a.node_pull[i * 2 * K + k] = p;
      a.node_pull[i * 2 * K + K + k] = q;
    }
  }
};

}  // namespace ek
