// Activations that fewer networks have. As in activation.h, NaN and infinities come out as they do from torch.
#pragma once

#include "activation.h"

namespace ek {
namespace {

// exp(x), 0 below the range of normal numbers.
template <class T>
inline Vec<T> exp_or_zero(Vec<T> x) {
  constexpr T floor = sizeof(T) == 4 ? T(-87.336544) : T(-708.396418532264);
  return x < floor ? Vec<T>{} : Exponential<T>(x).value();
}

template <class T>
struct Elu {
  Vec<T> value(Vec<T> a) const { return a > T(0) ? a : Exponential<T>(min_of(Vec<T>{}, a)).minus_one(); }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    d = a > T(0) ? broadcast<T>(T(1)) : exp_or_zero<T>(min_of(Vec<T>{}, a));
    return value(a);
  }
};

template <class T>
struct Softplus {
  static constexpr T kThreshold = 20;
  Vec<T> value(Vec<T> a) const {
    const Vec<T> z = exp_or_zero<T>(min_of(broadcast<T>(kThreshold), a));
    return a > kThreshold ? a : log1p_of<T>(z);
  }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    const Vec<T> z = exp_or_zero<T>(min_of(broadcast<T>(kThreshold), a));
    d = a > kThreshold ? broadcast<T>(T(1)) : z / (z + T(1));
    return a > kThreshold ? a : log1p_of<T>(z);
  }
};

// a tanh(ln(1 + n)), n = exp(a): tanh = n (n + 2) / (n (n + 2) + 2), 1 from a = 40 on.
template <class T>
struct Mish {
  static Vec<T> tanh_of_softplus(Vec<T> a, Vec<T>& n) {
    n = exp_or_zero<T>(min_of(broadcast<T>(T(40)), a));
    const Vec<T> w = n * (n + T(2));
    return w / (w + T(2));
  }
  Vec<T> value(Vec<T> a) const {
    Vec<T> n;
    return a * tanh_of_softplus(a, n);
  }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    Vec<T> n;
    const Vec<T> t = tanh_of_softplus(a, n);
    d = mul_add(a * (n / (n + T(1))), T(1) - t * t, t);
    return a * t;
  }
};

template <class T>
struct Hardswish {
  Vec<T> value(Vec<T> a) const { return a * min_of(broadcast<T>(T(6)), max_of(Vec<T>{}, a + T(3))) / T(6); }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    const Vec<T> inner = a / T(3) + T(0.5);
    d = a <= T(-3) ? Vec<T>{} : a >= T(3) ? broadcast<T>(T(1)) : inner;
    return value(a);
  }
};

// a s, s = (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (a + 0.044715 a^3)
template <class T>
struct GeluTanh {
  static constexpr double kBeta = 0.79788456080286535588, kKappa = 0.044715;
  // s and s (1 - s)
  static Vec<T> share(Vec<T> a, Vec<T>& slope) {
    const Vec<T> u = T(kBeta) * mul_add(a * a * a, broadcast<T>(T(kKappa)), a);
    const Vec<T> e = exp_or_zero<T>(T(-2) * abs(u)), r = T(1) / (T(1) + e);
    slope = e * r * r;
    return u < T(0) ? e * r : r;
  }
  Vec<T> value(Vec<T> a) const {
    Vec<T> slope;
    return a * share(a, slope);
  }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    Vec<T> slope;
    const Vec<T> s = share(a, slope);
    const Vec<T> inner = mul_add(a * a, broadcast<T>(T(3 * kBeta * kKappa)), broadcast<T>(T(kBeta)));
    d = mul_add(T(2) * a * slope, inner, s);
    return a * s;
  }
};

// Apart from the others, so that the compiler leaves those as they are.
template <class T, class F>
__attribute__((noinline)) void with_other_activation(Activation kind, F& f) {
  switch (kind) {
    case Activation::elu: return f(Elu<T>{});
    case Activation::softplus: return f(Softplus<T>{});
    case Activation::mish: return f(Mish<T>{});
    case Activation::hardswish: return f(Hardswish<T>{});
    case Activation::gelu_tanh: return f(GeluTanh<T>{});
    default: return;
  }
}

template <class T, class F>
inline void with_activation(Activation kind, double slope, F&& f) {
  switch (kind) {
    case Activation::identity: return f(Identity<T>{});
    case Activation::relu: return f(Relu<T>{});
    case Activation::leaky_relu: return f(LeakyRelu<T>{T(slope)});
    case Activation::silu: return f(Silu<T>{});
    case Activation::gelu: return f(Gelu<T>{});
    case Activation::tanh: return f(Tanh<T>{});
    case Activation::sigmoid: return f(Sigmoid<T>{});
    default: return with_other_activation<T>(kind, f);
  }
}

}  // namespace
}  // namespace ek
