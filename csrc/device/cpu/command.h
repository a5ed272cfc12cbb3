#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/math.h"
#include "device/device.h"

namespace weft::device::cpu {

class StreamQueue;
class GraphState;

/// One entry of a queue: a fixed head, with an op's arguments right behind it.
struct alignas(16) Command {
  enum class Type : uint8_t { kOp, kWait, kReplay };

  Type type = Type::kOp;
  OpKind kind = OpKind::kCompute;
  uint32_t num_bytes = 0;  // from this command to the next
  uint32_t ref = 0;        // in a stream: index into waits or graphs; in a graph: the lane that is waited for
  int32_t tag = -1;        // kOp: Op::tag
  uint64_t position = 0;   // kWait: of the stream or lane that is waited for; kReplay: the run of the graph
  std::string_view name;   // kOp
  void (*trampoline)(void (*fn)(), const void* args, ExecContext& context) = nullptr;
  void (*fn)() = nullptr;
  uint64_t* stamp = nullptr;  // Op::stamp

  [[nodiscard]] const void* args() const { return this + 1; }
};
static_assert(std::is_trivially_copyable_v<Command>);

/// Commands back to back in one growing block, which keeps its memory when cleared.
class CommandList {
 public:
  void push(Command command, const void* args = nullptr, size_t args_bytes = 0) {
    const size_t offset = bytes_.size();
    const size_t size = round_up(sizeof(Command) + args_bytes, alignof(Command));
    command.num_bytes = static_cast<uint32_t>(size);
    bytes_.resize(offset + size);
    std::memcpy(bytes_.data() + offset, &command, sizeof(Command));
    if (args_bytes != 0) std::memcpy(bytes_.data() + offset + sizeof(Command), args, args_bytes);
    ++count_;
  }
  [[nodiscard]] const Command* at(size_t offset) const {
    return reinterpret_cast<const Command*>(bytes_.data() + offset);
  }
  [[nodiscard]] size_t num_bytes() const { return bytes_.size(); }
  [[nodiscard]] size_t count() const { return count_; }
  void clear() {
    bytes_.clear();
    count_ = 0;
    waits.clear();
    graphs.clear();
  }

  // Kept alive while the commands that refer to them are queued.
  std::vector<std::shared_ptr<StreamQueue>> waits;
  std::vector<std::shared_ptr<GraphState>> graphs;

 private:
  std::vector<std::byte> bytes_;  // operator new aligns to 16
  size_t count_ = 0;
};

inline Command make_command(const Op& op) {
  Command command;
  command.kind = op.kind;
  command.tag = op.tag;
  command.name = op.name;
  command.trampoline = op.trampoline;
  command.fn = op.fn;
  command.stamp = op.stamp;
  return command;
}

}  // namespace weft::device::cpu
