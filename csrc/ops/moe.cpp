#include "ops/moe.h"

#include <array>
#include <initializer_list>

#include "base/error.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
namespace {

using device::Access;
using device::read;
using device::write;

void check_input(const char* op, const char* name, const TensorView& view, DType dtype,
                 std::initializer_list<int64_t> shape) {
  check_shape(op, name, view, shape);
  check_dtype(op, name, view, dtype);
  check_dense_rows(op, name, view);
}

void check_output(const char* op, const char* name, const TensorView& view, DType dtype,
                  std::initializer_list<int64_t> shape) {
  check_shape(op, name, view, shape);
  check_dtype(op, name, view, dtype);
  check_writable_rows(op, name, view);
}

/// An access list without allocation; ops here have optional operands.
class Accesses {
 public:
  void add(const Access& access) { items_[count_++] = access; }
  [[nodiscard]] std::span<const Access> get() const { return {items_.data(), count_}; }

 private:
  std::array<Access, 8> items_{};
  size_t count_ = 0;
};

}  // namespace

void route(Stream& stream, const RouteArgs& args) {
  constexpr const char* kOp = "route";
  check_input(kOp, "logits", args.logits, DType::kF32, {-1, -1});
  const int64_t num_tokens = args.logits.shape[0];
  const int64_t num_experts = args.logits.shape[1];
  check_output(kOp, "ids", args.ids, DType::kI32, {num_tokens, -1});
  const int64_t top_k = args.ids.shape[1];
  check_output(kOp, "weights", args.weights, DType::kF32, {num_tokens, top_k});
  if (args.bias.defined()) check_input(kOp, "bias", args.bias, DType::kF32, {num_experts});
  WEFT_CHECK(args.num_groups >= 1 && num_experts % args.num_groups == 0,
             "{}: num_experts={} must be a multiple of num_groups={}", kOp, num_experts, args.num_groups);
  WEFT_CHECK(args.top_groups >= 1 && args.top_groups <= args.num_groups,
             "{}: top_groups={} must lie in 1..num_groups={}", kOp, args.top_groups, args.num_groups);
  const int64_t group_size = num_experts / args.num_groups;
  WEFT_CHECK(
      args.group_score != GroupScore::kSumOfTop2 || group_size >= 2,
      "{}: a group's score is the sum of its two best experts, but num_experts={} and num_groups={} leave {}",
      kOp, num_experts, args.num_groups, group_size);
  const int64_t choosable =
      args.group_score == GroupScore::kNone ? num_experts : args.top_groups * group_size;
  WEFT_CHECK(top_k >= 1 && top_k <= choosable,
             "{}: top_k={} must lie in 1..{}, the experts in the groups that are kept", kOp, top_k,
             choosable);
  const ValidRows& valid = args.valid;
  WEFT_CHECK(
      valid.num_segments == 0 || (valid.num_segments > 0 && valid.start != nullptr && valid.count != nullptr),
      "{}: valid rows have num_segments={}, start={} and count={}; give both arrays, or no segment", kOp,
      valid.num_segments, valid.start == nullptr ? "null" : "an array",
      valid.count == nullptr ? "null" : "an array");
  if (num_tokens == 0) return;
  Accesses accesses;
  accesses.add(write(args.ids));
  accesses.add(write(args.weights));
  accesses.add(read(args.logits));
  if (args.bias.defined()) accesses.add(read(args.bias));
  if (valid.num_segments > 0) {
    const size_t num_bytes = static_cast<size_t>(valid.num_segments) * sizeof(int32_t);
    accesses.add(read(valid.start, num_bytes));
    accesses.add(read(valid.count, num_bytes));
  }
  stream.launch(kOp, WEFT_KERNEL(stream, route), args, accesses.get());
}

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
  if (args.out.rank == 3) {
    check_output(kOp, "out", args.out, args.x.dtype, {num_experts, -1, hidden});
  } else {
    check_output(kOp, "out", args.out, args.x.dtype, {-1, hidden});
    check_output(kOp, "offsets", args.offsets, DType::kI32, {num_experts + 1});
  }
  WEFT_CHECK(args.out.is_contiguous(), "{}: out {} must be contiguous; positions count its flattened rows",
             kOp, args.out.describe());
  // No row is no reason to return: counts and offsets are still due.
  Accesses accesses;
  accesses.add(write(args.out));
  accesses.add(write(args.counts));
  accesses.add(write(args.position));
  if (args.out.rank == 2) accesses.add(write(args.offsets));
  accesses.add(read(args.ids));
  accesses.add(read(args.x));
  if (args.num_rows != nullptr) accesses.add(read(args.num_rows, sizeof(int32_t)));
  stream.launch(kOp, WEFT_KERNEL(stream, moe_permute), args, accesses.get());
}

void moe_unpermute(Stream& stream, const UnpermuteArgs& args) {
  constexpr const char* kOp = "moe_unpermute";
  check_input(kOp, "position", args.position, DType::kI32, {-1, -1});
  const int64_t rows = args.position.shape[0];
  check_input(kOp, "weights", args.weights, DType::kF32, {rows, args.position.shape[1]});
  check_shape(kOp, "x", args.x, {-1, -1});
  check_compute_dtype(kOp, "x", args.x);
  check_dense_rows(kOp, "x", args.x);
  check_shape(kOp, "out", args.out, {rows, args.x.shape[1]});
  check_compute_dtype(kOp, "out", args.out);
  check_writable_rows(kOp, "out", args.out);
  if (args.out.numel() == 0) return;
  Accesses accesses;
  accesses.add(write(args.out));
  accesses.add(read(args.x));
  accesses.add(read(args.position));
  accesses.add(read(args.weights));
  if (args.num_rows != nullptr) accesses.add(read(args.num_rows, sizeof(int32_t)));
  stream.launch(kOp, WEFT_KERNEL(stream, moe_unpermute), args, accesses.get());
}

}  // namespace weft::ops
