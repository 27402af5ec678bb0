#include "encode.h"

#include "../core/isa.h"
#include "../simd/dense.h"

namespace ek {
namespace {

// log(offset + |z|), and that argument
template <class T>
inline Vec<T> log_of_size(Vec<T> size, bool angles, Vec<T>& base) {
  const Vec<T> huge = broadcast(sizeof(T) == 4 ? T(3.4028234663852886e38) : T(1.7976931348623157e308));
  base = size + (angles ? T(1e-5) : T(1));
  if (!angles) return log1p_of<T>(size);
  return base <= huge ? log_of<T>(base) : base;
}

// exp(y) - 1, also where exp(y) is infinite
template <class T>
inline Vec<T> expm1_of(const Exponential<T>& e, Vec<T> y) {
  return y > T(40) ? e.value() : e.minus_one();
}

// (y exp(y) - (exp(y) - 1)) / y^2: the derivative of (exp(t l) - 1) / t by t is l^2 times this at y = t l.
template <class T>
inline Vec<T> slope_of_power(Vec<T> y, Vec<T> exp, Vec<T> minus_one) {
  Vec<T> series = broadcast(T(slope_term(kSlopeTerms<T>)));
#pragma GCC unroll 16
  for (int k = kSlopeTerms<T> - 1; k >= 0; --k) series = mul_add(series, y, broadcast(T(slope_term(k))));
  const Vec<T> direct = (y * exp - minus_one) / (y * y);
  return abs(y) < T(0.5) ? series : direct;
}

// f(tail, c, first, last): the channels c, c + 1, ... of one vector in the rows [first, last), which stay in cache.
template <class T, class F>
inline void over_blocks(int64_t channels, int64_t begin, int64_t end, F&& f) {
  constexpr int64_t kBlock = 32;
  for (int64_t b = begin; b < end; b += kBlock)
    for (int64_t c = 0; c < channels; c += lanes<T>)
      f(Tail<T>(channels - c), c, b, end - b < kBlock ? end : b + kBlock);
}

}  // namespace

template <class Isa, class T>
void EncodeCpu<Isa, T>::forward(const EncodeArgs<T>& a, int64_t begin, int64_t end) {
  over_blocks<T>(a.channels, begin, end, [&](const Tail<T>& tail, int64_t c, int64_t first, int64_t last) {
    const Vec<T> t = tail.load(a.t + c), one_over_t = T(1) / t;
    for (int64_t r = first; r < last; ++r) {
      const Vec<T> z = tail.load(a.z + r * a.channels + c);
      Vec<T> base;
      const Vec<T> y = t * log_of_size<T>(abs(z), a.angles, base);
      const Vec<T> u = expm1_of<T>(Exponential<T>(y), y) * one_over_t;
      tail.store(a.out + r * a.channels + c, a.angles ? u : z < T(0) ? -u : u);
    }
  });
}

template <class Isa, class T>
void EncodeCpu<Isa, T>::backward(const EncodeArgs<T>& a, T* partial, int64_t begin, int64_t end) {
  for (int64_t c = 0; c < a.channels; ++c) partial[c] = 0;
  over_blocks<T>(a.channels, begin, end, [&](const Tail<T>& tail, int64_t c, int64_t first, int64_t last) {
    const Vec<T> t = tail.load(a.t + c);
    Vec<T> total = tail.load(partial + c);
    for (int64_t r = first; r < last; ++r) {
      const int64_t at = r * a.channels + c;
      const Vec<T> z = tail.load(a.z + at), g = tail.load(a.grad + at);
      Vec<T> base;
      const Vec<T> l = log_of_size<T>(abs(z), a.angles, base), y = t * l;
      const Exponential<T> e(y);
      const Vec<T> exp = e.value(), by_t = l * l * slope_of_power<T>(y, exp, expm1_of<T>(e, y));
      const Vec<T> by_z = g * exp / base, flipped = z < T(0) ? -by_z : by_z;
      tail.store(a.grad_z + at, a.angles ? flipped : by_z);
      const Vec<T> part = g * by_t;
      total += a.angles ? part : z < T(0) ? -part : part;
    }
    tail.store(partial + c, total);
  });
}

template struct EncodeCpu<EK_ISA, float>;
template struct EncodeCpu<EK_ISA, double>;

}  // namespace ek
