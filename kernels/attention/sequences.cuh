#pragma once

#include <cstdint>

#include "kernels/common/launch.cuh"
#include "ops/common.h"

/// A batch's sequences as attention kernels meet them: in device memory, and to be checked.
namespace weft::kernels {

using ops::SequenceBatch;

/// What is reported of a batch that contradicts itself: static fmt texts.
struct AttentionTexts {
  const char* bad_num_seqs;
  const char* bad_rows;
  const char* bad_kv_len;
  const char* bad_page;
  const char* bad_order;
};
#define WEFT_ATTENTION_TEXTS(op)                                                                             \
  AttentionTexts {                                                                                           \
    op ": the batch holds num_seqs={} sequences, but was laid out for max_seqs={}",                          \
        op ": sequence {} owns rows [{}, {}) of {}; cu_q must rise from 0 to the number of rows",            \
        op ": sequence {} has kv_len={}; it must be at least its {} query rows, and its pages hold {}",      \
        op                                                                                                   \
        ": position {} of sequence {} is in page {}, outside the cache of {} slots; fill the page table up " \
        "to kv_len",                                                                                         \
        op ": order[{}] is {}, but the sequences behind the prompts are {} to {}"                            \
  }

/// Division by a number that the host knows: a fraction of the instructions of a true one. Exact for
/// n * divisor < 2^32.
class Divider {
 public:
  Divider() = default;
  explicit Divider(int divisor)
      : divisor_(divisor),
        inverse_(static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint32_t>(divisor) + 1)) {}
  __device__ int quotient(int n) const {
    return divisor_ == 1 ? n : static_cast<int>(uint64_t{static_cast<uint32_t>(n)} * inverse_ >> 32);
  }
  __host__ __device__ int divisor() const { return divisor_; }

 private:
  int divisor_ = 1;
  uint32_t inverse_ = 0;
};

/// A value of the batch, before or after wait_for_inputs(): see ops/attention.h. Not from the L1 cache, where
/// that of a step before may stand.
__device__ inline int32_t load_early(const int32_t* at) { return *static_cast<const volatile int32_t*>(at); }

/// What a batch says of one of its sequences, not yet checked. Loaded as one, so that nothing waits twice.
struct SequenceLengths {
  int64_t num_seqs, begin_row, end_row, kv_len;
  __device__ SequenceLengths(const SequenceBatch& batch, int64_t s)
      : num_seqs(load_early(batch.num_seqs)),
        begin_row(load_early(batch.cu_q + s)),
        end_row(load_early(batch.cu_q + s + 1)),
        kv_len(load_early(batch.kv_len + s)) {}
};

/// True if the number of sequences is good; what is wrong with it is reported if `report`.
__device__ inline bool check_num_seqs(const OpSite& site, const AttentionTexts& texts,
                                      const SequenceBatch& batch, int64_t num_seqs, bool report) {
  if (num_seqs >= 0 && num_seqs <= batch.max_seqs) return true;
  if (report) fail(site, texts.bad_num_seqs, num_seqs, batch.max_seqs);
  return false;
}

/// The same for sequence `s` of a batch of num_tokens rows.
__device__ inline bool check_sequence(const OpSite& site, const AttentionTexts& texts,
                                      const SequenceBatch& batch, const SequenceLengths& lengths,
                                      int64_t num_tokens, int64_t s, bool report) {
  const int64_t num_rows = lengths.end_row - lengths.begin_row;
  const int64_t capacity = int64_t{batch.page_table_stride} * batch.page_size;
  if (lengths.begin_row < 0 || num_rows < 0 || lengths.end_row > num_tokens) {
    if (report) fail(site, texts.bad_rows, s, lengths.begin_row, lengths.end_row, num_tokens);
    return false;
  }
  if (num_rows == 0) return true;
  if (lengths.kv_len < num_rows || lengths.kv_len > capacity) {
    if (report) fail(site, texts.bad_kv_len, s, lengths.kv_len, num_rows, capacity);
    return false;
  }
  return true;
}

}  // namespace weft::kernels
