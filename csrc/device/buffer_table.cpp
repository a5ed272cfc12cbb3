#include "device/buffer_table.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"

namespace weft::device {
namespace {

bool starts_before(const std::shared_ptr<BufferRecord>& record, uintptr_t address) {
  return record->begin < address;
}

}  // namespace

void BufferTable::add(const std::shared_ptr<BufferRecord>& record) {
  const std::unique_lock lock(mutex_);
  records_.insert(std::lower_bound(records_.begin(), records_.end(), record->begin, starts_before), record);
}

void BufferTable::remove(const std::shared_ptr<BufferRecord>& record) {
  const std::unique_lock lock(mutex_);
  record->alive.store(false);
  records_.erase(std::find(records_.begin(), records_.end(), record));
  num_removed_.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<BufferRecord> BufferTable::find(uintptr_t address) const {
  const std::shared_lock lock(mutex_);
  auto after = std::lower_bound(records_.begin(), records_.end(), address + 1, starts_before);
  if (after == records_.begin()) return nullptr;
  const auto& record = *--after;
  return address - record->begin < record->num_bytes ? record : nullptr;
}

const std::shared_ptr<BufferRecord>& BufferCache::find(const Access& access, std::string_view stream,
                                                       std::string_view op) {
  const auto address = reinterpret_cast<uintptr_t>(access.data);
  // Views of one buffer often start at few places; 64 bytes is their alignment.
  Slot& slot = slots_[((address >> 6) ^ (address >> 13)) % slots_.size()];
  const uint64_t version = table_.num_removed();
  const bool hit = slot.version == version && slot.record != nullptr && address >= slot.record->begin &&
                   address - slot.record->begin < slot.record->num_bytes;
  if (!hit) {
    slot.record = table_.find(address);
    slot.version = version;
    WEFT_CHECK(slot.record != nullptr,
               "{} op '{}': it {} {} bytes at {}, which lie in no live buffer of the device", stream, op,
               access.write ? "writes" : "reads", access.num_bytes, access.data);
  }
  const BufferRecord& record = *slot.record;
  const size_t offset = address - record.begin;
  WEFT_CHECK(access.num_bytes <= record.num_bytes - offset,
             "{} op '{}': it {} bytes [{}, {}) of buffer '{}', which has {}", stream, op,
             access.write ? "writes" : "reads", offset, offset + access.num_bytes, record.name,
             record.num_bytes);
  return slot.record;
}

}  // namespace weft::device
