#include "ops/rope.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void rope(Stream& stream, const RopeArgs& args) {
  constexpr const char* kOp = "rope";
  check_shape(kOp, "q", args.q, {-1, -1, -1});
  check_compute_dtype(kOp, "q", args.q);
  check_writable_rows(kOp, "q", args.q);
  const int64_t num_tokens = args.q.shape[0];
  const int64_t rope_dim = args.q.shape[2];
  WEFT_CHECK(rope_dim % 2 == 0, "{}: q is {}; rope_dim must be even", kOp, args.q.describe());
  check_shape(kOp, "k", args.k, {num_tokens, -1, rope_dim});
  check_dtype(kOp, "k", args.k, args.q.dtype);
  check_writable_rows(kOp, "k", args.k);
  check_shape(kOp, "positions", args.positions, {num_tokens});
  check_dtype(kOp, "positions", args.positions, DType::kI32);
  check_dense_rows(kOp, "positions", args.positions);
  check_shape(kOp, "cos_sin", args.cos_sin, {-1, rope_dim});
  check_dtype(kOp, "cos_sin", args.cos_sin, DType::kF32);
  check_dense_rows(kOp, "cos_sin", args.cos_sin);
  if (args.q.numel() == 0 && args.k.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, rope), args,
                {device::read(args.q), device::write(args.q), device::read(args.k), device::write(args.k),
                 device::read(args.positions), device::read(args.cos_sin)});
}

}  // namespace weft::ops
