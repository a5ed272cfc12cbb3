#pragma once

#include <array>
#include <span>

#include "ops/common.h"

namespace weft::ops {

/// The ranges that an op declares, without those of undefined or empty arguments.
class Accesses {
 public:
  Accesses& read(const TensorView& view) { return add(device::read(view)); }
  Accesses& write(const TensorView& view) { return add(device::write(view)); }
  Accesses& read(const void* data, size_t num_bytes) { return add(device::read(data, num_bytes)); }
  Accesses& write(const void* data, size_t num_bytes) { return add(device::write(data, num_bytes)); }

  [[nodiscard]] std::span<const device::Access> list() const { return {accesses_.data(), count_}; }

 private:
  Accesses& add(const device::Access& access) {
    if (access.data != nullptr && access.num_bytes > 0) accesses_.at(count_++) = access;
    return *this;
  }

  std::array<device::Access, 13> accesses_{};
  size_t count_ = 0;
};

}  // namespace weft::ops
