#pragma once

#include <cstring>

#include "kernels/common/cluster.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"

/// A row of logits over the blocks of a cluster: each block takes a slice of the vocabulary into its shared
/// memory, so that a row is read once, and then passed over as often as need be.
namespace weft::kernels {

constexpr int kSliceThreads = 512;
constexpr int kSliceWarps = kSliceThreads / kWarpSize;

struct LogitRows {
  const float* logits;
  const int32_t* num_rows;  // device [1], or null: all
  int64_t rows;
  int64_t stride;
  int32_t vocab;
  int32_t slice;  // of a block: a multiple of four
  int32_t cluster_size;
  bool staged;   // slices fit in shared memory
  bool aligned;  // rows start at multiples of 16 bytes
};

/// What blocks of a cluster tell each other. Turns alternate: a block that writes one knows by the barrier of
/// the other that all have read it.
struct Exchange {
  float4 at[2];
  unsigned long long scratch[kSliceWarps];
};

/// Logits as whole numbers of the same order, over the ids of ties, where lower ids stand first: the largest
/// place is the token that a greedy choice takes. 0 is before every token.
__device__ inline unsigned long long place_of(float logit, int32_t id, uint32_t of_nan) {
  const uint32_t bits = __float_as_uint(logit + 0.0F);  // -0 equals 0
  uint32_t order = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  if (isnan(logit)) order = of_nan;
  return static_cast<unsigned long long>(order) << 32 | (0xffffffffU - static_cast<uint32_t>(id));
}
__device__ inline float logit_at(unsigned long long place) {
  const auto order = static_cast<uint32_t>(place >> 32);
  return __uint_as_float((order & 0x80000000U) != 0 ? order & 0x7fffffffU : ~order);
}
__device__ inline int32_t id_at(unsigned long long place) {
  return static_cast<int32_t>(0xffffffffU - static_cast<uint32_t>(place));
}

constexpr uint32_t kNanStandsFirst = 0xffffffffU;

/// The larger, or NaN if either is.
__device__ inline float max_or_nan(float a, float b) {
#if WEFT_CUDA_EMULATED
  return a > b || isnan(a) ? a : b;
#else
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#endif
}

/// This block's part of a row.
class RowSlice {
 public:
  /// staged: shared memory for a slice.
  __device__ RowSlice(const LogitRows& rows, float* staged, Exchange& exchange)
      : exchange_(exchange),
        staged_(rows.staged ? staged : nullptr),
        cluster_size_(rows.cluster_size),
        rank_(static_cast<int>(blockIdx.x) % rows.cluster_size) {
    first_ = static_cast<int64_t>(rank_) * rows.slice < rows.vocab ? rank_ * rows.slice : rows.vocab;
    count_ = rows.vocab - first_ < rows.slice ? rows.vocab - first_ : rows.slice;
    logits_ = rows.logits + row_of(rows) * rows.stride + first_;
    aligned_ = rows.aligned;
  }
  static __device__ int64_t row_of(const LogitRows& rows) { return blockIdx.x / rows.cluster_size; }

  /// f(id, logit) for each token of the slice, by the thread that has it; logits go to shared memory, and
  /// -inf up to a multiple of four.
  template <class F>
  __device__ void load(const F& f) {
    load_packs(
        [&](int32_t id, const float4& x) {
          f(id, x.x);
          f(id + 1, x.y);
          f(id + 2, x.z);
          f(id + 3, x.w);
        },
        f);
  }
  /// load(), and the largest place_of() of this thread's tokens, where a NaN stands first.
  __device__ unsigned long long load_largest() {
    // Almost no pack is larger than all before it, so these say no more than which was the last.
    float largest = -INFINITY;
    int32_t at = -1;
    unsigned long long best = 0;
    load_packs(
        [&](int32_t id, const float4& x) {
          const float of_pack = max_or_nan(max_or_nan(x.x, x.y), max_or_nan(x.z, x.w));
          if (of_pack > largest) at = id;
          largest = max_or_nan(largest, of_pack);
        },
        [&](int32_t id, float x) { best = Max{}(place_of(x, id, kNanStandsFirst), best); });
    if (isnan(largest)) return place_of(largest, 0, kNanStandsFirst);
    for (int j = 0; at >= 0 && j < 4; ++j) {
      best = Max{}(place_of(logit(at - first_ + j), at + j, kNanStandsFirst), best);
    }
    return best;
  }
  /// f(id, logit) for each token, after load() and a barrier.
  template <class F>
  __device__ void for_each(const F& f) const {
    for (int i = threadIdx.x; i < count_; i += kSliceThreads) {
      f(first_ + i, logit(i));
    }
  }

  /// Op over all threads of the cluster, in the order of threads and ranks; the same in every thread. One
  /// barrier of the cluster.
  template <class T, class Op>
  __device__ T reduce(T value, const Op& op) {
    static_assert(sizeof(T) == 8);
    value = block_reduce(value, reinterpret_cast<T*>(exchange_.scratch), op);
    const T mine = tell_all(value, T{});
    T total = __shfl_sync(kAllLanes, mine, 0);
    for (int r = 1; r < cluster_size_; ++r) {
      T other = __shfl_sync(kAllLanes, mine, r);
      total = op(total, other);
    }
    return total;
  }
  /// Every block's value, in the lane of its rank (`other` in further lanes). One barrier of the cluster.
  template <class T>
  __device__ T tell_all(T value, T other) {
    turn_ ^= 1;
    float4& slot = exchange_.at[turn_];
    if (threadIdx.x == 0) memcpy(&slot, &value, sizeof(T));
    barrier();
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    T result = other;
    if (lane < cluster_size_) {
      const float4 theirs = load_from_block(&slot, lane);
      memcpy(&result, &theirs, sizeof(T));
    }
    __syncwarp();
    return result;
  }
  /// Of the cluster.
  __device__ void barrier() const {
    cluster_arrive();
    cluster_wait();
  }
  /// A block must not end before the others have read what is in its shared memory.
  __device__ void end() const {
    cluster_arrive_relaxed();
    cluster_wait();
  }

  [[nodiscard]] __device__ int count() const { return count_; }
  [[nodiscard]] __device__ int first() const { return first_; }
  [[nodiscard]] __device__ int rank() const { return rank_; }
  [[nodiscard]] __device__ int cluster_size() const { return cluster_size_; }
  [[nodiscard]] __device__ float logit(int i) const { return staged_ != nullptr ? staged_[i] : logits_[i]; }
  /// Null: slices are not staged.
  [[nodiscard]] __device__ float* staged() const { return staged_; }

 private:
  template <class OfPack, class OfOne>
  __device__ void load_packs(const OfPack& of_pack, const OfOne& of_one) {
    constexpr int kAtOnce = 10;  // all of a thread's, if eight blocks share 163,840 tokens or less
    const int packs = aligned_ ? count_ / 4 : 0;
    for (int first = threadIdx.x; first < packs; first += kAtOnce * kSliceThreads) {
      float4 x[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int p = first + j * kSliceThreads;
        if (p < packs) x[j] = reinterpret_cast<const float4*>(logits_)[p];
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int p = first + j * kSliceThreads;
        if (p >= packs) break;
        if (staged_ != nullptr) reinterpret_cast<float4*>(staged_)[p] = x[j];
        of_pack(first_ + 4 * p, x[j]);
      }
    }
    for (int i = 4 * packs + threadIdx.x; i < count_; i += kSliceThreads) {
      const float x = logits_[i];
      if (staged_ != nullptr) staged_[i] = x;
      of_one(first_ + i, x);
    }
    const int padded = (count_ + 3) / 4 * 4;
    if (staged_ != nullptr && count_ + static_cast<int>(threadIdx.x) < padded) {
      staged_[count_ + threadIdx.x] = -INFINITY;
    }
  }

  Exchange& exchange_;
  const float* logits_;
  float* staged_;
  int first_, count_;
  int cluster_size_, rank_;
  int turn_ = 0;
  bool aligned_;
};

/// True if the row of this block exists. Reports a count that cannot be.
__device__ inline bool row_exists(const OpSite& site, const char* bad_rows, const LogitRows& rows) {
  if (rows.num_rows == nullptr) return true;
  const int64_t n = *rows.num_rows;
  if ((n < 0 || n > rows.rows) && blockIdx.x == 0 && threadIdx.x == 0) fail(site, bad_rows, n, rows.rows);
  return RowSlice::row_of(rows) < n;
}

/// `head_bytes`: of shared memory before the slice.
inline LogitRows logit_rows(const TensorView& logits, const int32_t* num_rows, size_t head_bytes) {
  constexpr int kOneBlock = 16 * kSliceThreads;  // a vocabulary of less is not worth a cluster
  const auto vocab = static_cast<int32_t>(logits.shape[1]);
  const int32_t cluster_size = vocab <= kOneBlock ? 1 : kMaxCluster;
  const int32_t slice = ceil_div(ceil_div(vocab, cluster_size), 4) * 4;
  return {.logits = logits.as<float>(),
          .num_rows = num_rows,
          .rows = logits.shape[0],
          .stride = logits.stride[0],
          .vocab = vocab,
          .slice = slice,
          .cluster_size = cluster_size,
          .staged = head_bytes + static_cast<size_t>(slice) * sizeof(float) <=
                    size_t{device::cuda::kSharedBytesOfBlock},
          .aligned = reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && logits.stride[0] % 4 == 0};
}
inline LaunchShape shape_of(const LogitRows& rows, size_t head_bytes) {
  return {.grid = dim3(grid_x(rows.rows * rows.cluster_size)),
          .block = dim3(kSliceThreads),
          .shared_bytes = head_bytes + (rows.staged ? static_cast<size_t>(rows.slice) * sizeof(float) : 0),
          .cluster_blocks = static_cast<unsigned>(rows.cluster_size)};
}

}  // namespace weft::kernels
