#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"

namespace weft::device {

/// A live buffer, or what is left of a destroyed one for those who still refer to it.
struct BufferRecord {
  BufferRecord(uintptr_t address, size_t bytes, std::string label)
      : begin(address), num_bytes(bytes), name(std::move(label)) {}
  const uintptr_t begin;
  const size_t num_bytes;
  const std::string name;
  std::atomic<bool> alive{true};
};

/// An access within one buffer.
struct BufferAccess {
  std::shared_ptr<const BufferRecord> buffer;
  size_t begin = 0;  // bytes from the start of the buffer
  size_t end = 0;
  bool write = false;
  std::string_view op;  // whose access it is, for messages
};

/// Finds the live buffer that holds a range. Thread-safe.
class BufferTable {
 public:
  void add(const std::shared_ptr<BufferRecord>& record);
  void remove(const std::shared_ptr<BufferRecord>& record);
  /// Grows whenever a buffer is destroyed.
  [[nodiscard]] uint64_t num_removed() const { return num_removed_.load(std::memory_order_acquire); }
  /// The buffer whose [begin, begin + num_bytes) holds `address`, or null.
  [[nodiscard]] std::shared_ptr<BufferRecord> find(uintptr_t address) const;

 private:
  mutable std::shared_mutex mutex_;
  std::vector<std::shared_ptr<BufferRecord>> records_;  // by address
  std::atomic<uint64_t> num_removed_{0};
};

/// A stream's memory of recent look-ups, so that most checks of an access take no lock. One thread at a time.
class BufferCache {
 public:
  explicit BufferCache(const BufferTable& table) : table_(table) {}
  /// The buffer that holds the whole non-empty `access`. Throws Error, starting with the op, if none does.
  const std::shared_ptr<BufferRecord>& find(const Access& access, std::string_view stream,
                                            std::string_view op);

 private:
  struct Slot {
    uint64_t version = ~uint64_t{0};
    std::shared_ptr<BufferRecord> record;
  };
  const BufferTable& table_;
  std::array<Slot, 64> slots_;
};

}  // namespace weft::device
