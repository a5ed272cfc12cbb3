#pragma once

#include "device/device.h"

namespace weft::test {

/// CudaOptions::hold: a kernel that ends after about two seconds.
void hold_stream(device::ExecContext& context);

}  // namespace weft::test
