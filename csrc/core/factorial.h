// Coefficients of power series, for host and device.
#pragma once

namespace ek {

// 1 / n!, 0 <= n < 20. A table, not a recursion: with n from an unrolled loop the compiler makes it a constant.
constexpr double inverse_factorial(int n) {
  struct Table {
    double of[20];
    constexpr Table() : of() {
      of[0] = 1;
      for (int k = 1; k < 20; ++k) of[k] = of[k - 1] / k;
    }
  };
  constexpr Table table;
  return table.of[n];
}

}  // namespace ek
