#include "exec/stage_times.h"

namespace weft::exec {

std::string_view stage_group_name(StageGroup group) {
  switch (group) {
    case StageGroup::kEmbedding:
      return "embedding";
    case StageGroup::kAttention:
      return "attention";
    case StageGroup::kFeedForward:
      return "feed_forward";
    case StageGroup::kLogits:
      return "logits";
  }
  return "?";
}

void StageTimes::add(const std::vector<StageGroup>& groups, const uint64_t* stamps, uint64_t end_ns,
                     bool in_time) {
  constexpr double kUsPerNs = 1e-3;
  uint64_t now = last_end_ns;
  const StageGroup* current = nullptr;
  const auto pass = [&](uint64_t to) {
    const double passed = static_cast<double>(to - now) * kUsPerNs;
    if (current != nullptr) {
      us[static_cast<size_t>(*current)] += passed;
    } else if (in_time && last_end_ns > 0) {
      between_us += passed;
      ++num_between;
    }
    now = to;
  };
  for (size_t i = 0; i < groups.size(); ++i) {
    // What was left by an earlier step is older than all of this one.
    if (stamps[i] <= now || stamps[i] > end_ns) continue;
    pass(stamps[i]);
    current = &groups[i];
  }
  if (current != nullptr) pass(end_ns);
  last_end_ns = end_ns;
}

}  // namespace weft::exec
