// Activations on lanes, with their derivatives: value(a), and both(a, d) which also gives d = value'(a).
// NaN and infinities come out as they do from torch.
#pragma once

#include "../core/factorial.h"
#include "activation_kind.h"
#include "simd.h"

namespace ek {
namespace {

// As splat(), in one instruction: x - 0 is x for every x, x + 0 is not.
template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// exp(x) - 1 = scale * p + (scale - 1), p = exp(r) - 1, |r| <= ln 2 / 2, scale = 2^k. Below the range of normal
// numbers x is taken as exp_floor; above it scale is inf.
template <class T>
struct Exponential {
  Vec<T> p, scale;

  explicit Exponential(Vec<T> x) {
    using S = Series<T>;
    constexpr T floor = sizeof(T) == 4 ? T(-87.336544) : T(-708.396418532264);
    const Vec<T> c = max_of(broadcast<T>(floor), min_of(broadcast<T>(S::exp_max), x));
    const Vec<T> shifted = mul_add(c, broadcast<T>(T(S::log2e)), broadcast<T>(T(S::round_magic)));
    const Vec<T> k = shifted - S::round_magic;
    const Vec<T> r = mul_add(k, broadcast<T>(T(-S::ln2_lo)), mul_add(k, broadcast<T>(T(-S::ln2_hi)), c));
    Vec<T> q = broadcast<T>(T(inverse_factorial(S::exp_terms)));
#pragma GCC unroll 16
    for (int i = S::exp_terms - 1; i >= 2; --i) q = mul_add(q, r, broadcast<T>(T(inverse_factorial(i))));
    p = mul_add(r * r, q, r);
    scale = from_bits((bits(shifted) - bits(broadcast<T>(T(S::round_magic))) + S::bias) << S::mantissa);
  }
  Vec<T> value() const { return (T(1) + p) * scale; }  // also where scale is inf
  Vec<T> minus_one() const { return mul_add(p, scale, scale - T(1)); }
};

// A division, not an estimate and Newton steps: those compete with the series for the multipliers.
template <class T>
inline Vec<T> logistic(Vec<T> x) {
  return T(1) / (T(1) + Exponential<T>(-x).value());
}

template <class T>
inline Vec<T> tanh_of(Vec<T> x) {
  const Vec<T> e = Exponential<T>(min_of(broadcast<T>(T(44)), T(2) * abs(x))).minus_one();
  return copysign(e / (e + T(2)), x);
}

// Distribution function of the normal law, and exp(-x^2 / 2) on the way:
// erfc(z) = t exp(-z^2) f(t), t = 2 / (2 + z), z >= 0; f as a Chebyshev series on (0, 1].
inline constexpr double kErfcSeries[] = {
    1.1540674772329393772,     0.35543692127049848731,     0.06509515882878652455,     0.0036711423958366391659,
    -0.0011128447433526324969, -0.00016075829915378079758, 0.000032780315741731370605, 5.4424416455050160333e-6,
    -1.5154665553171481622e-6, -1.4297608181169864917e-7,  8.234608827419493433e-8,    -1.2962846852306562536e-9,
    -4.1547216310151983042e-9, 6.3470582783628111814e-10,  1.4320822712256223707e-10,  -6.1603901052045855418e-11,
    2.0612138554721696306e-12, 3.571493148847704445e-12,   -8.5864228432517964757e-13, -6.145600213790630554e-14,
    7.4187257485966170573e-14, -1.2895042755032325615e-14, -2.3587263857106323568e-15, 1.5729349381685911397e-15,
    -2.2782966239546465174e-16};

template <class T>
inline Vec<T> normal_cdf(Vec<T> x, Vec<T>& bell) {
  constexpr int terms = sizeof(T) == 4 ? 11 : 25;
  const Vec<T> z = abs(x) * T(0.70710678118654752440), t = T(2) / (T(2) + z), y = T(4) * t - T(2);
  Vec<T> b0{}, b1{};
  for (int i = terms - 1; i >= 1; --i) {  // Clenshaw
    const Vec<T> next = mul_add(y, b0, T(kErfcSeries[i]) - b1);
    b1 = b0;
    b0 = next;
  }
  const Vec<T> f = mul_add(T(0.5) * y, b0, T(0.5 * kErfcSeries[0]) - b1);
  bell = Exponential<T>(T(-0.5) * x * x).value();
  const Vec<T> tail = T(0.5) * t * bell * f;
  return x < T(0) ? tail : T(1) - tail;
}

template <class T>
struct Identity {
  Vec<T> value(Vec<T> a) const { return a; }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    d = broadcast<T>(T(1));
    return a;
  }
};

template <class T>
struct Relu {
  Vec<T> value(Vec<T> a) const { return max_of(Vec<T>{}, a); }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    d = a <= T(0) ? Vec<T>{} : broadcast<T>(T(1));
    return value(a);
  }
};

template <class T>
struct LeakyRelu {
  T slope;
  Vec<T> value(Vec<T> a) const { return a > T(0) ? a : a * slope; }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    d = a > T(0) ? broadcast<T>(T(1)) : broadcast<T>(slope);
    return value(a);
  }
};

template <class T>
struct Silu {
  Vec<T> value(Vec<T> a) const { return a * logistic<T>(a); }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    const Vec<T> s = logistic<T>(a), h = a * s;
    d = mul_add(h, T(1) - s, s);
    return h;
  }
};

template <class T>
struct Gelu {
  Vec<T> value(Vec<T> a) const {
    Vec<T> bell;
    return a * normal_cdf<T>(a, bell);
  }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    Vec<T> bell;
    const Vec<T> cdf = normal_cdf<T>(a, bell);
    d = mul_add(a * T(0.39894228040143267794), bell, cdf);
    return a * cdf;
  }
};

template <class T>
struct Tanh {
  Vec<T> value(Vec<T> a) const { return tanh_of<T>(a); }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    const Vec<T> h = tanh_of<T>(a);
    d = T(1) - h * h;
    return h;
  }
};

template <class T>
struct Sigmoid {
  Vec<T> value(Vec<T> a) const { return logistic<T>(a); }
  Vec<T> both(Vec<T> a, Vec<T>& d) const {
    const Vec<T> h = logistic<T>(a);
    d = h * (T(1) - h);
    return h;
  }
};

}  // namespace
}  // namespace ek
