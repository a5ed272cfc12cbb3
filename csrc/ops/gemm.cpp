#include "ops/gemm.h"

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
namespace {

void check_operands(std::string_view op, const TensorView& out, const TensorView& a, const TensorView& w) {
  check_compute_dtype(op, "a", a);
  check_dense_rows(op, "a", a);
  check_dtype(op, "w", w, a.dtype);
  check_writable_rows(op, "out", out);
  WEFT_CHECK(out.dtype == DType::kF32 || out.dtype == a.dtype, "{}: out is {}; its dtype must be f32 or {}",
             op, out.describe(), dtype_name(a.dtype));
}

}  // namespace

void gemm(Stream& stream, const GemmArgs& args) {
  constexpr const char* kOp = "gemm";
  check_shape(kOp, "a", args.a, {-1, -1});
  check_shape(kOp, "w", args.w, {-1, args.a.shape[1]});
  check_shape(kOp, "out", args.out, {args.a.shape[0], args.w.shape[0]});
  check_operands(kOp, args.out, args.a, args.w);
  check_dense_rows(kOp, "w", args.w);
  if (args.bias.defined()) {
    check_shape(kOp, "bias", args.bias, {args.w.shape[0]});
    check_dtype(kOp, "bias", args.bias, args.a.dtype);
    check_dense_rows(kOp, "bias", args.bias);
  }
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, gemm), args,
                Accesses().write(args.out).read(args.a).read(args.w).read(args.bias).list());
}

void gemm_silu_mul(Stream& stream, const GemmSiluMulArgs& args) {
  constexpr const char* kOp = "gemm_silu_mul";
  check_shape(kOp, "a", args.a, {-1, -1});
  check_shape(kOp, "w", args.w, {-1, args.a.shape[1]});
  WEFT_CHECK(args.w.shape[0] % 2 == 0, "{}: w is {}; its rows must be as many of gate as of up", kOp,
             args.w.describe());
  check_shape(kOp, "gate_up", args.gate_up, {args.a.shape[0], args.w.shape[0]});
  check_shape(kOp, "out", args.out, {args.a.shape[0], args.w.shape[0] / 2});
  check_operands(kOp, args.out, args.a, args.w);
  check_dense_rows(kOp, "w", args.w);
  check_dtype(kOp, "out", args.out, args.a.dtype);
  check_dtype(kOp, "gate_up", args.gate_up, args.a.dtype);
  check_writable_rows(kOp, "gate_up", args.gate_up);
  check_dense_rows(kOp, "gate_up", args.gate_up);
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, gemm_silu_mul), args,
                Accesses().write(args.out).write(args.gate_up).read(args.a).read(args.w).list());
}

void batched_gemm(Stream& stream, const BatchedGemmArgs& args) {
  constexpr const char* kOp = "batched_gemm";
  check_shape(kOp, "a", args.a, {-1, -1, -1});
  check_shape(kOp, "w", args.w, {args.a.shape[1], -1, args.a.shape[2]});
  check_shape(kOp, "out", args.out, {args.a.shape[0], args.a.shape[1], args.w.shape[1]});
  check_operands(kOp, args.out, args.a, args.w);
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, batched_gemm), args,
                Accesses().write(args.out).read(args.a).read(args.w).list());
}

void grouped_gemm(Stream& stream, const GroupedGemmArgs& args) {
  constexpr const char* kOp = "grouped_gemm";
  check_shape(kOp, "w", args.w, {-1, -1, -1});
  const int64_t groups = args.w.shape[0];
  const int64_t n = args.w.shape[1];
  const int64_t k = args.w.shape[2];
  WEFT_CHECK((args.offsets == nullptr) != (args.counts == nullptr),
             "{}: give offsets (contiguous rows) or counts (masked rows), and not both", kOp);
  WEFT_CHECK(args.alignment > 0, "{}: alignment={} must be positive", kOp, args.alignment);
  if (args.offsets != nullptr) {
    check_shape(kOp, "a", args.a, {-1, k});
    check_shape(kOp, "out", args.out, {args.a.shape[0], n});
  } else {
    check_shape(kOp, "a", args.a, {groups, -1, k});
    check_shape(kOp, "out", args.out, {groups, args.a.shape[1], n});
  }
  check_operands(kOp, args.out, args.a, args.w);
  check_dense_rows(kOp, "w", args.w);
  if (args.out.numel() == 0 || groups == 0) return;
  // Rows outside the groups are left alone, but which they are is known only when the op runs.
  const auto num_groups = static_cast<size_t>(groups);
  stream.launch(kOp, WEFT_KERNEL(stream, grouped_gemm), args,
                Accesses()
                    .write(args.out)
                    .read(args.a)
                    .read(args.w)
                    .read(args.offsets, (num_groups + 1) * sizeof(int32_t))
                    .read(args.counts, num_groups * sizeof(int32_t))
                    .list());
}

}  // namespace weft::ops
