// Activations of one number, with their derivatives: value(a), and slope(a) = value'(a). activation.h in one lane.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "activation_kind.h"

namespace ek {
namespace {

template <class T>
struct DeviceIdentity {
  __device__ T value(T a) const { return a; }
  __device__ T slope(T) const { return T(1); }
};

template <class T>
struct DeviceRelu {
  __device__ T value(T a) const { return a <= T(0) ? T(0) : a; }
  __device__ T slope(T a) const { return a <= T(0) ? T(0) : T(1); }
};

template <class T>
struct DeviceLeakyRelu {
  T negative;
  __device__ T value(T a) const { return a > T(0) ? a : a * negative; }
  __device__ T slope(T a) const { return a > T(0) ? T(1) : negative; }
};

template <class T>
struct DeviceSigmoid {
  __device__ T value(T a) const { return T(1) / (T(1) + std::exp(-a)); }
  __device__ T slope(T a) const {
    const T h = value(a);
    return h * (T(1) - h);
  }
};

template <class T>
struct DeviceSilu {
  __device__ T value(T a) const { return a / (T(1) + std::exp(-a)); }
  __device__ T slope(T a) const {
    const T s = T(1) / (T(1) + std::exp(-a));
    return s + a * s * (T(1) - s);
  }
};

template <class T>
struct DeviceGelu {
  __device__ T cdf(T a) const { return T(0.5) * (T(1) + std::erf(a * T(0.70710678118654752440))); }
  __device__ T value(T a) const { return a * cdf(a); }
  __device__ T slope(T a) const { return cdf(a) + a * T(0.39894228040143267794) * std::exp(T(-0.5) * a * a); }
};

template <class T>
struct DeviceTanh {
  __device__ T value(T a) const { return std::tanh(a); }
  __device__ T slope(T a) const {
    const T h = std::tanh(a);
    return T(1) - h * h;
  }
};

// f(k as a constant), by comparisons of halves: a switch would be an indirect branch.
template <int kFrom, int kTo, class F>
__device__ inline void choose(int k, F&& f) {
  constexpr int kHalf = (kFrom + kTo) / 2;
  if constexpr (kTo - kFrom == 1)
    f(std::integral_constant<int, kFrom>{});
  else if (k < kHalf)
    choose<kFrom, kHalf>(k, f);
  else
    choose<kHalf, kTo>(k, f);
}

// Those that fewer networks have, behind a call of which there is one, so that the others' code stays as it is.
constexpr int kFirstOther = int(Activation::elu), kActivations = int(Activation::gelu_tanh) + 1;
template <class T>
__device__ __noinline__ T other_value(Activation kind, T a) {
  T h = a;
  choose<kFirstOther, kActivations>(int(kind), [&](auto constant) {
    constexpr Activation k = Activation(decltype(constant)::value);
    if constexpr (k == Activation::elu) h = a > T(0) ? a : std::expm1(a);
    if constexpr (k == Activation::softplus) h = a > T(20) ? a : std::log1p(std::exp(a));
    if constexpr (k == Activation::mish) h = a * std::tanh(std::log1p(std::exp(a)));
    if constexpr (k == Activation::hardswish) h = a * (a <= T(-3) ? T(0) : a >= T(3) ? T(6) : a + T(3)) / T(6);
    if constexpr (k == Activation::gelu_tanh) {
      const T u = T(0.79788456080286535588) * (a + T(0.044715) * a * a * a);
      h = T(0.5) * a * (T(1) + std::tanh(u));
    }
  });
  return h;
}
template <class T>
__device__ __noinline__ T other_slope(Activation kind, T a) {
  T d = 1;
  choose<kFirstOther, kActivations>(int(kind), [&](auto constant) {
    constexpr Activation k = Activation(decltype(constant)::value);
    if constexpr (k == Activation::elu) d = a > T(0) ? T(1) : std::exp(a);
    if constexpr (k == Activation::softplus) {
      const T z = std::exp(a);
      d = a > T(20) ? T(1) : z / (z + T(1));
    }
    if constexpr (k == Activation::mish) {
      const T t = std::tanh(std::log1p(std::exp(a)));
      d = t + a * (T(1) - t * t) / (T(1) + std::exp(-a));
    }
    if constexpr (k == Activation::hardswish) d = a <= T(-3) ? T(0) : a >= T(3) ? T(1) : a / T(3) + T(0.5);
    if constexpr (k == Activation::gelu_tanh) {
      const T t = std::tanh(T(0.79788456080286535588) * (a + T(0.044715) * a * a * a));
      const T inner = T(0.79788456080286535588) * (T(1) + T(3 * 0.044715) * a * a);
      d = T(0.5) * (T(1) + t) + T(0.5) * a * (T(1) - t * t) * inner;
    }
  });
  return d;
}
template <class T>
struct DeviceOther {
  Activation kind;
  __device__ T value(T a) const { return other_value(kind, a); }
  __device__ T slope(T a) const { return other_slope(kind, a); }
};

// f(the activation): the choice is outside of f's loops.
template <class T, class F>
__device__ inline void with_device_activation(Activation kind, double slope, F&& f) {
  choose<0, kFirstOther + 1>(int(kind), [&](auto constant) {
    constexpr Activation k = Activation(decltype(constant)::value);
    if constexpr (k == Activation::identity) f(DeviceIdentity<T>{});
    if constexpr (k == Activation::relu) f(DeviceRelu<T>{});
    if constexpr (k == Activation::leaky_relu) f(DeviceLeakyRelu<T>{T(slope)});
    if constexpr (k == Activation::silu) f(DeviceSilu<T>{});
    if constexpr (k == Activation::gelu) f(DeviceGelu<T>{});
    if constexpr (k == Activation::tanh) f(DeviceTanh<T>{});
    if constexpr (k == Activation::sigmoid) f(DeviceSigmoid<T>{});
    if constexpr (k == Activation::elu) f(DeviceOther<T>{kind});
  });
}

}  // namespace
}  // namespace ek
