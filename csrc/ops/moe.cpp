#include "ops/moe.h"

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
void moe_permute(Stream& stream, const PermuteArgs& args) {
  constexpr const char* kOp = "moe_permute";
  check_input(kOp, "ids", args.ids, DType::kI32, {-1, -1});
  const int64_t rows = args.ids.shape[0];
  check_output(kOp, "position", args.position, DType::kI32, {rows, args.ids.shape[1]});
  check_shape(kOp, "x", args.x, {rows, -1});
  check_compute_dtype(kOp, "x", args.x);
  check_dense_rows(kOp, "x", args.x);
  const int64_t hidden = args.x.shape[1];
  check_output(kOp, "counts", args.counts, DType::kI32, {-1});
  const int64_t num_experts = args.counts.shape[0];
  check_output(kOp, "out", args.out, args.x.dtype, {num_experts, -1, hidden});
  WEFT_CHECK(args.out.is_contiguous(), "{}: out {} must be contiguous; positions count its flattened rows",
             kOp, args.out.describe());
  // No row is no reason to return: counts are still due.
  stream.launch(kOp, WEFT_KERNEL(stream, moe_permute), args,
                Accesses()
                    .write(args.out)
                    .write(args.counts)
                    .write(args.position)
                    .read(args.ids)
                    .read(args.x)
                    .read(args.num_rows, sizeof(int32_t))
                    .list());
}

void check_unpermute(const char* op, const UnpermuteArgs& args) {
  check_input(op, "position", args.position, DType::kI32, {-1, -1});
  const int64_t rows = args.position.shape[0];
  check_input(op, "weights", args.weights, DType::kF32, {rows, args.position.shape[1]});
  check_shape(op, "x", args.x, {-1, -1});
  check_compute_dtype(op, "x", args.x);
  check_dense_rows(op, "x", args.x);
  check_shape(op, "out", args.out, {rows, args.x.shape[1]});
  check_compute_dtype(op, "out", args.out);
  check_writable_rows(op, "out", args.out);
}

void moe_unpermute(Stream& stream, const UnpermuteArgs& args) {
  constexpr const char* kOp = "moe_unpermute";
  check_unpermute(kOp, args);
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, moe_unpermute), args,
                Accesses()
                    .write(args.out)
                    .read(args.x)
                    .read(args.position)
                    .read(args.weights)
                    .read(args.num_rows, sizeof(int32_t))
                    .list());
}

}  // namespace weft::ops
