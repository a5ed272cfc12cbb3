#include "ops/elementwise.h"

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void add(Stream& stream, const AddArgs& args) {
  constexpr const char* kOp = "add";
  check_shape(kOp, "a", args.a, {-1, -1});
  check_compute_dtype(kOp, "a", args.a);
  check_dense_rows(kOp, "a", args.a);
  check_shape(kOp, "b", args.b, {args.a.shape[0], args.a.shape[1]});
  check_dtype(kOp, "b", args.b, args.a.dtype);
  check_dense_rows(kOp, "b", args.b);
  check_shape(kOp, "out", args.out, {args.a.shape[0], args.a.shape[1]});
  check_dtype(kOp, "out", args.out, args.a.dtype);
  check_writable_rows(kOp, "out", args.out);
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, add), args,
                {device::write(args.out), device::read(args.a), device::read(args.b)});
}

void cast(Stream& stream, const CastArgs& args) {
  constexpr const char* kOp = "cast";
  check_shape(kOp, "x", args.x, {-1, -1});
  check_compute_dtype(kOp, "x", args.x);
  check_dense_rows(kOp, "x", args.x);
  check_shape(kOp, "out", args.out, {args.x.shape[0], args.x.shape[1]});
  check_compute_dtype(kOp, "out", args.out);
  check_writable_rows(kOp, "out", args.out);
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, cast), args, {device::write(args.out), device::read(args.x)});
}

void silu_mul(Stream& stream, const SiluMulArgs& args) {
  constexpr const char* kOp = "silu_mul";
  const TensorView& x = args.gate_up;
  WEFT_CHECK(x.rank == 2 || x.rank == 3,
             "{}: gate_up is {}; it must be [rows, 2 * inter] or [groups, rows, 2 * inter]", kOp,
             x.defined() ? x.describe() : "undefined");
  check_compute_dtype(kOp, "gate_up", x);
  check_dense_rows(kOp, "gate_up", x);
  WEFT_CHECK(x.shape[x.rank - 1] % 2 == 0, "{}: gate_up is {}; its last dimension must be even", kOp,
             x.describe());
  const int64_t inter = x.shape[x.rank - 1] / 2;
  if (x.rank == 2) {
    check_shape(kOp, "out", args.out, {x.shape[0], inter});
  } else {
    check_shape(kOp, "out", args.out, {x.shape[0], x.shape[1], inter});
  }
  check_dtype(kOp, "out", args.out, x.dtype);
  check_writable_rows(kOp, "out", args.out);
  if (args.out.numel() == 0) return;
  const size_t num_counts = x.rank == 2 ? 1 : static_cast<size_t>(x.shape[0]);
  stream.launch(kOp, WEFT_KERNEL(stream, silu_mul), args,
                Accesses().write(args.out).read(x).read(args.num_rows, num_counts * sizeof(int32_t)).list());
}

}  // namespace weft::ops
