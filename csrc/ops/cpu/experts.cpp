#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/math.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"

namespace weft::ops::cpu {
namespace {

/// Ids are checked, copies counted: offsets[e + 1] = copies of local expert e.
void count_copies(const GroupArgs& args, int64_t num_rows) {
  const int64_t num_experts = args.offsets.shape[0] - 1;
  auto* offsets = args.offsets.as<int32_t>();
  std::fill_n(offsets, num_experts + 1, 0);
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* ids = row<int32_t>(args.ids, r);
    for (int64_t k = 0; k < args.ids.shape[1]; ++k) {
      WEFT_CHECK(ids[k] >= -1 && ids[k] < args.total_experts,
                 "group_copies: ids[{}, {}] is {}; expert ids lie in 0..{}, or are -1", r, k, ids[k],
                 args.total_experts - 1);
      const int64_t local = int64_t{ids[k]} - args.first_expert;
      if (ids[k] >= 0 && local >= 0 && local < num_experts) ++offsets[local + 1];
    }
  }
}

}  // namespace

void group_copies(const GroupArgs& args, ExecContext&) {
  const int64_t num_rows = read_num_rows("group_copies", args.num_rows, args.ids.shape[0]);
  const int64_t num_experts = args.offsets.shape[0] - 1;
  const int64_t max_rows = args.source.shape[0];
  auto* offsets = args.offsets.as<int32_t>();
  auto* source = args.source.as<int32_t>();
  count_copies(args, num_rows);
  for (int64_t e = 0; e < num_experts; ++e) {
    offsets[e + 1] += round_up(offsets[e], args.alignment);
  }
  WEFT_CHECK(offsets[num_experts] <= max_rows,
             "group_copies: the copies end at row {}, but there is room for {}; derive max_rows from the "
             "rows that may arrive",
             offsets[num_experts], max_rows);
  std::fill_n(source, max_rows, -1);
  std::vector<int32_t> next(static_cast<size_t>(num_experts));
  for (int64_t e = 0; e < num_experts; ++e)
    next[static_cast<size_t>(e)] = round_up(offsets[e], args.alignment);
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* ids = row<int32_t>(args.ids, r);
    auto* position = row<int32_t>(args.position, r);
    for (int64_t k = 0; k < args.ids.shape[1]; ++k) {
      const int64_t local = int64_t{ids[k]} - args.first_expert;
      const bool here = ids[k] >= 0 && local >= 0 && local < num_experts;
      position[k] = here ? next[static_cast<size_t>(local)]++ : -1;
      if (here) source[position[k]] = static_cast<int32_t>(r);
    }
  }
}

void route_and_group(const RouteAndGroupArgs& args, ExecContext& context) {
  route(args.route, context);
  GroupArgs groups = args.groups;
  groups.ids = args.route.ids;
  groups.num_rows = nullptr;
  group_copies(groups, context);
}

void expert_ffn(const ExpertFfnArgs& args, ExecContext& context) {
  const auto* source = args.source.as<int32_t>();
  const auto* offsets = args.offsets.as<int32_t>();
  const int64_t experts = args.gate_up.shape[0];
  const int64_t rows = offsets[experts];
  WEFT_CHECK(rows >= 0 && rows <= args.out.shape[0], "expert_ffn: the copies end at row {} of {}", rows,
             args.out.shape[0]);
  const auto num_bytes = static_cast<size_t>(args.x.shape[1]) * dtype_size(args.x.dtype);
  context.parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (source[r] < 0) continue;
      WEFT_CHECK(source[r] < args.x.shape[0], "expert_ffn: source[{}] is {}, but x has {} rows", r, source[r],
                 args.x.shape[0]);
      std::memcpy(row_bytes(args.copies, r), row_bytes(args.x, source[r]), num_bytes);
    }
  });
  const auto product = [&](const TensorView& out, const TensorView& a, const TensorView& w) {
    grouped_gemm({.out = out, .a = a, .w = w, .offsets = offsets, .alignment = args.alignment}, context);
  };
  product(args.gate_up_out, args.copies, args.gate_up);
  silu_mul({.out = args.act, .gate_up = args.gate_up_out, .num_rows = offsets + experts}, context);
  product(args.out, args.act, args.down);
}

void expert_ffn_and_combine(const ExpertFfnAndCombineArgs& args, ExecContext& context) {
  if (args.experts.out.numel() > 0 && args.experts.gate_up.shape[0] > 0) expert_ffn(args.experts, context);
  moe_unpermute(args.combine, context);
}

}  // namespace weft::ops::cpu
