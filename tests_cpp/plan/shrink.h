#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/simulate/scenario.h"

namespace weft::runtime::simulate {

/// Makes a failing scenario short: takes away intents, and what is in them, as long as `error_of` still gives
/// an error (any: a shorter way to fail is as good). At most `max_runs` runs.
class Shrinker {
 public:
  /// error_of: runs a scenario; its Error's message, or empty.
  explicit Shrinker(std::function<std::string(const Scenario&)> error_of, int max_runs = 400)
      : error_of_(std::move(error_of)), runs_left_(max_runs) {}

  Scenario shrink(Scenario scenario) {
    best_ = std::move(scenario);
    bool shorter = true;
    while (shorter && runs_left_ > 0) {
      shorter = drop_intents();
      shorter = thin_intents() || shorter;
      shorter = simplify_config() || shorter;
    }
    return best_;
  }

 private:
  bool try_it(Scenario candidate) {
    if (runs_left_ == 0) return false;
    --runs_left_;
    if (error_of_(candidate).empty()) return false;
    best_ = std::move(candidate);
    return true;
  }

  // Runs of intents, from half of them down to single ones.
  bool drop_intents() {
    bool any = false;
    for (size_t length = std::max<size_t>(best_.intents.size() / 2, 1); length > 0; length /= 2) {
      for (size_t begin = 0; begin + length <= best_.intents.size();) {
        Scenario candidate = best_;
        const auto first = candidate.intents.begin() + static_cast<std::ptrdiff_t>(begin);
        candidate.intents.erase(first, first + static_cast<std::ptrdiff_t>(length));
        if (try_it(std::move(candidate))) {
          any = true;
        } else {
          begin += length;
        }
      }
    }
    return any;
  }

  bool edit(const std::function<bool(Scenario&)>& change) {
    Scenario candidate = best_;
    return change(candidate) && try_it(std::move(candidate));
  }

  bool thin_intents() {
    bool any = false;
    for (size_t i = 0; i < best_.intents.size(); ++i) {
      any = edit([&](Scenario& s) { return std::exchange(s.intents[i].ahead, false); }) || any;
      any = edit([&](Scenario& s) { return std::exchange(s.intents[i].replace_rank, -1) >= 0; }) || any;
      any = edit([&](Scenario& s) { return !std::exchange(s.intents[i].releases, {}).empty(); }) || any;
      for (size_t a = 0; a < best_.intents[i].arrivals.size();) {
        const bool dropped = edit([&](Scenario& s) {
          auto& arrivals = s.intents[i].arrivals;
          arrivals.erase(arrivals.begin() + static_cast<std::ptrdiff_t>(a));
          return true;
        });
        any = any || dropped;
        if (!dropped) ++a;
      }
    }
    return any;
  }

  bool simplify_config() {
    bool any = edit([](Scenario& s) { return std::exchange(s.config.enable_two_batch_overlap, false); });
    any = edit([](Scenario& s) { return !std::exchange(s.config.graph_batch_sizes, {}).empty(); }) || any;
    any = edit([](Scenario& s) { return std::exchange(s.config.enable_dp_lm_head, false); }) || any;
    any = edit([](Scenario& s) { return std::exchange(s.config.page_size, 1) != 1; }) || any;
    any = edit([](Scenario& s) { return std::exchange(s.stop_chance, 0.0) != 0.0; }) || any;
    return any;
  }

  std::function<std::string(const Scenario&)> error_of_;
  int runs_left_;
  Scenario best_;
};

}  // namespace weft::runtime::simulate
