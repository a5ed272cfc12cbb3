#pragma once

#include <cstdint>
#include <vector>

namespace weft::runtime {

/// KV pages of one DP rank. Pages are promised before they are taken, so that a request that was admitted
/// never runs out. One thread at a time.
class PageAllocator {
 public:
  explicit PageAllocator(int64_t num_pages);

  /// Promises `count` pages. False, and nothing changes, if fewer are left than that.
  [[nodiscard]] bool reserve(int64_t count);
  /// Gives back promises that were not taken.
  void cancel(int64_t count);
  /// A free page, out of a promise made before; throws Error if there is no promise.
  [[nodiscard]] int32_t take();
  /// Makes a taken page free; throws Error if it is free.
  void release(int32_t page);

  [[nodiscard]] int64_t num_pages() const { return static_cast<int64_t>(taken_.size()); }
  /// Pages neither taken nor promised.
  [[nodiscard]] int64_t available() const { return static_cast<int64_t>(free_.size()) - promised_; }
  [[nodiscard]] const std::vector<int32_t>& free_pages() const { return free_; }
  [[nodiscard]] int64_t used() const { return num_pages() - static_cast<int64_t>(free_.size()); }

 private:
  std::vector<bool> taken_;    // by page
  std::vector<int32_t> free_;  // the last one is taken next
  int64_t promised_ = 0;
};

}  // namespace weft::runtime
