#include "ops/token_feed.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/cpu/token_feed.h"
#include "ops/localize.h"

namespace weft::ops {
namespace {

void check_i32(const TensorView& view, int64_t rows, std::string_view op, std::string_view name) {
  WEFT_CHECK(view.dtype == DType::kI32 && view.rank == 1 && view.shape[0] == rows && view.stride[0] == 1,
             "{}: {} is {}, expected i32[{}]", op, name, view.describe(), rows);
}

}  // namespace

void resolve_token_ids(Stream& stream, const ResolveIdsArgs& args) {
  const int64_t rows = args.out.shape[0];
  check_i32(args.out, rows, "resolve_token_ids", "out");
  check_i32(args.ids, rows, "resolve_token_ids", "ids");
  check_i32(args.last_tokens, args.last_tokens.shape[0], "resolve_token_ids", "last_tokens");
  if (rows == 0) return;
  stream.launch("resolve_token_ids", WEFT_KERNEL(stream, resolve_token_ids), args,
                {device::write(args.out), device::read(args.ids), device::read(args.last_tokens)});
}

void commit_tokens(Stream& stream, const CommitTokensArgs& args) {
  const int64_t rows = args.tokens.shape[0];
  check_i32(args.tokens, rows, "commit_tokens", "tokens");
  check_i32(args.slots, rows, "commit_tokens", "slots");
  check_i32(args.wanted, rows, "commit_tokens", "wanted");
  check_i32(args.targets, rows, "commit_tokens", "targets");
  if (rows == 0) return;
  stream.launch("commit_tokens", WEFT_KERNEL(stream, commit_tokens), args,
                {device::write(args.last_tokens), device::write(args.targets), device::read(args.tokens),
                 device::read(args.slots), device::read(args.wanted), device::read(args.num_rows, 4)});
}

void fill_padding(Stream& stream, const FillPaddingArgs& args) {
  WEFT_CHECK(args.x.rank == 2, "fill_padding: x is {}, expected two dimensions", args.x.describe());
  if (args.x.numel() == 0) return;
  stream.launch("fill_padding", WEFT_KERNEL(stream, fill_padding), args,
                {device::write(args.x), device::read(args.num_rows, 4)});
}

void localize_experts(Stream& stream, const LocalizeArgs& args) {
  WEFT_CHECK(args.out.dtype == DType::kI32 && args.ids.dtype == DType::kI32 && args.out.is_contiguous() &&
                 args.ids.is_contiguous() && args.out.numel() == args.ids.numel(),
             "localize_experts: out is {}, ids is {}; expected contiguous i32 of one shape",
             args.out.describe(), args.ids.describe());
  if (args.out.numel() == 0) return;
  stream.launch("localize_experts", WEFT_KERNEL(stream, localize_experts), args,
                {device::write(args.out), device::read(args.ids)});
}

}  // namespace weft::ops
