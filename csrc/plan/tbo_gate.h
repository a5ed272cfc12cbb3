#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace weft::plan {

class Fnv;

enum class TboGate : uint8_t {
  kAuto,    // a step is overlapped if the cost table says that it pays; without a table, always
  kAlways,  // whenever it can be
};

/// Values of the flag --tbo-gate: "auto", "always". parse throws Error naming the choices.
TboGate parse_tbo_gate(std::string_view name);
std::string_view tbo_gate_name(TboGate gate);

/// What a step costs on one rank: microseconds by the rows of the busiest DP rank, host. Linear between the
/// points; below the first point its value, above the last one the slope of the last two, if it rises (else
/// the last value). Only ratios count, so the costs may be those of a layer or of all layers.
///
/// Not overlapped, compute C, dispatch D and combine B of n rows follow each other:
///   whole_us(n) = C(n) + D(n) + B(n)
/// Overlapped, the micro-batches of a and b rows are staggered: each of the four communications runs beside
/// one half of the other's compute (the part up to dispatch, or from dispatch on), and a layer of both takes
///   split_us(a, b) = max(C(b)/2, D(a)) + max(C(a)/2, D(b)) + max(C(b)/2, B(a)) + max(C(a)/2, B(b))
/// What the first and the last stage of a step do alone is left out.
struct TboCostTable {
  std::vector<int64_t> tokens;                              // ascending, from 1; empty: no table
  std::vector<double> compute_us, dispatch_us, combine_us;  // one entry a point, >= 0, finite

  [[nodiscard]] bool empty() const { return tokens.empty(); }
  [[nodiscard]] double whole_us(int64_t rows) const;
  [[nodiscard]] double split_us(int64_t first_rows, int64_t second_rows) const;
  /// Whether two micro-batches take less time than the whole. Throws Error without a table.
  [[nodiscard]] bool pays(int64_t rows, int64_t first_rows, int64_t second_rows) const {
    return split_us(first_rows, second_rows) < whole_us(rows);
  }
  /// Throws Error naming the entry if columns differ in length, tokens do not ascend from 1, or a cost is
  /// negative or not finite.
  void validate() const;
  void add_to(Fnv& hash) const;
};

}  // namespace weft::plan
