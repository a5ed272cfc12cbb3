// The inner loops of attention; see vec.h. Rows share their keys: query heads of one kv head, tokens of one
// sequence. Whatever the tile that computes it, a row's numbers are the same: dot products add lanes by
// column, values add in order of position.
namespace weft::ops::cpu::WEFT_ISA {

/// out = x * scale, as f32.
template <class T>
WEFT_TARGET void widen_row(const T* x, int64_t n, float scale, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * set(scale));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store(out + i, load(x + i, rest) * set(scale), rest);
  }
}

/// out = x / divisor.
template <class T>
WEFT_TARGET void divide_row(const float* x, int64_t n, float divisor, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) / set(divisor));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store(out + i, load(x + i, rest) / set(divisor), rest);
  }
}

inline constexpr int kTileKeys = 4;

template <int kRows, class T>
WEFT_TARGET WEFT_ALWAYS_INLINE void dot_tile(const float* q, int64_t q_stride,
                                             const T* const (&keys)[kTileKeys], int64_t dim, int num_keys,
                                             float* out, int64_t out_stride) {
  F32 sum[kRows][kTileKeys];
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kTileKeys; ++k) sum[r][k] = zero();
  }
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    F32 key[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) key[k] = load(keys[k] + d);
    for (int r = 0; r < kRows; ++r) {
      const F32 query = load(q + r * q_stride + d);
      for (int k = 0; k < kTileKeys; ++k) sum[r][k] = fma(query, key[k], sum[r][k]);
    }
  }
  if (d < dim) {
    const int rest = static_cast<int>(dim - d);
    F32 key[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) key[k] = load(keys[k] + d, rest);
    for (int r = 0; r < kRows; ++r) {
      const F32 query = load(q + r * q_stride + d, rest);
      for (int k = 0; k < kTileKeys; ++k) sum[r][k] = fma(query, key[k], sum[r][k]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (num_keys == kTileKeys) {
      store_sums(out + r * out_stride, sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
      continue;
    }
    float sums[kTileKeys];
    store_sums(sums, sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
    for (int k = 0; k < num_keys; ++k) out[r * out_stride + k] = sums[k];
  }
}

/// Asks memory for n elements of T.
template <class T>
WEFT_TARGET WEFT_ALWAYS_INLINE void prefetch(const void* x, int64_t n) {
  constexpr int64_t kCacheLine = 64;
  const char* bytes = static_cast<const char*>(x);
  const int64_t num_bytes = n * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < num_bytes; i += kCacheLine) __builtin_prefetch(bytes + i, 0, 2);
}

template <int kRows, class T>
WEFT_TARGET void dot_tiles(const float* q, int64_t q_stride, const void* const* keys, int64_t num_keys,
                           int64_t dim, float* out, int64_t out_stride, const void* const* next) {
  for (int64_t k = 0; k < num_keys; k += kTileKeys) {
    const int n = static_cast<int>(num_keys - k < kTileKeys ? num_keys - k : kTileKeys);
    if (next != nullptr) {
      for (int i = 0; i < n; ++i) prefetch<T>(next[k + i], dim);
    }
    const T* tile[kTileKeys];
    // A short tile repeats its last key: nothing past the keys is read.
    for (int i = 0; i < kTileKeys; ++i) tile[i] = static_cast<const T*>(keys[k + (i < n ? i : n - 1)]);
    dot_tile<kRows>(q, q_stride, tile, dim, n, out + k, out_stride);
  }
}

/// out[r, k] = q[r] . keys[k] for every row and key; `keys` are rows of T. `next`: as many
/// rows of T to ask memory for meanwhile, or null.
template <class T>
WEFT_TARGET void dot_rows(const float* q, int64_t q_stride, int64_t num_rows, const void* const* keys,
                          int64_t num_keys, int64_t dim, float* out, int64_t out_stride,
                          const void* const* next) {
  int64_t r = 0;
  if constexpr (kLanes == 16) {  // 32 registers hold a tile of four rows, 16 hold two
    for (; r + 4 <= num_rows; r += 4) {
      dot_tiles<4, T>(q + r * q_stride, q_stride, keys, num_keys, dim, out + r * out_stride, out_stride,
                      r == 0 ? next : nullptr);
    }
  }
  for (; r + 2 <= num_rows; r += 2) {
    dot_tiles<2, T>(q + r * q_stride, q_stride, keys, num_keys, dim, out + r * out_stride, out_stride,
                    r == 0 ? next : nullptr);
  }
  if (r < num_rows) {
    dot_tiles<1, T>(q + r * q_stride, q_stride, keys, num_keys, dim, out + r * out_stride, out_stride,
                    r == 0 ? next : nullptr);
  }
}

/// One step of the running softmax. Row r sees the first counts[r] >= 1 of its scores[r, kKeyBlock]; they
/// become e^(score - maximum), the others 0. `correction` is what sums and accumulators of earlier blocks
/// shrink by.
WEFT_TARGET inline void softmax_rows(float* scores, const int32_t* counts, int64_t num_rows, float* maximum,
                                     float* sum, float* correction) {
  constexpr float kInfinity = __builtin_inff();
  for (int64_t r = 0; r < num_rows; ++r) {
    float* row = scores + r * kKeyBlock;
    for (int64_t k = counts[r]; k < kKeyBlock; ++k) row[k] = -kInfinity;
    F32 top = load(row);
    for (int k = kLanes; k < kKeyBlock; k += kLanes) top = max(top, load(row + k));
    const float block_maximum = reduce_max(top);
    const float new_maximum = block_maximum > maximum[r] ? block_maximum : maximum[r];
    correction[r] = maximum[r] - new_maximum;
    maximum[r] = new_maximum;
  }
  for (int64_t r = 0; r < num_rows; r += kLanes) {
    const int n = static_cast<int>(num_rows - r < kLanes ? num_rows - r : kLanes);
    store(correction + r, exp(load(correction + r, n)), n);
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    float* row = scores + r * kKeyBlock;
    F32 total = zero();
    for (int k = 0; k < kKeyBlock; k += kLanes) {
      const F32 weight = exp(load(row + k) - set(maximum[r]));
      store(row + k, weight);
      total = total + weight;
    }
    sum[r] = sum[r] * correction[r] + reduce_add(total);
  }
}

template <int kRows, int kVectors, class T>
WEFT_TARGET WEFT_ALWAYS_INLINE void accumulate_tile(float* acc, int64_t acc_stride, const float* correction,
                                                    const float* weights, const void* const* values,
                                                    int64_t begin, int64_t end, int64_t d,
                                                    const void* const* next) {
  F32 sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    const F32 shrink = set(correction[r]);
    for (int i = 0; i < kVectors; ++i) sum[r][i] = load(acc + r * acc_stride + d + i * kLanes) * shrink;
  }
  for (int64_t k = begin; k < end; ++k) {
    const T* value = static_cast<const T*>(values[k]) + d;
    if (next != nullptr) prefetch<T>(static_cast<const T*>(next[k]) + d, kVectors * kLanes);
    F32 column[kVectors];
    for (int i = 0; i < kVectors; ++i) column[i] = load(value + i * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const F32 weight = set(weights[r * kKeyBlock + k]);
      for (int i = 0; i < kVectors; ++i) sum[r][i] = fma(weight, column[i], sum[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) store(acc + r * acc_stride + d + i * kLanes, sum[r][i]);
  }
}

/// acc[r] = acc[r] * correction[r] + sum of weights[r, k] * values[k] over k in [begin, end).
template <int kRows, class T>
WEFT_TARGET void accumulate_tiles(float* acc, int64_t acc_stride, const float* correction,
                                  const float* weights, const void* const* values, int64_t begin, int64_t end,
                                  int64_t dim, const void* const* next) {
  constexpr int kVectors = kRows == 1 ? 8 : kRows == 2 && kLanes == 16 ? 8 : 4;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) {
    accumulate_tile<kRows, kVectors, T>(acc, acc_stride, correction, weights, values, begin, end, d, next);
  }
  for (; d + kLanes <= dim; d += kLanes) {
    accumulate_tile<kRows, 1, T>(acc, acc_stride, correction, weights, values, begin, end, d, next);
  }
  if (d == dim) return;
  const int rest = static_cast<int>(dim - d);
  for (int r = 0; r < kRows; ++r) {
    float* out = acc + r * acc_stride + d;
    F32 sum = load(out, rest) * set(correction[r]);
    for (int64_t k = begin; k < end; ++k) {
      sum = fma(set(weights[r * kKeyBlock + k]), load(static_cast<const T*>(values[k]) + d, rest), sum);
    }
    store(out, sum, rest);
  }
}

template <int kRows, class T>
WEFT_TARGET void accumulate_group(float* acc, int64_t acc_stride, const int32_t* counts,
                                  const float* correction, const float* weights, const void* const* values,
                                  int64_t dim, const void* const* next) {
  // Counts do not fall from row to row: the tile takes what all its rows see, the rest goes row by row.
  // A weight of 0 in the tile would not do: 0 times a value that is not finite is not 0.
  const int64_t common = counts[0];
  accumulate_tiles<kRows, T>(acc, acc_stride, correction, weights, values, 0, common, dim, next);
  for (int r = 1; r < kRows; ++r) {
    if (counts[r] == common) continue;
    const float one = 1.0F;
    accumulate_tiles<1, T>(acc + r * acc_stride, acc_stride, &one, weights + r * kKeyBlock, values, common,
                           counts[r], dim, nullptr);
  }
}

/// acc[r] = acc[r] * correction[r] + sum of weights[r, k] * values[k] over the first counts[r] keys; counts
/// do not fall from row to row. `next`: see dot_rows.
template <class T>
WEFT_TARGET void accumulate_rows(float* acc, int64_t acc_stride, const int32_t* counts, int64_t num_rows,
                                 const float* correction, const float* weights, const void* const* values,
                                 int64_t dim, const void* const* next) {
  int64_t r = 0;
  if constexpr (kLanes == 16) {
    for (; r + 4 <= num_rows; r += 4) {
      accumulate_group<4, T>(acc + r * acc_stride, acc_stride, counts + r, correction + r,
                             weights + r * kKeyBlock, values, dim, r == 0 ? next : nullptr);
    }
  }
  for (; r + 2 <= num_rows; r += 2) {
    accumulate_group<2, T>(acc + r * acc_stride, acc_stride, counts + r, correction + r,
                           weights + r * kKeyBlock, values, dim, r == 0 ? next : nullptr);
  }
  if (r < num_rows) {
    accumulate_group<1, T>(acc + r * acc_stride, acc_stride, counts + r, correction + r,
                           weights + r * kKeyBlock, values, dim, r == 0 ? next : nullptr);
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
