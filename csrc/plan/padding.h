#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace weft::plan {

enum class PaddingMode : uint8_t { kNone, kMaxLen, kSumLen };
std::string_view padding_mode_name(PaddingMode mode);  // "NONE", "MAX_LEN", "SUM_LEN"

/// Rows of each DP rank once padded for a gathered buffer (semantics 2.3, 3.1).
struct DpPadding {
  PaddingMode mode = PaddingMode::kNone;
  std::vector<int64_t> aligned;  // counts rounded up to attn_tp_size
  std::vector<int64_t> padded;   // MAX_LEN: all equal to the largest; SUM_LEN: as aligned
  std::vector<int64_t> start;    // first row of each rank in the gathered buffer
  int64_t buffer_len = 0;        // rows of the gathered buffer
};
/// global_num_tokens: real rows, one entry a DP rank, or the caller's own count alone (nothing is gathered
/// then; buffer_len is its own length). SUM_LEN iff more than one DP rank and any extends, or if MAX_LEN
/// would more than double the rows: 2 * sum < max * attn_dp_size. Throws Error for another number of entries
/// or a negative count.
DpPadding dp_padding(std::span<const int64_t> global_num_tokens, int attn_tp_size, int attn_dp_size,
                     bool is_extend_in_batch);

}  // namespace weft::plan
