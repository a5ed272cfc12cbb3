#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "device/cpu/access_history.h"
#include "device/cpu/order_check.h"
#include "device/null/lane.h"

namespace weft::device::null {

/// Reserves address space in large pieces; nothing is given back before the end, so no address comes twice.
class AddressSpace {
 public:
  AddressSpace() = default;
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;
  [[nodiscard]] void* take(size_t num_bytes);

 private:
  struct Piece {
    std::byte* begin;
    size_t num_bytes, used;
  };
  std::vector<Piece> pieces_;
};

/// A graph that is being recorded. Streams that took part keep it after it ended, so that events recorded in
/// it can say so.
struct Capture {
  std::shared_ptr<Recording> graph = std::make_shared<Recording>();
  std::vector<Clock> clocks;  // by lane, in ops
  std::set<const BufferRecord*> buffers;
  cpu::AccessHistory history;
  std::vector<BufferAccess> accesses;
  bool active = true;

  size_t add_lane(const std::string& stream);
  /// Throws Error if a lane was not joined back.
  std::shared_ptr<Recording> finish();
};

/// One stream's contents and how far they have come.
struct Queue {
  std::string name;
  Script script;
  Cursor cursor;
};

/// What the parts of a device share.
struct Core {
  explicit Core(NullOptions device_options)
      : options(std::move(device_options)), order(options.check_order) {}

  NullOptions options;
  AddressSpace memory;
  BufferTable buffers;
  size_t allocated_bytes = 0;
  std::vector<std::shared_ptr<Queue>> queues;  // by stream; null: destroyed
  CollectiveList collective_memory;
  std::vector<const NullCollective*> enqueued;
  std::vector<NullArrival> arrivals;
  const Capture* capturing = nullptr;
  int64_t num_waits = 0;
  int64_t num_records = 0;  // of events that a stream has waited for
  cpu::OrderCheck order;
  bool tracing = false;
  std::vector<OpSpan> spans;

  void advance();
  void pass(Cursor& cursor, int64_t time_us);
  [[nodiscard]] bool idle() const;
  [[nodiscard]] std::string where() const;
  void forget();
  /// Counts a wait; true if it is the one to be ignored.
  [[nodiscard]] bool drops_wait() { return num_waits++ == options.drop_wait; }

 private:
  bool advance(Cursor& cursor);
  bool run_command(Cursor& cursor, const Command& command);
  bool run_replay(Cursor& cursor, const Command& command);
  void run_ops(Cursor& cursor, size_t position);
  [[nodiscard]] const Cursor* lane_of(const Cursor& cursor, uint32_t lane) const;
  [[nodiscard]] std::string where(const Cursor& cursor) const;
};

}  // namespace weft::device::null
