#include <cstring>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"

namespace weft::ops::cpu {

void kv_write(const KvWriteArgs& args, ExecContext& context) {
  const int64_t columns = args.src.shape[1];
  const size_t element = dtype_size(args.src.dtype);
  context.parallel_for(args.src.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t slot = args.slots.as<int32_t>()[t];
      WEFT_CHECK(slot >= -1 && slot < args.cache.shape[0], "kv_write: slots[{}]={} is outside cache = {}", t,
                 slot, args.cache.describe());
      if (slot < 0) continue;
      std::memcpy(row_bytes(args.cache, slot) + args.column * static_cast<int64_t>(element),
                  row_bytes(args.src, t), static_cast<size_t>(columns) * element);
    }
  });
}

}  // namespace weft::ops::cpu
