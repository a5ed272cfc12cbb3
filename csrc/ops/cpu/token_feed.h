#pragma once

#include "ops/localize.h"
#include "ops/token_feed.h"

namespace weft::ops::cpu {

void fill_padding(const FillPaddingArgs& args, device::ExecContext& context);
void localize_experts(const LocalizeArgs& args, device::ExecContext& context);

}  // namespace weft::ops::cpu
