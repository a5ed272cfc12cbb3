#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace weft::model {

/// A range of one dimension; end -1 means to its end.
struct Slice {
  int64_t begin = 0;
  int64_t end = -1;
};

class WeightCoverage;

/// Named tensors to read weights from; thread-safe.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  [[nodiscard]] virtual bool contains(std::string_view name) const = 0;
  /// Copies tensor `name`, whose shape must equal full_shape, restricted to `slices` (one a dimension; missing:
  /// whole), into dst (host memory, the sliced shape), converted to dst's dtype.
  virtual void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
                    const device::TensorView& dst) = 0;
};

}  // namespace weft::model
