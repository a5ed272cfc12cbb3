#include "plan/padding.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/math.h"

namespace weft::plan {

std::string_view padding_mode_name(PaddingMode mode) {
  switch (mode) {
    case PaddingMode::kNone:
      return "NONE";
    case PaddingMode::kMaxLen:
      return "MAX_LEN";
    case PaddingMode::kSumLen:
      return "SUM_LEN";
  }
  return "?";
}

DpPadding dp_padding(std::span<const int64_t> global_num_tokens, int attn_tp_size, int attn_dp_size,
                     bool is_extend_in_batch) {
  WEFT_CHECK(attn_tp_size >= 1 && attn_dp_size >= 1,
             "dp_padding: attn_tp_size={} and attn_dp_size={} must be >= 1", attn_tp_size, attn_dp_size);
  const size_t num_counts = global_num_tokens.size();
  WEFT_CHECK(num_counts == 1 || num_counts == static_cast<size_t>(attn_dp_size),
             "dp_padding: {} token counts for attn_dp_size={}; give one a DP rank, or one alone", num_counts,
             attn_dp_size);

  DpPadding padding;
  for (const int64_t count : global_num_tokens) {
    WEFT_CHECK(count >= 0 && count <= INT32_MAX, "dp_padding: a token count is {}; it must be 0..{}", count,
               INT32_MAX);
    padding.aligned.push_back(round_up<int64_t>(count, attn_tp_size));
  }
  const int64_t sum = std::accumulate(padding.aligned.begin(), padding.aligned.end(), int64_t{0});
  const int64_t max = *std::max_element(padding.aligned.begin(), padding.aligned.end());
  const bool sum_len = (is_extend_in_batch && attn_dp_size > 1) || 2 * sum < max * attn_dp_size;
  padding.mode = sum_len ? PaddingMode::kSumLen : PaddingMode::kMaxLen;
  padding.padded = padding.aligned;
  if (!sum_len) std::fill(padding.padded.begin(), padding.padded.end(), max);
  for (const int64_t rows : padding.padded) {
    padding.start.push_back(padding.buffer_len);
    padding.buffer_len += rows;
  }
  return padding;
}

}  // namespace weft::plan
