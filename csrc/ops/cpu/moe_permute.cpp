#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/moe_permute_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

void count_copies(const PermuteArgs& args, int64_t num_rows) {
  const int64_t num_experts = args.counts.shape[0];
  auto* counts = args.counts.as<int32_t>();
  std::fill_n(counts, num_experts, 0);
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* ids = row<int32_t>(args.ids, r);
    for (int64_t k = 0; k < args.ids.shape[1]; ++k) {
      WEFT_CHECK(ids[k] >= -1 && ids[k] < num_experts,
                 "moe_permute: ids[{}, {}] is {}; local expert ids lie in 0..{}, or are -1", r, k, ids[k],
                 num_experts - 1);
      if (ids[k] >= 0) ++counts[ids[k]];
    }
  }
}

/// The first row of each expert in `out`, flattened; throws if the rows do not fit.
std::vector<int32_t> place_experts(const PermuteArgs& args) {
  const auto* counts = args.counts.as<int32_t>();
  const int64_t max_rows = args.out.shape[1];
  std::vector<int32_t> first;
  for (int64_t e = 0; e < args.counts.shape[0]; ++e) {
    WEFT_CHECK(
        counts[e] <= max_rows,
        "moe_permute: expert {} gets {} rows, but out has room for {} an expert; derive max_rows from the "
        "rows that may arrive",
        e, counts[e], max_rows);
    first.push_back(static_cast<int32_t>(e * max_rows));
  }
  return first;
}

void assign_positions(const PermuteArgs& args, int64_t num_rows, std::vector<int32_t> next) {
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* ids = row<int32_t>(args.ids, r);
    auto* position = row<int32_t>(args.position, r);
    for (int64_t k = 0; k < args.ids.shape[1]; ++k) {
      position[k] = ids[k] < 0 ? -1 : next[static_cast<size_t>(ids[k])]++;
    }
  }
}

}  // namespace

void moe_permute(const PermuteArgs& args, ExecContext& context) {
  const int64_t num_rows = read_num_rows("moe_permute", args.num_rows, args.ids.shape[0]);
  count_copies(args, num_rows);
  assign_positions(args, num_rows, place_experts(args));
  const int64_t num_bytes = args.x.shape[1] * static_cast<int64_t>(dtype_size(args.x.dtype));
  context.parallel_for(num_rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const std::byte* from = row_bytes(args.x, r);
      const auto* position = row<int32_t>(args.position, r);
      for (int64_t k = 0; k < args.ids.shape[1]; ++k) {
        if (position[k] < 0) continue;
        std::memcpy(args.out.as<std::byte>() + position[k] * num_bytes, from, static_cast<size_t>(num_bytes));
      }
    }
  });
}

void moe_unpermute(const UnpermuteArgs& args, ExecContext& context) {
  const int64_t num_rows = read_num_rows("moe_unpermute", args.num_rows, args.out.shape[0]);
  const int64_t top_k = args.position.shape[1];
  context.parallel_for(num_rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto* position = row<int32_t>(args.position, r);
      for (int64_t k = 0; k < top_k; ++k) {
        WEFT_CHECK(position[k] >= -1 && position[k] < args.x.shape[0],
                   "moe_unpermute: position[{}, {}] is {}, but x has {} rows; -1 stands for none", r, k,
                   position[k], args.x.shape[0]);
      }
      const auto* weights = row<float>(args.weights, r);
      visit_dtype(args.x.dtype, [&](auto x_type) {
        visit_dtype(args.out.dtype, [&](auto out_type) {
          WEFT_CALL_ISA(combine_row, args.x.as<decltype(x_type)>(), args.x.stride[0], position, weights,
                        top_k, args.x.shape[1], row<decltype(out_type)>(args.out, r));
        });
      });
    }
  });
}

}  // namespace weft::ops::cpu
