// Applies a norm and an activation to rows; lanes are channels.
#include "row_activation.h"

#include "../core/isa.h"
#include "../simd/dense.h"
#include "../simd/more_activations.h"

namespace ek {
namespace {

constexpr int64_t kBlock = 64;  // rows whose sums are formed in T

// f(first channel, lanes of it) over the vectors of a row
template <class T, class F>
inline void over_vectors(int64_t channels, F&& f) {
  constexpr int W = lanes<T>;
  for (int64_t c = 0; c < channels; c += W) f(c, Tail<T>(channels - c < W ? channels - c : W));
}

}  // namespace

template <class Isa, class T>
void RowActivationCpu<Isa, T>::forward(const RowActivationArgs<T>& a, int64_t begin, int64_t end) {
  with_activation<T>(a.activation, a.slope, [&](auto act) {
    over_vectors<T>(a.channels, [&](int64_t c, const Tail<T>& tail) {
      const Vec<T> scale = a.scale ? tail.load(a.scale + c) : broadcast<T>(T(1));
      const Vec<T> shift = a.shift ? tail.load(a.shift + c) : Vec<T>{};
      for (int64_t r = begin; r < end; ++r) {
        const Vec<T> z = tail.load(a.z + r * a.channels + c);
        tail.store(a.out + r * a.channels + c, act.value(a.scale ? mul_add(z, scale, shift) : z));
      }
    });
  });
}

template <class Isa, class T>
void RowActivationCpu<Isa, T>::backward(const RowActivationArgs<T>& a, int64_t begin, int64_t end, double* sums) {
  for (int64_t k = 0; k < 2 * a.channels; ++k) sums[k] = 0;
  with_activation<T>(a.activation, a.slope, [&](auto act) {
    over_vectors<T>(a.channels, [&](int64_t c, const Tail<T>& tail) {
      const Vec<T> scale = a.scale ? tail.load(a.scale + c) : broadcast<T>(T(1));
      const Vec<T> shift = a.shift ? tail.load(a.shift + c) : Vec<T>{};
      for (int64_t b = begin; b < end; b += kBlock) {
        Vec<T> sum{}, product{};
        for (int64_t r = b; r < end && r < b + kBlock; ++r) {
          const int64_t at = r * a.channels + c;
          const Vec<T> z = tail.load(a.z + at);
          Vec<T> slope;
          act.both(a.scale ? mul_add(z, scale, shift) : z, slope);
          const Vec<T> g = tail.load(a.grad + at) * slope;
          sum += g;
          product = mul_add(g, z, product);
          tail.store(a.grad + at, a.scale ? g * scale : g);
        }
        for (int l = 0; l < lanes<T> && c + l < a.channels; ++l) {
          sums[c + l] += double(sum[l]);
          sums[a.channels + c + l] += double(product[l]);
        }
      }
    });
  });
}

template struct RowActivationCpu<EK_ISA, float>;
template struct RowActivationCpu<EK_ISA, double>;

}  // namespace ek
