// Activations of one number, with their derivatives: value(a), and slope(a) = value'(a). activation.h in one lane.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

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

// Those that fewer networks have, behind a call of which there is one, so that the others' code stays as it is.
template <class T>
__device__ __noinline__ T other_value(Activation kind, T a) {
  switch (kind) {
    case Activation::elu: return a > T(0) ? a : std::expm1(a);
    case Activation::softplus: return a > T(20) ? a : std::log1p(std::exp(a));
    case Activation::mish: return a * std::tanh(std::log1p(std::exp(a)));
    case Activation::hardswish: return a * (a <= T(-3) ? T(0) : a >= T(3) ? T(6) : a + T(3)) / T(6);
    case Activation::gelu_tanh: {
      const T u = T(0.79788456080286535588) * (a + T(0.044715) * a * a * a);
      return T(0.5) * a * (T(1) + std::tanh(u));
    }
    default: return a;
  }
}
template <class T>
__device__ __noinline__ T other_slope(Activation kind, T a) {
  switch (kind) {
    case Activation::elu: return a > T(0) ? T(1) : std::exp(a);
    case Activation::softplus: {
      const T z = std::exp(a);
      return a > T(20) ? T(1) : z / (z + T(1));
    }
    case Activation::mish: {
      const T t = std::tanh(std::log1p(std::exp(a)));
      return t + a * (T(1) - t * t) / (T(1) + std::exp(-a));
    }
    case Activation::hardswish: return a <= T(-3) ? T(0) : a >= T(3) ? T(1) : a / T(3) + T(0.5);
    case Activation::gelu_tanh: {
      const T t = std::tanh(T(0.79788456080286535588) * (a + T(0.044715) * a * a * a));
      const T inner = T(0.79788456080286535588) * (T(1) + T(3 * 0.044715) * a * a);
      return T(0.5) * (T(1) + t) + T(0.5) * a * (T(1) - t * t) * inner;
    }
    default: return T(1);
  }
}
template <class T>
struct DeviceOther {
  Activation kind;
  __device__ T value(T a) const { return other_value(kind, a); }
  __device__ T slope(T a) const { return other_slope(kind, a); }
};

// f(the activation): the branch is outside of f's loops.
template <class T, class F>
__device__ inline void with_device_activation(Activation kind, double slope, F&& f) {
  switch (kind) {
    case Activation::identity: return f(DeviceIdentity<T>{});
    case Activation::relu: return f(DeviceRelu<T>{});
    case Activation::leaky_relu: return f(DeviceLeakyRelu<T>{T(slope)});
    case Activation::silu: return f(DeviceSilu<T>{});
    case Activation::gelu: return f(DeviceGelu<T>{});
    case Activation::tanh: return f(DeviceTanh<T>{});
    case Activation::sigmoid: return f(DeviceSigmoid<T>{});
    default: return f(DeviceOther<T>{kind});
  }
}

}  // namespace
}  // namespace ek
