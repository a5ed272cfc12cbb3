#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "plan/stages.h"

namespace weft::exec {

/// What a rank's compute stream works on, for the times in RankCounters.
enum class StageGroup : uint8_t { kEmbedding, kAttention, kFeedForward, kLogits };
constexpr size_t kNumStageGroups = 4;
std::string_view stage_group_name(StageGroup group);  // "embedding", "attention", ...; "?" past the last

/// Marks where a step passes from one group to another, by stamps on its compute stream. Graphs replay them.
class StageMarks {
 public:
  /// Slots that a step may take: two micro-batches that alternate might enter another group with every op of
  /// a layer.
  static int64_t max_stamps(int64_t num_layers) { return 2 * plan::kNumLayerOps * num_layers + 2; }

  /// slots: u64 [max_stamps], device.
  explicit StageMarks(uint64_t* slots) : slots_(slots) {}

  void begin_step() { groups_.clear(); }
  /// From the next op on `stream` works on `group`.
  void enter(device::Stream& stream, StageGroup group) {
    if (!groups_.empty() && groups_.back() == group) return;
    stream.stamp_next(slots_ + groups_.size());
    groups_.push_back(group);
  }
  /// Of the step that was enqueued last: groups()[i] begins at stamp i.
  [[nodiscard]] const std::vector<StageGroup>& groups() const { return groups_; }

 private:
  uint64_t* slots_;
  std::vector<StageGroup> groups_;
};

/// Device time by what it went to, summed over steps.
struct StageTimes {
  std::array<double, kNumStageGroups> us{};
  double between_us = 0.0;   // from the end of a step's LM head to the start of the next step, if that was
  int64_t num_between = 0;   // enqueued in time; and how many such there were
  uint64_t last_end_ns = 0;  // of the step before

  /// stamps[i]: when groups[i] began; end_ns: when the last one ended. in_time: the step was enqueued before
  /// the one before it had been collected. A stamp that no kernel wrote counts for the group before it.
  void add(const std::vector<StageGroup>& groups, const uint64_t* stamps, uint64_t end_ns, bool in_time);
};

}  // namespace weft::exec
