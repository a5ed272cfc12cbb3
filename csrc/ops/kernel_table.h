#pragma once

#include <string>
#include <vector>

#include "device/device.h"

namespace weft::ops {

/// What serves an op on a backend, for people: `python -m weft.doctor`.
struct KernelInfo {
  std::string op;
  std::string kernel;
  std::string why_not_faster;  // empty: there is no faster one for this op
};

/// One entry an op, in the order of a layer. On the CPU it depends on this machine's instruction set.
[[nodiscard]] std::vector<KernelInfo> kernel_table(device::Backend backend);

}  // namespace weft::ops
