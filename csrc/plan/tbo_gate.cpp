#include "plan/tbo_gate.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "plan/fnv.h"

namespace weft::plan {
namespace {

// Where a number of rows lies in the table: point + fraction of the way to the next one.
struct Place {
  size_t point = 0;
  double fraction = 0;  // > 1 above the last point
};

Place place_of(const std::vector<int64_t>& tokens, int64_t rows) {
  if (tokens.size() == 1 || rows <= tokens.front()) return {};
  const auto above = std::upper_bound(tokens.begin(), tokens.end() - 1, rows);
  const auto point = static_cast<size_t>(above - tokens.begin()) - 1;
  const auto width = static_cast<double>(tokens[point + 1] - tokens[point]);
  return {point, static_cast<double>(rows - tokens[point]) / width};
}

double at(const std::vector<double>& cost, const Place& place) {
  const double begin = cost[place.point];
  if (place.fraction <= 0) return begin;
  const double end = cost[place.point + 1];
  // More rows are never cheaper than the last point says.
  if (place.fraction > 1) return end + std::max(0.0, (place.fraction - 1) * (end - begin));
  return begin + place.fraction * (end - begin);
}

}  // namespace

TboGate parse_tbo_gate(std::string_view name) {
  if (name == "auto") return TboGate::kAuto;
  WEFT_CHECK(name == "always", "tbo_gate='{}' is not known; choose auto or always", name);
  return TboGate::kAlways;
}

std::string_view tbo_gate_name(TboGate gate) { return gate == TboGate::kAuto ? "auto" : "always"; }

double TboCostTable::whole_us(int64_t rows) const {
  WEFT_CHECK(!empty(), "the cost table is empty; give at least one point");
  const Place n = place_of(tokens, rows);
  return at(compute_us, n) + at(dispatch_us, n) + at(combine_us, n);
}

double TboCostTable::split_us(int64_t first_rows, int64_t second_rows) const {
  WEFT_CHECK(!empty(), "the cost table is empty; give at least one point");
  const Place a = place_of(tokens, first_rows), b = place_of(tokens, second_rows);
  const double half_a = at(compute_us, a) / 2, half_b = at(compute_us, b) / 2;
  return std::max(half_b, at(dispatch_us, a)) + std::max(half_a, at(dispatch_us, b)) +
         std::max(half_b, at(combine_us, a)) + std::max(half_a, at(combine_us, b));
}

void TboCostTable::validate() const {
  int64_t last = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    WEFT_CHECK(tokens[i] > last, "cost table: tokens[{}]={} after {}; tokens must ascend from 1", i,
               tokens[i], last);
    last = tokens[i];
  }
  const auto check = [this](std::string_view name, const std::vector<double>& cost) {
    WEFT_CHECK(cost.size() == tokens.size(),
               "cost table: {} has {} entries for {} of tokens; give one a point", name, cost.size(),
               tokens.size());
    for (size_t i = 0; i < cost.size(); ++i) {
      WEFT_CHECK(std::isfinite(cost[i]) && cost[i] >= 0,
                 "cost table: {}[{}]={} is no duration; give microseconds from 0", name, i, cost[i]);
    }
  };
  check("compute_us", compute_us);
  check("dispatch_us", dispatch_us);
  check("combine_us", combine_us);
}

void TboCostTable::add_to(Fnv& hash) const {
  hash.add(tokens);
  for (const auto* cost : {&compute_us, &dispatch_us, &combine_us}) {
    for (const double us : *cost) hash.add(std::bit_cast<uint64_t>(us));
  }
}

}  // namespace weft::plan
