#include "exec/input_image.h"

namespace weft::exec {

void InputImage::put(int64_t offset, std::span<const int32_t> values) {
  // Page tables are mostly equal, so they are passed over many blocks at a time.
  constexpr int64_t kStride = 64 * kBlock;
  const auto count = static_cast<int64_t>(values.size());
  for (int64_t first = 0; first < count; first += kStride) {
    const int64_t at = offset / static_cast<int64_t>(sizeof(int32_t)) + first;
    const int64_t end = std::min(count, first + kStride);
    if (std::memcmp(values_.data() + at, values.data() + first,
                    static_cast<size_t>(end - first) * sizeof(int32_t)) == 0) {
      continue;
    }
    for (int64_t i = first; i < end; i += kBlock) {
      put_block(offset / kBlockBytes + i / kBlock, values.data() + i, std::min(kBlock, end - i));
    }
  }
}

}  // namespace weft::exec
