#include "exec/input_image.h"

namespace weft::exec {

void InputImage::put(int64_t offset, std::span<const int32_t> values) {
  // Long arrays are page tables: mostly equal, so they are passed over many blocks at a time.
  constexpr int64_t kStride = 64 * kBlock;
  const auto count = static_cast<int64_t>(values.size());
  for (int64_t i = 0; i < count;) {
    const int64_t at = offset / static_cast<int64_t>(sizeof(int32_t)) + i;
    if (count - i >= kStride &&
        std::memcmp(values_.data() + at, values.data() + i, kStride * sizeof(int32_t)) == 0) {
      i += kStride;
      continue;
    }
    const int64_t end = std::min(count, i + kStride);
    for (; i < end; i += kBlock) {
      put_block(offset / kBlockBytes + i / kBlock, values.data() + i, std::min(kBlock, count - i));
    }
  }
}

}  // namespace weft::exec
