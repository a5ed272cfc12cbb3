#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "device/tensor.h"
#include "model/checkpoint.h"

namespace weft::model {

/// Rows of a tensor in memory that the host cannot write, and what fills them.
struct WeightPart {
  std::string_view name = {};  // in the source; empty: zeros
  std::span<const int64_t> full_shape = {};
  std::span<const Slice> slices = {};
  device::TensorView to = {};  // contiguous
};

/// How parts reach the device: threads fill host blocks, which are then copied to their places while the
/// next are filled.
struct WeightStaging {
  std::vector<void*> blocks;  // host, aligned to 64; a thread for each two of them, at least one
  int64_t block_bytes = 0;    // more than any row of a part
  /// Enqueues the copy of the first num_bytes of a block to `device`. One thread at a time.
  std::function<void(size_t block, void* device, int64_t num_bytes)> send;
  /// Returns when the last copy of a block has ended. Any thread.
  std::function<void(size_t block)> wait;
};

/// Reads all parts; returns when every copy has ended. Throws the first Error of any thread.
void load_staged(WeightSource& source, std::span<const WeightPart> parts, const WeightStaging& staging);

}  // namespace weft::model
