#include "ops/cpu/token_feed.h"

#include <cstring>

namespace weft::ops::cpu {

void fill_padding(const FillPaddingArgs& args, device::ExecContext&) {
  const auto row_bytes = static_cast<size_t>(args.x.stride[0]) * dtype_size(args.x.dtype);
  for (int64_t r = *args.num_rows; r < args.x.shape[0]; ++r) {
    std::memset(args.x.as<char>() + static_cast<size_t>(r) * row_bytes, args.value,
                static_cast<size_t>(args.x.shape[1]) * dtype_size(args.x.dtype));
  }
}

void localize_experts(const LocalizeArgs& args, device::ExecContext&) {
  const auto* ids = args.ids.as<const int32_t>();
  auto* out = args.out.as<int32_t>();
  for (int64_t i = 0; i < args.out.numel(); ++i) {
    const int32_t local = ids[i] - args.first_expert;
    out[i] = ids[i] >= 0 && local >= 0 && local < args.num_local_experts ? local : -1;
  }
}

}  // namespace weft::ops::cpu
