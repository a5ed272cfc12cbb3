#include <cstring>

#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {

void fill_padding(const FillPaddingArgs& args, device::ExecContext&) {
  const auto row_bytes = static_cast<size_t>(args.x.stride[0]) * dtype_size(args.x.dtype);
  for (int64_t r = *args.num_rows; r < args.x.shape[0]; ++r) {
    std::memset(args.x.as<char>() + static_cast<size_t>(r) * row_bytes, args.value,
                static_cast<size_t>(args.x.shape[1]) * dtype_size(args.x.dtype));
  }
}

}  // namespace weft::ops::cpu
