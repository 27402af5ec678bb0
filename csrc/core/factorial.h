// Coefficients of power series, for host and device.
#pragma once

namespace ek {

constexpr double inverse_factorial(int n) { return n < 2 ? 1.0 : inverse_factorial(n - 1) / n; }

}  // namespace ek
