#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace weft::exec {

/// What the device's input block holds, as the host knows it, and which blocks of 16 bytes a step changes.
///
/// Most of what a decode step needs is what the step before needed: page tables grow by an entry now and
/// then. So a step writes all of its inputs into the image, and only the blocks that differ are uploaded.
class InputImage {
 public:
  static constexpr int64_t kBlock = 4;  // i32

  /// All zeros, as the device's block must be at first.
  explicit InputImage(int64_t num_bytes) : values_(static_cast<size_t>(num_bytes) / sizeof(int32_t), 0) {}

  [[nodiscard]] int64_t num_blocks() const { return static_cast<int64_t>(values_.size()) / kBlock; }

  /// From now on changed blocks are written to blocks[i], i32 [num_blocks(), 4], and their places to
  /// indices[i], [num_blocks()]. What was reported before is taken to be on its way to the device.
  void begin(int32_t* blocks, int32_t* indices) {
    blocks_ = blocks;
    indices_ = indices;
    num_changed_ = 0;
  }
  /// Writes values to byte `offset`, a multiple of 16. In a step no block may be written twice.
  void put(int64_t offset, std::span<const int32_t> values);
  /// The same, with values[i] = value_at(i).
  template <class ValueAt>
  void put(int64_t offset, int64_t count, const ValueAt& value_at) {
    for (int64_t i = 0; i < count; i += kBlock) {
      int32_t block[kBlock];
      const int64_t n = std::min(kBlock, count - i);
      for (int64_t j = 0; j < n; ++j) block[j] = value_at(i + j);
      put_block(offset / kBlockBytes + i / kBlock, block, n);
    }
  }
  /// Blocks changed since begin().
  [[nodiscard]] int64_t num_changed() const { return num_changed_; }

 private:
  static constexpr int64_t kBlockBytes = kBlock * sizeof(int32_t);

  void put_block(int64_t index, const int32_t* values, int64_t count) {
    int32_t* to = values_.data() + index * kBlock;
    // Nearly all are whole: the compiler knows their size, and calls nothing.
    if (count == kBlock) {
      if (std::memcmp(to, values, kBlockBytes) == 0) return;
      std::memcpy(to, values, kBlockBytes);
    } else {
      const auto num_bytes = static_cast<size_t>(count) * sizeof(int32_t);
      if (std::memcmp(to, values, num_bytes) == 0) return;
      std::memcpy(to, values, num_bytes);
    }
    std::memcpy(blocks_ + num_changed_ * kBlock, to, kBlockBytes);
    indices_[num_changed_++] = static_cast<int32_t>(index);
  }

  std::vector<int32_t> values_;
  int32_t* blocks_ = nullptr;
  int32_t* indices_ = nullptr;
  int64_t num_changed_ = 0;
};

}  // namespace weft::exec
