#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "device/clock.h"
#include "device/cpu/access_history.h"

namespace weft::device::cpu {

/// The proof that conflicting ops of a device are ordered by streams, events, or the host waiting in between.
/// The host counts as one thread. Thread-safe.
class OrderCheck {
 public:
  /// Not enabled: every function does nothing.
  explicit OrderCheck(bool enabled) : enabled_(enabled) {}

  void add_stream(const std::string& name);
  /// A command of `stream` that ends at `position` makes these accesses. clock: the stream's, brought up to
  /// date with what the host has seen. Throws Error if one is not ordered after all that it conflicts with.
  void add(uint32_t stream, uint64_t position, Clock& clock, const std::vector<BufferAccess>& accesses,
           std::string_view where);
  /// What a record on `stream` at `position` stands for.
  [[nodiscard]] Clock snapshot(uint32_t stream, uint64_t position, const Clock& clock) const;
  /// The host has waited for what `clock` stands for.
  void host_saw(const Clock& clock);
  /// The access to `buffer` that the host has not waited for, as "op 'x' of stream 'y'", or empty.
  [[nodiscard]] std::string destroy(const BufferRecord& buffer);

 private:
  const bool enabled_;
  mutable std::mutex mutex_;
  AccessHistory history_;
  Clock host_;
};

}  // namespace weft::device::cpu
