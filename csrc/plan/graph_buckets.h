#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weft::plan {

/// Decode batch sizes to capture up to max_bs (semantics 4.2). Throws Error unless max_bs is 1..2^20.
std::vector<int64_t> capture_batch_sizes(int64_t max_bs, bool speculative, bool disable_padding);
/// The list for the CPU backend: 1..16; 18..30 step 2; 32..80 step 4; 84.. step 8; max_bs.
std::vector<int64_t> cpu_capture_batch_sizes(int64_t max_bs);

struct CaptureFilter {
  int64_t pool_size = 0;  // requests of one DP rank
  bool two_batch_overlap = false;
  bool gathered_buffer = false;
  int attn_tp_size = 1;
  int64_t tokens_per_req = 1;
};
/// Sizes that a runner captures (semantics 4.3). Throws Error if none is left, saying which rule removed
/// them.
std::vector<int64_t> filter_capture_sizes(std::span<const int64_t> sizes, const CaptureFilter& filter);

/// The smallest bucket >= size, if there is one. `buckets` ascend.
std::optional<int64_t> bucket_of(std::span<const int64_t> buckets, int64_t size);

}  // namespace weft::plan
