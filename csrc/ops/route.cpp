#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/experts.h"
#include "ops/moe.h"

namespace weft::ops {
namespace {

void check_route(const char* op, const RouteArgs& args) {
  check_input(op, "logits", args.logits, DType::kF32, {-1, -1});
  const int64_t num_tokens = args.logits.shape[0];
  const int64_t num_experts = args.logits.shape[1];
  check_output(op, "ids", args.ids, DType::kI32, {num_tokens, -1});
  const int64_t top_k = args.ids.shape[1];
  check_output(op, "weights", args.weights, DType::kF32, {num_tokens, top_k});
  if (args.bias.defined()) check_input(op, "bias", args.bias, DType::kF32, {num_experts});
  WEFT_CHECK(args.num_groups >= 1 && num_experts % args.num_groups == 0,
             "{}: num_experts={} must be a multiple of num_groups={}", op, num_experts, args.num_groups);
  WEFT_CHECK(args.top_groups >= 1 && args.top_groups <= args.num_groups,
             "{}: top_groups={} must lie in 1..num_groups={}", op, args.top_groups, args.num_groups);
  const int64_t group_size = num_experts / args.num_groups;
  WEFT_CHECK(
      args.group_score != GroupScore::kSumOfTop2 || group_size >= 2,
      "{}: a group's score is the sum of its two best experts, but num_experts={} and num_groups={} leave {}",
      op, num_experts, args.num_groups, group_size);
  const int64_t choosable =
      args.group_score == GroupScore::kNone ? num_experts : args.top_groups * group_size;
  WEFT_CHECK(top_k >= 1 && top_k <= choosable,
             "{}: top_k={} must lie in 1..{}, the experts in the groups that are kept", op, top_k, choosable);
  const ValidRows& valid = args.valid;
  WEFT_CHECK(
      valid.num_segments == 0 || (valid.num_segments > 0 && valid.start != nullptr && valid.count != nullptr),
      "{}: valid rows have num_segments={}, start={} and count={}; give both arrays, or no segment", op,
      valid.num_segments, valid.start == nullptr ? "null" : "an array",
      valid.count == nullptr ? "null" : "an array");
}

Accesses accesses_of(const RouteArgs& args) {
  const size_t segments = static_cast<size_t>(args.valid.num_segments) * sizeof(int32_t);
  return Accesses()
      .write(args.ids)
      .write(args.weights)
      .read(args.logits)
      .read(args.bias)
      .read(args.valid.start, segments)
      .read(args.valid.count, segments);
}

void check_groups(const char* op, const GroupArgs& args, int64_t rows, int64_t top_k) {
  check_output(op, "position", args.position, DType::kI32, {rows, top_k});
  check_output(op, "offsets", args.offsets, DType::kI32, {-1});
  check_output(op, "source", args.source, DType::kI32, {-1});
  const int64_t num_experts = args.offsets.shape[0] - 1;
  WEFT_CHECK(
      args.first_expert >= 0 && num_experts >= 0 && args.first_expert + num_experts <= args.total_experts,
      "{}: experts [{}, {}) are not among the {} of the model", op, args.first_expert,
      args.first_expert + num_experts, args.total_experts);
  WEFT_CHECK(args.alignment > 0, "{}: alignment={} must be positive", op, args.alignment);
}

}  // namespace

void route(Stream& stream, const RouteArgs& args) {
  check_route("route", args);
  if (args.logits.shape[0] == 0) return;
  stream.launch("route", WEFT_KERNEL(stream, route), args, accesses_of(args).list());
}

void group_copies(Stream& stream, const GroupArgs& args) {
  constexpr const char* kOp = "group_copies";
  check_input(kOp, "ids", args.ids, DType::kI32, {-1, -1});
  check_groups(kOp, args, args.ids.shape[0], args.ids.shape[1]);
  // No row is no reason to return: offsets and source are still due.
  stream.launch(kOp, WEFT_KERNEL(stream, group_copies), args,
                Accesses()
                    .write(args.offsets)
                    .write(args.source)
                    .write(args.position)
                    .read(args.ids)
                    .read(args.num_rows, sizeof(int32_t))
                    .list());
}

void route_and_group(Stream& stream, const RouteAndGroupArgs& args) {
  constexpr const char* kOp = "route_and_group";
  check_route(kOp, args.route);
  const TensorView& ids = args.route.ids;
  check_groups(kOp, args.groups, ids.shape[0], ids.shape[1]);
  WEFT_CHECK(args.groups.total_experts == args.route.logits.shape[1],
             "{}: total_experts={}, but logits are {}", kOp, args.groups.total_experts,
             args.route.logits.describe());
  stream.launch(kOp, WEFT_KERNEL(stream, route_and_group), args,
                accesses_of(args.route)
                    .write(args.groups.offsets)
                    .write(args.groups.source)
                    .write(args.groups.position)
                    .list());
}

}  // namespace weft::ops
