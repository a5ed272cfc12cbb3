#include "ops/scatter_blocks.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
namespace {

void check_blocks(std::string_view op, std::string_view name, const TensorView& view, int64_t blocks) {
  check_shape(op, name, view, {blocks, 4});
  check_dtype(op, name, view, DType::kI32);
  WEFT_CHECK(view.is_contiguous() && reinterpret_cast<uintptr_t>(view.data) % 16 == 0,
             "{}: {} is {}, expected contiguous blocks from a multiple of 16 bytes on", op, name,
             view.describe());
}

}  // namespace

void scatter_blocks(Stream& stream, const ScatterBlocksArgs& args) {
  constexpr const char* kOp = "scatter_blocks";
  check_shape(kOp, "indices", args.indices, {-1});
  check_dtype(kOp, "indices", args.indices, DType::kI32);
  check_dense_rows(kOp, "indices", args.indices);
  check_blocks(kOp, "out", args.out, -1);
  check_blocks(kOp, "x", args.x, args.indices.shape[0]);
  if (args.x.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, scatter_blocks), args,
                {device::write(args.out), device::read(args.x), device::read(args.indices)});
}

}  // namespace weft::ops
