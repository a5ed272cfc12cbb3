#include "ops/cpu/attention_tile.h"

#include <algorithm>
#include <array>
#include <limits>

#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"
#include "ops/cpu/vec_sums.h"

#define WEFT_SIMD_FILE "ops/cpu/attention_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

/// Rows that go through scores, softmax and values together: few enough for the first-level cache.
constexpr int64_t kRowBlock = 16;
/// From this many rows on it pays to convert a block of 16-bit keys once instead of at each use.
constexpr int64_t kMinRowsToWiden = 8;

using RowPointers = std::array<const void*, static_cast<size_t>(kKeyBlock)>;

void widen_block(const void* const* rows, DType dtype, int64_t count, int64_t dim, std::vector<float>& out,
                 RowPointers& pointers) {
  out.resize(static_cast<size_t>(kKeyBlock * dim));
  for (int64_t k = 0; k < count; ++k) {
    float* row = out.data() + k * dim;
    widen_row(rows[k], dtype, dim, 1.0F, row);
    pointers[static_cast<size_t>(k)] = row;
  }
}

}  // namespace

void widen_row(const void* x, DType dtype, int64_t n, float scale, float* out) {
  visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    WEFT_CALL_ISA(widen_row<T>, static_cast<const T*>(x), n, scale, out);
  });
}

void dot_rows(const float* rows, int64_t row_stride, int64_t num_rows, const void* const* keys, DType dtype,
              int64_t num_keys, int64_t dim, float* out, int64_t out_stride, const void* const* next) {
  visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    WEFT_CALL_ISA(dot_rows<T>, rows, row_stride, num_rows, keys, num_keys, dim, out, out_stride, next);
  });
}

void AttentionTile::reset(int64_t num_rows, int64_t key_dim, int64_t value_dim) {
  num_rows_ = num_rows;
  key_dim_ = key_dim;
  value_dim_ = value_dim;
  const auto rows = static_cast<size_t>(num_rows);
  queries_.resize(rows * static_cast<size_t>(key_dim));
  limits_.resize(rows);
  accumulators_.assign(rows * static_cast<size_t>(value_dim), 0.0F);
  maximum_.assign(rows, -std::numeric_limits<float>::infinity());
  sum_.assign(rows, 0.0F);
}

void AttentionTile::add_block(int64_t first, int64_t count, const void* const* keys,
                              const void* const* values, DType dtype, const KeyRows* next) {
  const auto end = limits_.begin() + num_rows_;
  const int64_t first_row = std::upper_bound(limits_.begin(), end, first) - limits_.begin();
  const int64_t num_rows = num_rows_ - first_row;
  if (num_rows == 0) return;
  RowPointers wide_keys;
  RowPointers wide_values;
  if (dtype != DType::kF32 && num_rows >= kMinRowsToWiden) {
    widen_block(keys, dtype, count, key_dim_, wide_keys_, wide_keys);
    if (keys == values) {
      values = wide_keys.data();
    } else {
      widen_block(values, dtype, count, value_dim_, wide_values_, wide_values);
      values = wide_values.data();
    }
    keys = wide_keys.data();
    dtype = DType::kF32;
    next = nullptr;  // with so many rows arithmetic takes longer than memory
  }
  for (int64_t row = first_row; row < num_rows_; row += kRowBlock) {
    add_to_rows(row, std::min(kRowBlock, num_rows_ - row), first, count, keys, values, dtype,
                row == first_row ? next : nullptr);
  }
}

void AttentionTile::add_to_rows(int64_t row, int64_t num_rows, int64_t first, int64_t count,
                                const void* const* keys, const void* const* values, DType dtype,
                                const KeyRows* next) {
  alignas(64) float scores[kRowBlock * kKeyBlock];
  float correction[kRowBlock];
  int32_t counts[kRowBlock];
  for (int64_t r = 0; r < num_rows; ++r) {
    counts[r] = static_cast<int32_t>(std::min(count, limit(row + r) - first));
  }
  dot_rows(query(row), key_dim_, num_rows, keys, dtype, counts[num_rows - 1], key_dim_, scores, kKeyBlock,
           next == nullptr ? nullptr : next->keys.data());
  WEFT_CALL_ISA(softmax_rows, scores, counts, num_rows, maximum_.data() + row, sum_.data() + row, correction);
  float* acc = accumulators_.data() + row * value_dim_;
  visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    WEFT_CALL_ISA(accumulate_rows<T>, acc, value_dim_, counts, num_rows, correction, scores, values,
                  value_dim_, next == nullptr ? nullptr : next->values.data());
  });
}

void AttentionTile::finish(int64_t row, void* out, DType dtype) const {
  const float* acc = accumulators_.data() + row * value_dim_;
  visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    WEFT_CALL_ISA(divide_row<T>, acc, value_dim_, sum_[static_cast<size_t>(row)], static_cast<T*>(out));
  });
}

}  // namespace weft::ops::cpu
