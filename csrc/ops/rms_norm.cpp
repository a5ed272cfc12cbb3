#include "ops/rms_norm.h"

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void rms_norm(Stream& stream, const RmsNormArgs& args) {
  constexpr const char* kOp = "rms_norm";
  WEFT_CHECK(args.x.rank == 2 || args.x.rank == 3,
             "{}: x is {}; it must be [rows, dim] or [rows, heads, dim]", kOp,
             args.x.defined() ? args.x.describe() : "undefined");
  check_compute_dtype(kOp, "x", args.x);
  check_dense_rows(kOp, "x", args.x);
  const auto check_output = [&](const char* name, const TensorView& view) {
    if (args.x.rank == 2) {
      check_shape(kOp, name, view, {args.x.shape[0], args.x.shape[1]});
    } else {
      check_shape(kOp, name, view, {args.x.shape[0], args.x.shape[1], args.x.shape[2]});
    }
    check_dtype(kOp, name, view, args.x.dtype);
    check_writable_rows(kOp, name, view);
  };
  check_output("out", args.out);
  if (args.residual.defined()) check_output("residual", args.residual);
  check_shape(kOp, "weight", args.weight, {args.x.shape[args.x.rank - 1]});
  check_dtype(kOp, "weight", args.weight, args.x.dtype);
  check_dense_rows(kOp, "weight", args.weight);
  if (args.x.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, rms_norm), args,
                Accesses().write(args.out).write(args.residual).read(args.x).read(args.weight).list());
}

void add_rms_norm(Stream& stream, const AddRmsNormArgs& args) {
  constexpr const char* kOp = "add_rms_norm";
  check_shape(kOp, "x", args.x, {-1, -1});
  check_compute_dtype(kOp, "x", args.x);
  check_dense_rows(kOp, "x", args.x);
  check_shape(kOp, "residual", args.residual, {args.x.shape[0], args.x.shape[1]});
  check_dtype(kOp, "residual", args.residual, args.x.dtype);
  check_writable_rows(kOp, "residual", args.residual);
  check_shape(kOp, "out", args.out, {args.x.shape[0], args.x.shape[1]});
  check_dtype(kOp, "out", args.out, args.x.dtype);
  check_writable_rows(kOp, "out", args.out);
  check_shape(kOp, "weight", args.weight, {args.x.shape[1]});
  check_dtype(kOp, "weight", args.weight, args.x.dtype);
  check_dense_rows(kOp, "weight", args.weight);
  if (args.x.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, add_rms_norm), args,
                {device::write(args.out), device::read(args.residual), device::write(args.residual),
                 device::read(args.x), device::read(args.weight)});
}

}  // namespace weft::ops
