#pragma once

#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "device/device.h"

namespace weft::comm::local {

/// True if `sum` knows the dtype: f32, bf16, f16, i32, i64.
[[nodiscard]] bool can_sum(DType dtype);

/// out[i] = sum over the inputs of in[i], for i in [0, count): floats in f32, in order of `inputs`, rounded
/// once; integers wrap. `out` may be one of the inputs. At least one input.
void sum(DType dtype, void* out, std::span<const void* const> inputs, int64_t count,
         device::ExecContext& context);

}  // namespace weft::comm::local
