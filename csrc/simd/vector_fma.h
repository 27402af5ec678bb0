// How lanes of float64 multiply and add with one rounding, as minkowski.h asks for it.
#pragma once

#include "simd.h"

namespace ek {
namespace {

struct VectorFma {
  static inline vdouble apply(vdouble a, vdouble b, vdouble c) { return fma(a, b, c); }
};

}  // namespace
}  // namespace ek
