#pragma once

#include "ops/common.h"

namespace weft::ops {

struct FillPaddingArgs {
  TensorView x;                       // [rows, columns]
  const int32_t* num_rows = nullptr;  // device [1]: rows from here on are set
  uint8_t value = 0xff;               // 0xff is NaN in every float type
};
/// Sets padding rows byte by byte: proof that nothing reads them.
void fill_padding(Stream& stream, const FillPaddingArgs& args);

}  // namespace weft::ops
