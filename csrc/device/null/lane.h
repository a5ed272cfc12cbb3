#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "device/buffer_table.h"
#include "device/clock.h"
#include "device/null/null_device.h"

namespace weft::device::null {

/// Collective ops and their arguments, at addresses that stay.
class CollectiveList {
 public:
  const NullCollective* add(const Op& op) {
    const size_t size = (sizeof(NullCollective) + op.args_bytes + kAlign - 1) / kAlign * kAlign;
    if (blocks_.empty() || used_ + size > kBlock) {
      blocks_.push_back(std::make_unique<Block>());
      used_ = 0;
    }
    std::byte* to = blocks_.back()->bytes + used_;
    used_ += size;
    WEFT_CHECK(used_ <= kBlock, "op '{}' has {} bytes of arguments; at most {} fit", op.name, op.args_bytes,
               kBlock - sizeof(NullCollective));
    void* args = to + sizeof(NullCollective);
    std::memcpy(args, op.args, op.args_bytes);
    return new (to) NullCollective{.name = op.name, .fn = op.fn, .tag = op.tag, .args = args};
  }
  void clear() {
    if (blocks_.size() > 1) blocks_.resize(1);
    used_ = 0;
  }

 private:
  static constexpr size_t kAlign = alignof(std::max_align_t);
  static constexpr size_t kBlock = size_t{1} << 16;
  struct Block {
    alignas(kAlign) std::byte bytes[kBlock];
  };
  std::vector<std::unique_ptr<Block>> blocks_;
  size_t used_ = 0;  // of the last block
};

struct Recording;

/// What is not simply passed over. Everything else in a lane is an op that takes a unit of time.
struct Command {
  enum class Type : uint8_t { kMark, kWait, kCollective, kReplay };
  Type type = Type::kMark;
  uint32_t lane = 0;    // kWait: of the mark
  uint64_t index = 0;   // kWait: the mark, counted from the lane's first; kCollective, kReplay: in the script
  size_t position = 0;  // ops before it
};

/// The in-order contents of a stream, or of a lane of a graph.
struct Script {
  struct OpName {
    std::string_view name;
    int32_t tag = -1;
  };
  std::vector<OpName> ops;  // collective ones too
  std::vector<Command> commands;
  std::vector<const NullCollective*> collectives;
  std::vector<std::shared_ptr<Recording>> graphs;
  uint64_t num_marks = 0;

  void clear() {
    ops.clear();
    commands.clear();
    collectives.clear();
    graphs.clear();
  }
};

struct Run;

/// How far a script has come.
struct Cursor {
  const Script* script = nullptr;
  std::string_view stream;  // name
  size_t next_command = 0;
  size_t position = 0;  // ops that are over
  int64_t time_us = 0;
  bool stands = false;              // at a collective op
  uint64_t first_mark = 0;          // index of mark_times[0]
  std::vector<int64_t> mark_times;  // of marks passed
  Run* run = nullptr;               // the replay that it is a lane of; null for a stream
  std::unique_ptr<Run> replay;      // under way

  [[nodiscard]] bool done() const {
    return next_command == script->commands.size() && position == script->ops.size();
  }
  [[nodiscard]] bool passed(uint64_t mark) const { return mark < first_mark + mark_times.size(); }
  /// Of a passed mark; what was forgotten was long ago.
  [[nodiscard]] int64_t mark_time(uint64_t mark) const {
    return mark < first_mark ? 0 : mark_times[static_cast<size_t>(mark - first_mark)];
  }
};

/// A captured graph.
struct Recording {
  std::vector<std::unique_ptr<Script>> lanes;  // [0] is the stream that began the capture
  std::vector<std::string> streams;            // names, by lane
  std::vector<std::string_view> op_names;      // capture order
  CollectiveList collective_memory;
  std::vector<const NullCollective*> collectives;            // capture order
  std::vector<std::shared_ptr<const BufferRecord>> buffers;  // each one that an op touches
  std::vector<BufferAccess> accesses;                        // their union, if order is checked
  Clock last_run;                                            // likewise
  bool running = false;
};

/// One replay.
struct Run {
  std::shared_ptr<Recording> graph;
  std::vector<Cursor> lanes;
};

}  // namespace weft::device::null
