#include "ops/kv_write.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void kv_write(Stream& stream, const KvWriteArgs& args) {
  constexpr const char* kOp = "kv_write";
  check_shape(kOp, "cache", args.cache, {-1, -1});
  check_shape(kOp, "src", args.src, {-1, -1});
  check_shape(kOp, "slots", args.slots, {args.src.shape[0]});
  check_dtype(kOp, "slots", args.slots, DType::kI32);
  check_dense_rows(kOp, "slots", args.slots);
  check_dtype(kOp, "src", args.src, args.cache.dtype);
  check_dense_rows(kOp, "src", args.src);
  check_writable_rows(kOp, "cache", args.cache);
  WEFT_CHECK(args.column >= 0 && args.column + args.src.shape[1] <= args.cache.shape[1],
             "{}: columns [{}, {}) are outside cache = {}", kOp, args.column, args.column + args.src.shape[1],
             args.cache.describe());
  if (args.src.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, kv_write), args,
                {device::write(args.cache), device::read(args.src), device::read(args.slots)});
}

}  // namespace weft::ops
