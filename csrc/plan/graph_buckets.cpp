#include "plan/graph_buckets.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/math.h"

namespace weft::plan {
namespace {

constexpr int64_t kMaxBatch = 1 << 20;  // requests of one DP rank: more than any list is made for
constexpr int64_t kMaxTokensPerReq = 1 << 16;

void check_max_bs(int64_t max_bs) {
  WEFT_CHECK(max_bs >= 1 && max_bs <= kMaxBatch,
             "capture_batch_sizes: max_bs={} must be at least 1 and at most {}", max_bs, kMaxBatch);
}

// Appends first, first + step, ... up to the smaller of last and max_bs.
void append_range(std::vector<int64_t>& sizes, int64_t first, int64_t last, int64_t step, int64_t max_bs) {
  for (int64_t size = first; size <= std::min(last, max_bs); size += step) sizes.push_back(size);
}

void append_if_missing(std::vector<int64_t>& sizes, int64_t size) {
  if (sizes.empty() || sizes.back() != size) sizes.push_back(size);
}

}  // namespace

std::vector<int64_t> capture_batch_sizes(int64_t max_bs, bool speculative, bool disable_padding) {
  check_max_bs(max_bs);
  std::vector<int64_t> sizes;
  if (disable_padding) {
    append_range(sizes, 1, max_bs, 1, max_bs);
  } else if (speculative) {
    append_range(sizes, 1, 8, 1, max_bs);
    append_range(sizes, 10, 32, 2, max_bs);
    append_range(sizes, 40, 64, 4, max_bs);
    append_range(sizes, 72, 256, 8, max_bs);
    append_range(sizes, 272, max_bs, 16, max_bs);
  } else {
    for (const int64_t size : {1, 2, 4, 8, 12}) append_range(sizes, size, size, 1, max_bs);
    append_range(sizes, 16, 256, 8, max_bs);
    append_range(sizes, 272, 496, 16, max_bs);
    append_range(sizes, 512, max_bs, 32, max_bs);
  }
  append_if_missing(sizes, max_bs);
  return sizes;
}

std::vector<int64_t> cpu_capture_batch_sizes(int64_t max_bs) {
  check_max_bs(max_bs);
  std::vector<int64_t> sizes;
  append_range(sizes, 1, 16, 1, max_bs);
  append_range(sizes, 18, 30, 2, max_bs);
  append_range(sizes, 32, 80, 4, max_bs);
  append_range(sizes, 84, max_bs, 8, max_bs);
  append_if_missing(sizes, max_bs);
  return sizes;
}

std::vector<int64_t> filter_capture_sizes(std::span<const int64_t> sizes, const CaptureFilter& filter) {
  WEFT_CHECK(!sizes.empty(), "filter_capture_sizes: no sizes; give at least 1");
  WEFT_CHECK(
      filter.pool_size >= 1 && filter.pool_size <= INT32_MAX && filter.attn_tp_size >= 1 &&
          filter.tokens_per_req >= 1 && filter.tokens_per_req <= kMaxTokensPerReq,
      "filter_capture_sizes: pool_size={}, attn_tp_size={} and tokens_per_req={} must be at least 1, and at "
      "most {}, {} and {}",
      filter.pool_size, filter.attn_tp_size, filter.tokens_per_req, INT32_MAX, INT32_MAX, kMaxTokensPerReq);
  int64_t multiple = 1;
  if (filter.two_batch_overlap) multiple *= 2;
  if (filter.gathered_buffer) multiple *= filter.attn_tp_size;
  const int64_t width = filter.two_batch_overlap ? 1 : filter.tokens_per_req;
  const int64_t pool = round_up<int64_t>(filter.pool_size, multiple);

  std::vector<int64_t> candidates(sizes.begin(), sizes.end());
  for (const int64_t size : candidates)
    WEFT_CHECK(size >= 1 && size <= INT32_MAX, "filter_capture_sizes: size {} must be 1..{}", size,
               INT32_MAX);
  if (*std::max_element(candidates.begin(), candidates.end()) > pool) candidates.push_back(pool);
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());

  std::vector<int64_t> kept;
  for (const int64_t size : candidates) {
    if (size <= pool && size * width % multiple == 0) kept.push_back(size);
  }
  WEFT_CHECK(
      !kept.empty(),
      "no graph size is left: none of {} sizes (largest {}) is at most {} requests and a multiple of {} rows "
      "(two_batch_overlap={}, gathered_buffer={}, attn_tp_size={}, tokens_per_req={}); add a larger size",
      sizes.size(), *std::max_element(sizes.begin(), sizes.end()), pool, multiple, filter.two_batch_overlap,
      filter.gathered_buffer, filter.attn_tp_size, filter.tokens_per_req);
  return kept;
}

std::optional<int64_t> bucket_of(std::span<const int64_t> buckets, int64_t size) {
  const auto found = std::lower_bound(buckets.begin(), buckets.end(), size);
  if (found == buckets.end()) return std::nullopt;
  return *found;
}

}  // namespace weft::plan
