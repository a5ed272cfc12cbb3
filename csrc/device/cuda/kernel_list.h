#pragma once

#include <cstddef>

namespace weft::device::cuda {

/// Loads every registered kernel on the current device, which is `ordinal`. Returns how many there are.
size_t load_kernels(int ordinal);

}  // namespace weft::device::cuda
