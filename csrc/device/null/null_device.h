#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"

namespace weft::device {

namespace null {
struct Cursor;
}

struct NullOptions {
  std::string name = "null:0";
  bool check_order =
      false;  // prove that ops which conflict are ordered, as checked builds of the CPU device do
  int64_t drop_wait = -1;  // tests only: ignore the wait with this index (in enqueue order)
  /// Tests only: ignore the record with this index, of those that renew an event which a stream has waited
  /// for.
  int64_t drop_record = -1;
};

/// A collective op as it was enqueued. Lives as long as its graph, or until forget().
struct NullCollective {
  std::string_view name;
  void (*fn)() = nullptr;
  int32_t tag = -1;
  const void* args = nullptr;  // the op's own copy
};

/// A stream, or a lane of a graph under way, that has come to a collective op.
struct NullArrival {
  null::Cursor* lane = nullptr;
  const NullCollective* op = nullptr;
  int64_t time_us = 0;
};

/// A device whose ops do nothing, for simulations: it keeps the order of things alone. Streams, events,
/// captures and graphs obey the contract of device.h, and an access outside of a live buffer throws; memory
/// is reserved address space that costs nothing until the host touches it, and holds what the host wrote.
///
/// No thread: everything runs inside advance(), or when the host waits. An op takes 1 us of a logical clock,
/// a collective one stops its lane until pass(). A host wait that nothing could end throws at once. One host
/// thread at a time.
class NullDevice : public Device {
 public:
  /// Runs every stream and graph as far as it comes.
  virtual void advance() = 0;
  /// Lanes that have come to a collective op since the last call.
  [[nodiscard]] virtual std::vector<NullArrival>& arrivals() = 0;
  /// The collective op that `lane` stands at is over at `time_us`.
  virtual void pass(null::Cursor& lane, int64_t time_us) = 0;
  /// Nothing is left to run.
  [[nodiscard]] virtual bool idle() const = 0;
  /// Where its streams stand: "compute at 'all_reduce', comm at a wait for compute".
  [[nodiscard]] virtual std::string where() const = 0;

  /// The logical time up to which its streams have run.
  [[nodiscard]] virtual int64_t time_us() const = 0;

  /// Collective ops enqueued since clear_enqueued(), in the order of the host's calls; those of a replayed
  /// graph in the order of its capture. Valid until forget().
  [[nodiscard]] virtual const std::vector<const NullCollective*>& enqueued() const = 0;
  virtual void clear_enqueued() = 0;
  /// Drops the memory of what has run. The device must be idle.
  virtual void forget() = 0;
  /// Waits so far that no other wait implies (unless outside of captures and without check_order): the range
  /// of NullOptions::drop_wait.
  [[nodiscard]] virtual int64_t num_waits() const = 0;
  /// The range of NullOptions::drop_record.
  [[nodiscard]] virtual int64_t num_records() const = 0;
};
[[nodiscard]] std::unique_ptr<NullDevice> make_null_device(NullOptions options);

}  // namespace weft::device
