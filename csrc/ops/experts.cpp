#include "ops/experts.h"

#include <tuple>
#include <utility>

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
int32_t expert_alignment(device::Backend backend, const ExpertSizes& sizes) {
#if WEFT_CUDA
  if (backend == device::Backend::kCuda) return cuda::expert_alignment(sizes);
#endif
  (void)backend;
  (void)sizes;
  return 1;
}

namespace {

void check_expert_ffn(const char* op, const ExpertFfnArgs& args) {
  check_shape(op, "x", args.x, {-1, -1});
  check_compute_dtype(op, "x", args.x);
  check_dense_rows(op, "x", args.x);
  const int64_t hidden = args.x.shape[1];
  check_shape(op, "gate_up", args.gate_up, {-1, -1, hidden});
  const int64_t experts = args.gate_up.shape[0];
  const int64_t inter = args.gate_up.shape[1] / 2;
  check_shape(op, "gate_up", args.gate_up, {experts, 2 * inter, hidden});
  check_shape(op, "down", args.down, {experts, hidden, inter});
  for (const auto& [name, view] : {std::pair{"gate_up", &args.gate_up}, std::pair{"down", &args.down}}) {
    check_dtype(op, name, *view, args.x.dtype);
    check_dense_rows(op, name, *view);
  }
  check_input(op, "offsets", args.offsets, DType::kI32, {experts + 1});
  check_input(op, "source", args.source, DType::kI32, {-1});
  const int64_t max_rows = args.source.shape[0];
  for (const auto& [name, view, columns] :
       {std::tuple{"out", &args.out, hidden}, std::tuple{"copies", &args.copies, hidden},
        std::tuple{"gate_up_out", &args.gate_up_out, 2 * inter}, std::tuple{"act", &args.act, inter}}) {
    check_shape(op, name, *view, {max_rows, columns});
    check_dtype(op, name, *view, args.x.dtype);
    check_writable_rows(op, name, *view);
  }
  WEFT_CHECK(args.alignment > 0, "{}: alignment={} must be positive", op, args.alignment);
}

Accesses accesses_of(const ExpertFfnArgs& args) {
  return Accesses()
      .write(args.out)
      .write(args.copies)
      .write(args.gate_up_out)
      .write(args.act)
      .read(args.x)
      .read(args.gate_up)
      .read(args.down)
      .read(args.offsets)
      .read(args.source);
}

}  // namespace

void expert_ffn(Stream& stream, const ExpertFfnArgs& args) {
  constexpr const char* kOp = "expert_ffn";
  check_expert_ffn(kOp, args);
  if (args.out.numel() == 0 || args.gate_up.shape[0] == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, expert_ffn), args, accesses_of(args).list());
}

void expert_ffn_and_combine(Stream& stream, const ExpertFfnAndCombineArgs& args) {
  constexpr const char* kOp = "expert_ffn_and_combine";
  check_expert_ffn(kOp, args.experts);
  ExpertFfnAndCombineArgs whole = args;
  whole.combine.x = args.experts.out;
  check_unpermute(kOp, whole.combine);
  if (whole.combine.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, expert_ffn_and_combine), whole,
                accesses_of(args.experts)
                    .write(whole.combine.out)
                    .read(whole.combine.position)
                    .read(whole.combine.weights)
                    .read(whole.combine.num_rows, sizeof(int32_t))
                    .list());
}

}  // namespace weft::ops
