#include "ops/cpu/token_feed.h"

#include <cstring>

#include "base/error.h"

namespace weft::ops::cpu {

void resolve_token_ids(const ResolveIdsArgs& args, device::ExecContext&) {
  const auto* ids = args.ids.as<const int32_t>();
  const auto* last = args.last_tokens.as<const int32_t>();
  auto* out = args.out.as<int32_t>();
  for (int64_t r = 0; r < args.out.shape[0]; ++r) {
    const int32_t id = ids[r];
    WEFT_CHECK(id >= 0 || -(id + 1) < args.last_tokens.shape[0],
               "resolve_token_ids: row {} names slot {} of {}", r, -(id + 1), args.last_tokens.shape[0]);
    out[r] = id >= 0 ? id : last[-(id + 1)];
  }
}

void commit_tokens(const CommitTokensArgs& args, device::ExecContext&) {
  const auto* tokens = args.tokens.as<const int32_t>();
  const auto* slots = args.slots.as<const int32_t>();
  const auto* wanted = args.wanted.as<const int32_t>();
  auto* last = args.last_tokens.as<int32_t>();
  auto* targets = args.targets.as<int32_t>();
  const int64_t rows = *args.num_rows;
  for (int64_t r = 0; r < rows; ++r) {
    if (slots[r] >= 0) last[slots[r]] = tokens[r];
    targets[r] = wanted[r] >= 0 ? wanted[r] : wanted[r] == -1 ? tokens[r] : -1;
  }
}

void fill_padding(const FillPaddingArgs& args, device::ExecContext&) {
  const auto row_bytes = static_cast<size_t>(args.x.stride[0]) * dtype_size(args.x.dtype);
  for (int64_t r = *args.num_rows; r < args.x.shape[0]; ++r) {
    std::memset(args.x.as<char>() + static_cast<size_t>(r) * row_bytes, args.value,
                static_cast<size_t>(args.x.shape[1]) * dtype_size(args.x.dtype));
  }
}

void localize_experts(const LocalizeArgs& args, device::ExecContext&) {
  const auto* ids = args.ids.as<const int32_t>();
  auto* out = args.out.as<int32_t>();
  for (int64_t i = 0; i < args.out.numel(); ++i) {
    const int32_t local = ids[i] - args.first_expert;
    out[i] = ids[i] >= 0 && local >= 0 && local < args.num_local_experts ? local : -1;
  }
}

}  // namespace weft::ops::cpu
