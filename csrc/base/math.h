#pragma once

#include <concepts>

namespace weft {

/// a / b rounded up; a >= 0, b > 0.
template <std::integral T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

/// a rounded up to a multiple of b.
template <std::integral T>
constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace weft
