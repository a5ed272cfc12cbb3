#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device/clock.h"
#include "device/cpu/access_history.h"
#include "device/cpu/graph_state.h"

namespace weft::device::cpu {

/// A graph that is being recorded. Streams that took part keep it after it ended, so that events recorded in
/// it can say so.
class Capture {
 public:
  explicit Capture(const std::string& origin);

  /// False once the stream that began it has ended it.
  [[nodiscard]] bool active() const { return active_; }
  /// What makes it useless, if anything: told by finish().
  void spoil(const std::string& reason);
  /// Ends it without a graph.
  void abandon() { active_ = false; }

  /// A stream joins; returns its lane.
  size_t add_lane(const std::string& stream_name);
  /// Throws Error in checked builds if a conflicting access of another lane is not ordered before.
  void add_op(size_t lane, const Op& op, const std::vector<BufferAccess>& accesses, std::string_view where);
  /// Lane `lane` waits for all that `target` knew: its own first `position` commands and what they followed.
  void add_wait(size_t lane, size_t target, uint64_t position, const Clock& clock);
  [[nodiscard]] uint64_t position(size_t lane) const { return graph_->lanes[lane]->commands.count(); }
  /// What lane `lane` is known to follow now, itself included.
  [[nodiscard]] const Clock& clock(size_t lane) const { return clocks_[lane]; }

  /// Ends it. Throws Error if it is spoilt or a lane was not joined back.
  [[nodiscard]] std::shared_ptr<GraphState> finish();

 private:
  std::shared_ptr<GraphState> graph_;
  std::vector<Clock> clocks_;      // by lane
  std::vector<uint64_t> last_op_;  // by lane: the position behind its last op
  std::set<const BufferRecord*> buffers_;
  AccessHistory history_;  // checked builds only, as the next one
  std::vector<BufferAccess> accesses_;
  std::string spoilt_;
  bool active_ = true;
};

}  // namespace weft::device::cpu
