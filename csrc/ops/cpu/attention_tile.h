#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/dtype.h"

namespace weft::ops::cpu {

/// Positions are taken in blocks of this many, from position 0 on, whatever the page size: the running
/// softmax of a row then meets the same numbers in the same order in prefill, decode and every chunking.
inline constexpr int64_t kKeyBlock = 32;

/// out = x * scale, as f32.
void widen_row(const void* x, DType dtype, int64_t n, float scale, float* out);

/// out[r, k] = rows[r] . keys[k]; `keys` are pointers to rows of `dtype`. `next`: as many rows that memory is
/// asked for meanwhile, or null.
void dot_rows(const float* rows, int64_t row_stride, int64_t num_rows, const void* const* keys, DType dtype,
              int64_t num_keys, int64_t dim, float* out, int64_t out_stride,
              const void* const* next = nullptr);

/// Where the keys and values of up to kKeyBlock positions lie.
struct KeyRows {
  std::array<const void*, static_cast<size_t>(kKeyBlock)> keys;
  std::array<const void*, static_cast<size_t>(kKeyBlock)> values;
};

/// Query rows that see keys of one sequence through one kv head, with their running softmax. Reused for one
/// item of work after another; its memory grows to the largest.
class AttentionTile {
 public:
  /// Starts anew with `num_rows` rows. Then every query() and limit() must be set; limits must not fall.
  void reset(int64_t num_rows, int64_t key_dim, int64_t value_dim);
  /// Row r of the queries, f32 [key_dim], times the softmax scale.
  float* query(int64_t row) { return queries_.data() + row * key_dim_; }
  /// Row r sees the positions [0, limit).
  int32_t& limit(int64_t row) { return limits_[static_cast<size_t>(row)]; }

  /// Adds the positions [first, first + count), count <= kKeyBlock, to the rows that see them. Blocks come in
  /// order, first a multiple of kKeyBlock. keys[k] and values[k] point to rows of `dtype`; keys == values
  /// says that a value is the head of its key. `next`: as many rows that will be needed next, by whatever
  /// tile; memory is asked for them meanwhile, if that can pay. Or null.
  void add_block(int64_t first, int64_t count, const void* const* keys, const void* const* values,
                 DType dtype, const KeyRows* next = nullptr);

  /// Writes the attention of row r, [value_dim] of `dtype`.
  void finish(int64_t row, void* out, DType dtype) const;

 private:
  void add_to_rows(int64_t row, int64_t num_rows, int64_t first, int64_t count, const void* const* keys,
                   const void* const* values, DType dtype, const KeyRows* next);

  int64_t num_rows_ = 0;
  int64_t key_dim_ = 0;
  int64_t value_dim_ = 0;
  std::vector<float> queries_;       // [num_rows, key_dim]
  std::vector<float> accumulators_;  // [num_rows, value_dim]
  std::vector<int32_t> limits_;      // [num_rows], positions
  std::vector<float> maximum_;       // [num_rows], of the scores so far
  std::vector<float> sum_;           // [num_rows], of e^(score - maximum) so far
  std::vector<float> wide_keys_;     // [kKeyBlock, key_dim]
  std::vector<float> wide_values_;   // [kKeyBlock, value_dim]
};

}  // namespace weft::ops::cpu
