#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "ops/common.h"
#include "support/ops_test.h"

/// Sequences over pages, for the tests of attention.
namespace weft::test {

struct SequenceLengths {
  int64_t q_len = 0;
  int64_t kv_len = 0;  // query rows included
};

/// A SequenceBatch with its arrays. Each sequence has pages of its own, scattered over a pool that has some
/// left over; whatever an op must not look at (pages beyond kv_len, sequences beyond num_seqs) is garbage.
class PagedBatch {
 public:
  PagedBatch(std::vector<SequenceLengths> sequences, int64_t page_size, uint64_t seed,
             int32_t spare_sequences = 2, int64_t spare_pages = 1)
      : sequences_(std::move(sequences)), page_size_(page_size) {
    const auto num_seqs = static_cast<int32_t>(sequences_.size());
    const int32_t max_seqs = num_seqs + spare_sequences;
    int64_t num_pages = 0;
    int64_t stride = 1;
    for (const SequenceLengths& s : sequences_) {
      const int64_t pages = (s.kv_len + page_size - 1) / page_size;
      num_pages += pages;
      stride = std::max(stride, pages + spare_pages);
    }
    num_slots_ = (num_pages + 3) * page_size;
    std::vector<int32_t> pool(static_cast<size_t>(num_pages + 3));
    std::iota(pool.begin(), pool.end(), 0);
    std::shuffle(pool.begin(), pool.end(), std::mt19937_64(seed));

    constexpr int32_t kGarbage = -1234567;
    cu_q_.assign(static_cast<size_t>(max_seqs) + 1, kGarbage);
    kv_len_.assign(static_cast<size_t>(max_seqs), kGarbage);
    page_table_.assign(static_cast<size_t>(max_seqs * stride), kGarbage);
    num_seqs_ = {num_seqs};
    cu_q_[0] = 0;
    size_t next_page = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      cu_q_[s + 1] = cu_q_[s] + static_cast<int32_t>(sequences_[s].q_len);
      kv_len_[s] = static_cast<int32_t>(sequences_[s].kv_len);
      for (int64_t p = 0; p * page_size < sequences_[s].kv_len; ++p) {
        page_table_[s * static_cast<size_t>(stride) + static_cast<size_t>(p)] = pool[next_page++];
      }
    }
    batch_.cu_q = cu_q_.data();
    batch_.kv_len = kv_len_.data();
    batch_.page_table = page_table_.data();
    batch_.num_seqs = num_seqs_.data();
    batch_.max_seqs = max_seqs;
    batch_.page_table_stride = static_cast<int32_t>(stride);
    batch_.page_size = static_cast<int32_t>(page_size);
  }
  PagedBatch(const PagedBatch&) = delete;
  PagedBatch& operator=(const PagedBatch&) = delete;

  [[nodiscard]] const ops::SequenceBatch& batch() const { return batch_; }
  [[nodiscard]] const std::vector<SequenceLengths>& sequences() const { return sequences_; }
  [[nodiscard]] int64_t num_slots() const { return num_slots_; }
  [[nodiscard]] int64_t num_rows() const { return cu_q_[sequences_.size()]; }
  [[nodiscard]] int64_t first_row(int64_t s) const { return cu_q_[static_cast<size_t>(s)]; }
  [[nodiscard]] int64_t slot(int64_t s, int64_t position) const {
    const int64_t page =
        page_table_[static_cast<size_t>(s * batch_.page_table_stride + position / page_size_)];
    return page * page_size_ + position % page_size_;
  }
  std::vector<int32_t>& kv_len() { return kv_len_; }
  std::vector<int32_t>& page_table() { return page_table_; }
  std::vector<int32_t>& cu_q() { return cu_q_; }
  std::vector<int32_t>& num_seqs() { return num_seqs_; }
  std::vector<int32_t>& order() { return order_; }  // empty: none

 private:
  std::vector<SequenceLengths> sequences_;
  int64_t page_size_;
  int64_t num_slots_ = 0;
  std::vector<int32_t> cu_q_, kv_len_, page_table_, num_seqs_, order_;
  ops::SequenceBatch batch_;
};

/// A number that depends on its indices alone: what token `position` of sequence `s` holds, wherever it lies.
inline double content(uint64_t salt, int64_t s, int64_t position, int64_t column) {
  uint64_t x = salt * 0x9E3779B97F4A7C15ULL + static_cast<uint64_t>(s) * 0xBF58476D1CE4E5B9ULL +
               static_cast<uint64_t>(position) * 0x94D049BB133111EBULL +
               static_cast<uint64_t>(column) * 0xD6E8FEB86659FD93ULL;
  for (int i = 0; i < 2; ++i) {
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ULL;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBULL;
    x ^= x >> 31;
  }
  return static_cast<double>(x >> 11) * 0x1p-52 - 1.0;  // [-1, 1)
}

/// Softmax attention of one query over keys and values, in f64.
inline std::vector<double> naive_attention(const std::vector<double>& scores,
                                           const std::vector<std::vector<double>>& values) {
  const double maximum = *std::max_element(scores.begin(), scores.end());
  std::vector<double> out(values.at(0).size(), 0.0);
  double sum = 0.0;
  for (size_t k = 0; k < scores.size(); ++k) {
    const double weight = std::exp(scores[k] - maximum);
    sum += weight;
    for (size_t d = 0; d < out.size(); ++d) out[d] += weight * values[k][d];
  }
  for (double& x : out) x /= sum;
  return out;
}

}  // namespace weft::test
