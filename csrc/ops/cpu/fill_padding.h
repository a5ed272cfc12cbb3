#pragma once

#include "ops/fill_padding.h"

namespace weft::ops::cpu {

void fill_padding(const FillPaddingArgs& args, device::ExecContext& context);

}  // namespace weft::ops::cpu
