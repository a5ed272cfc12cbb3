#include "ops/sampling.h"

#include <limits>

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
namespace {

using device::read;
using device::write;

void check_logits(const char* op, const TensorView& logits) {
  check_shape(op, "logits", logits, {-1, -1});
  check_dtype(op, "logits", logits, DType::kF32);
  check_dense_rows(op, "logits", logits);
  WEFT_CHECK(logits.shape[1] >= 1 && logits.shape[1] <= std::numeric_limits<int32_t>::max(),
             "{}: logits is {}; the vocabulary must have 1 to 2^31 - 1 tokens", op, logits.describe());
}

void check_vector(const char* op, const char* name, const TensorView& view, DType dtype, int64_t rows) {
  check_shape(op, name, view, {rows});
  check_dtype(op, name, view, dtype);
  check_writable_rows(op, name, view);
}

void check_dense_vector(const char* op, const char* name, const TensorView& view, int64_t rows) {
  check_vector(op, name, view, DType::kI32, rows);
  WEFT_CHECK(view.is_contiguous(), "{}: {} is {} with a stride of {}; it must be 1", op, name,
             view.describe(), view.stride[0]);
}

}  // namespace

void sample(Stream& stream, const SampleArgs& args) {
  constexpr const char* kOp = "sample";
  check_logits(kOp, args.logits);
  const int64_t rows = args.logits.shape[0];
  check_vector(kOp, "tokens", args.tokens, DType::kI32, rows);
  if (rows == 0) return;
  WEFT_CHECK(args.params != nullptr, "{}: params is null; give one SamplingRow for each of {} rows", kOp,
             rows);
  const bool commits = args.last_tokens.defined();
  WEFT_CHECK(commits == args.slots.defined() && commits == args.wanted.defined() &&
                 commits == args.targets.defined(),
             "{}: last_tokens, slots, wanted and targets go together; define all or none", kOp);
  if (commits) {
    check_dense_vector(kOp, "last_tokens", args.last_tokens, args.last_tokens.shape[0]);
    check_dense_vector(kOp, "slots", args.slots, rows);
    check_dense_vector(kOp, "wanted", args.wanted, rows);
    check_dense_vector(kOp, "targets", args.targets, rows);
  }
  stream.launch(kOp, WEFT_KERNEL(stream, sample), args,
                Accesses()
                    .write(args.tokens)
                    .write(args.last_tokens)
                    .write(args.targets)
                    .read(args.logits)
                    .read(args.params, static_cast<size_t>(rows) * sizeof(SamplingRow))
                    .read(args.num_rows, sizeof(int32_t))
                    .read(args.slots)
                    .read(args.wanted)
                    .list());
}

void logprobs(Stream& stream, const LogprobArgs& args) {
  constexpr const char* kOp = "logprobs";
  check_logits(kOp, args.logits);
  const int64_t rows = args.logits.shape[0];
  check_vector(kOp, "logprobs", args.logprobs, DType::kF32, rows);
  check_vector(kOp, "targets", args.targets, DType::kI32, rows);
  WEFT_CHECK(args.top_ids.defined() == args.top_logprobs.defined(),
             "{}: top_ids and top_logprobs go together; define both or none", kOp);
  WEFT_CHECK(args.num_top == nullptr || args.top_ids.defined(),
             "{}: num_top asks for the largest, but top_ids and top_logprobs are undefined", kOp);
  if (args.top_ids.defined()) {
    check_shape(kOp, "top_ids", args.top_ids, {rows, -1});
    check_dtype(kOp, "top_ids", args.top_ids, DType::kI32);
    check_writable_rows(kOp, "top_ids", args.top_ids);
    check_shape(kOp, "top_logprobs", args.top_logprobs, {rows, args.top_ids.shape[1]});
    check_dtype(kOp, "top_logprobs", args.top_logprobs, DType::kF32);
    check_writable_rows(kOp, "top_logprobs", args.top_logprobs);
  }
  if (rows == 0) return;
  Accesses accesses;
  accesses.write(args.logprobs).read(args.logits).read(args.targets).read(args.num_rows, sizeof(int32_t));
  if (args.num_top != nullptr) {
    accesses.write(args.top_ids)
        .write(args.top_logprobs)
        .read(args.num_top, static_cast<size_t>(rows) * sizeof(int32_t));
  }
  stream.launch(kOp, WEFT_KERNEL(stream, logprobs), args, accesses.list());
}

}  // namespace weft::ops
