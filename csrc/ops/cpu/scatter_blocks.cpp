#include <cstring>

#include "base/error.h"
#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {

void scatter_blocks(const ScatterBlocksArgs& args, ExecContext&) {
  const auto* indices = args.indices.as<const int32_t>();
  for (int64_t i = 0; i < args.indices.shape[0]; ++i) {
    WEFT_CHECK(indices[i] >= 0 && indices[i] < args.out.shape[0],
               "scatter_blocks: indices[{}]={} is outside out = [{}, 4]", i, indices[i], args.out.shape[0]);
    std::memcpy(args.out.as<int32_t>() + int64_t{indices[i]} * 4, args.x.as<const int32_t>() + i * 4, 16);
  }
}

}  // namespace weft::ops::cpu
