// paged_attention, mla_decode and mla_prefill: one kernel, for any widths and dtypes, with all sums in f32.
//
// A warp has one row: a token and a head. A block has rows of neighbouring tokens and of heads that share a
// kv head; it brings 32 positions at a time into shared memory, as f32, for all its rows. Positions are taken
// in blocks of 32 from position 0 on and added to a running softmax in order, so a row meets the same numbers
// in the same order whatever the batch, the page size and the cut of its sequence into chunks.
//
// mla_prefill absorbs W_UK into the query and applies W_UV to the sum over latents, both in f32: the same
// function as expanding keys and values, and each latent is read once for all of its uses.
#include <algorithm>

#include "kernels/attention/fast_attention.h"
#include "kernels/attention/flashinfer_ops.h"
#include "kernels/attention/sequences.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kKeyBlock = 32;  // one position a lane
constexpr int kMaxWarps = 16;

/// [.., row, head, column] of any float dtype; the dtype is looked at where an element is used.
struct FloatView {
  void* data;
  int64_t row_stride, head_stride;
  int64_t width;
  DType dtype;

  __device__ float load(int64_t row, int64_t head, int64_t i) const {
    const int64_t at = row * row_stride + head * head_stride + i;
    switch (dtype) {
      case DType::kBF16:
        return to_float(static_cast<const bf16*>(data)[at]);
      case DType::kF16:
        return to_float(static_cast<const f16*>(data)[at]);
      default:
        return static_cast<const float*>(data)[at];
    }
  }
  __device__ void store(int64_t row, int64_t head, int64_t i, float x) const {
    const int64_t at = row * row_stride + head * head_stride + i;
    switch (dtype) {
      case DType::kBF16:
        static_cast<bf16*>(data)[at] = from_float<bf16>(x);
        break;
      case DType::kF16:
        static_cast<f16*>(data)[at] = from_float<f16>(x);
        break;
      default:
        static_cast<float*>(data)[at] = x;
    }
  }
};
FloatView float_view(const TensorView& view) {
  return {view.data, view.stride[0], view.stride[1], view.shape[2], view.dtype};
}

struct Attention {
  FloatView out;
  FloatView q;         // the first part of a query
  FloatView q_rope;    // the second; width 0: none
  const void* keys;    // rows of the cache: [slot, kv head, key_dim]
  const void* values;  // null: a value is the head of its key
  int64_t key_slot_stride, key_head_stride, value_slot_stride, value_head_stride;
  int64_t key_dim, value_dim;  // of what stands in the cache
  int64_t num_slots, num_tokens;
  int64_t heads, group;  // query heads; those of one kv head
  int64_t heads_per_block, tokens_per_block;
  FloatView w_kv_b;  // kExpand: [head, nope_dim + v_dim, latent]
  SequenceBatch batch;
  int64_t first_seq, end_seq;
  float scale;
};

/// The rows of one sequence as they stand in memory, checked.
struct Sequence {
  int64_t index = -1;  // -1: none, or none that can be
  int64_t first_row = 0;
  int64_t end_row = 0;
  int64_t kv_len = 0;
  __device__ int64_t limit(int64_t row) const {
    return kv_len - (end_row - first_row) + (row - first_row) + 1;
  }
};

/// The sequence that owns `row`, if it is one of those to be computed.
__device__ inline Sequence find_sequence(const OpSite& site, const AttentionTexts& texts, const Attention& a,
                                         int64_t row, int64_t num_seqs) {
  int64_t low = 0;  // the last sequence that begins at or before `row`
  int64_t high = num_seqs;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (a.batch.cu_q[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  Sequence found;
  if (num_seqs == 0 ||
      !check_sequence(site, texts, a.batch, SequenceLengths(a.batch, low), a.num_tokens, low, false))
    return found;
  found.first_row = a.batch.cu_q[low];
  found.end_row = a.batch.cu_q[low + 1];
  found.kv_len = a.batch.kv_len[low];
  if (row >= found.first_row && row < found.end_row && low >= a.first_seq && low < a.end_seq)
    found.index = low;
  return found;
}

// Shared memory of a block, in floats, behind 32 slots.
struct Shared {
  int64_t* slots;  // [kKeyBlock]; -1: no such page
  float* keys;     // [kKeyBlock, key_stride]
  float* values;   // [kKeyBlock, value_stride]
  float* queries;  // [warp, key_dim]
  int64_t key_stride, value_stride;
};
// Odd, so that lanes which read one column of 32 rows meet 32 banks.
__host__ __device__ inline int64_t key_stride_of(int64_t key_dim) { return key_dim | 1; }

template <class T>
__device__ void fetch_keys(const OpSite& site, const AttentionTexts& texts, const Attention& a,
                           const Sequence& sequence, int64_t kv_head, int64_t first, int64_t count,
                           const Shared& shared) {
  if (threadIdx.x < kKeyBlock) {
    int64_t slot = -1;
    if (threadIdx.x < count) {
      const int64_t position = first + threadIdx.x;
      const int64_t page =
          a.batch.page_table[sequence.index * a.batch.page_table_stride + position / a.batch.page_size];
      slot = page * a.batch.page_size + position % a.batch.page_size;
      if (slot < 0 || slot >= a.num_slots) {
        fail(site, texts.bad_page, position, sequence.index, page, a.num_slots);
        slot = -1;
      }
    }
    shared.slots[threadIdx.x] = slot;
  }
  __syncthreads();
  const T* keys = static_cast<const T*>(a.keys) + kv_head * a.key_head_stride;
  for (int64_t i = threadIdx.x; i < count * a.key_dim; i += blockDim.x) {
    const int64_t k = i / a.key_dim;
    const int64_t d = i - k * a.key_dim;
    const int64_t slot = shared.slots[k];
    shared.keys[k * shared.key_stride + d] = slot < 0 ? 0.0F : to_float(keys[slot * a.key_slot_stride + d]);
  }
  if (a.values != nullptr) {
    const T* values = static_cast<const T*>(a.values) + kv_head * a.value_head_stride;
    for (int64_t i = threadIdx.x; i < count * a.value_dim; i += blockDim.x) {
      const int64_t k = i / a.value_dim;
      const int64_t d = i - k * a.value_dim;
      const int64_t slot = shared.slots[k];
      shared.values[k * shared.value_stride + d] =
          slot < 0 ? 0.0F : to_float(values[slot * a.value_slot_stride + d]);
    }
  }
  __syncthreads();
}

/// The query of one row as the cache's keys want it, times the softmax scale.
template <bool kExpand>
__device__ void load_query(const Attention& a, int64_t row, int64_t head, int lane, float* query) {
  const int64_t first = a.key_dim - a.q_rope.width;
  if constexpr (kExpand) {
    for (int64_t j = lane; j < first; j += kWarpSize) {
      float sum = 0.0F;
      for (int64_t i = 0; i < a.q.width; ++i) {
        sum = fmaf(a.q.load(row, head, i), a.w_kv_b.load(head, i, j), sum);
      }
      query[j] = sum * a.scale;
    }
  } else {
    for (int64_t j = lane; j < first; j += kWarpSize) query[j] = a.q.load(row, head, j) * a.scale;
  }
  for (int64_t j = lane; j < a.q_rope.width; j += kWarpSize) {
    query[first + j] = a.q_rope.load(row, head, j) * a.scale;
  }
}

// kColumns: of a value, in each lane: lane, lane + 32, ..
template <class T, int kColumns, bool kExpand>
__global__ void __launch_bounds__(kMaxWarps* kWarpSize)
    attention_kernel(OpSite site, AttentionTexts texts, Attention a) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t num_seqs = *a.batch.num_seqs;
  const bool first_block = blockIdx.x == 0 && blockIdx.y == 0;
  if (!check_num_seqs(site, texts, a.batch, num_seqs, first_block && threadIdx.x == 0)) return;
  if (first_block) {
    const int64_t end = a.end_seq < num_seqs ? a.end_seq : num_seqs;
    for (int64_t s = a.first_seq + threadIdx.x; s < end; s += blockDim.x)
      check_sequence(site, texts, a.batch, SequenceLengths(a.batch, s), a.num_tokens, s, true);
  }

  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  Shared shared;
  shared.slots = dynamic_shared<int64_t>();
  shared.keys = reinterpret_cast<float*>(shared.slots + kKeyBlock);
  shared.key_stride = key_stride_of(a.key_dim);
  shared.values = a.values == nullptr ? shared.keys : shared.keys + kKeyBlock * shared.key_stride;
  shared.value_stride = a.values == nullptr ? shared.key_stride : a.value_dim;
  shared.queries = shared.values + kKeyBlock * shared.value_stride;
  float* query = shared.queries + warp * a.key_dim;

  // Blocks of y: parts of the heads of one kv head.
  const int64_t parts = ceil_div(a.group, a.heads_per_block);
  const int64_t kv_head = blockIdx.y / parts;
  const int64_t in_group = blockIdx.y % parts * a.heads_per_block + warp % a.heads_per_block;
  const int64_t head = kv_head * a.group + in_group;
  const int64_t begin_row = blockIdx.x * a.tokens_per_block;
  const int64_t end_row =
      begin_row + a.tokens_per_block < a.num_tokens ? begin_row + a.tokens_per_block : a.num_tokens;
  const int64_t my_row = begin_row + warp / a.heads_per_block;

  for (int64_t row = begin_row; row < end_row;) {
    const Sequence sequence = find_sequence(site, texts, a, row, num_seqs);
    if (sequence.index < 0) {
      ++row;
      continue;
    }
    // The block's rows of this sequence, together.
    const int64_t piece_end = sequence.end_row < end_row ? sequence.end_row : end_row;
    const bool mine = my_row >= row && my_row < piece_end && in_group < a.group;
    const int64_t limit = mine ? sequence.limit(my_row) : 0;
    const int64_t num_keys = sequence.limit(piece_end - 1);
    if (mine) load_query<kExpand>(a, my_row, head, lane, query);
    __syncwarp();
    float maximum = -INFINITY;
    float sum = 0.0F;
    float accumulator[kColumns] = {};
    for (int64_t first = 0; first < num_keys; first += kKeyBlock) {
      const int64_t block_keys = num_keys - first < kKeyBlock ? num_keys - first : kKeyBlock;
      fetch_keys<T>(site, texts, a, sequence, kv_head, first, block_keys, shared);
      const int64_t rest = limit - first;
      const int count = static_cast<int>(rest < 0 ? 0 : rest < kKeyBlock ? rest : kKeyBlock);
      if (count > 0) {  // the same for the whole warp
        float score = -INFINITY;
        if (lane < count) {
          const float* key = shared.keys + lane * shared.key_stride;
          score = 0.0F;
          for (int64_t d = 0; d < a.key_dim; ++d) score = fmaf(query[d], key[d], score);
        }
        const float new_maximum = Max{}(warp_reduce(score, Max{}), maximum);
        const float correction = expf(maximum - new_maximum);
        const float weight = lane < count ? expf(score - new_maximum) : 0.0F;
        sum = fmaf(sum, correction, warp_reduce(weight, Sum{}));
        maximum = new_maximum;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) accumulator[c] *= correction;
        // Only keys that the row sees: what lies behind them may be anything, and 0 times that is not 0.
        for (int k = 0; k < count; ++k) {
          const float weight_of_key = __shfl_sync(kAllLanes, weight, k);
          const float* value = shared.values + k * shared.value_stride;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            const int64_t d = lane + c * kWarpSize;
            if (d < a.value_dim) accumulator[c] = fmaf(weight_of_key, value[d], accumulator[c]);
          }
        }
      }
      __syncthreads();  // before the next keys take the place of these
    }
    if (mine) {
      if constexpr (kExpand) {
        for (int64_t v = 0; v < a.out.width; ++v) {
          float part = 0.0F;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            const int64_t d = lane + c * kWarpSize;
            if (d < a.value_dim) {
              part = fmaf(accumulator[c] / sum, a.w_kv_b.load(head, a.q.width + v, d), part);
            }
          }
          part = warp_reduce(part, Sum{});
          if (lane == 0) a.out.store(my_row, head, v, part);
        }
      } else {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int64_t d = lane + c * kWarpSize;
          if (d < a.value_dim) a.out.store(my_row, head, d, accumulator[c] / sum);
        }
      }
    }
    row = piece_end;
  }
}

template <bool kExpand>
void launch_attention(const char* op, const CudaContext& context, const AttentionTexts& texts, Attention a,
                      DType cache_dtype) {
  constexpr size_t kMaxShared = size_t{220} << 10;
  a.heads_per_block = a.group < kMaxWarps ? a.group : kMaxWarps;
  // More rows than sequences: some have several rows, which then share their keys. Else each block is better
  // off with one sequence.
  const int64_t tokens = kMaxWarps / a.heads_per_block;
  a.tokens_per_block = a.num_tokens > a.batch.max_seqs ? tokens : 1;
  const int64_t warps = a.heads_per_block * a.tokens_per_block;
  const int64_t floats =
      kKeyBlock * (key_stride_of(a.key_dim) + (a.values == nullptr ? 0 : a.value_dim)) + warps * a.key_dim;
  const size_t shared_bytes = kKeyBlock * sizeof(int64_t) + static_cast<size_t>(floats) * sizeof(float);
  if (a.value_dim > 512 || shared_bytes > kMaxShared) {
    device::cuda::refuse_op(op, "the CUDA kernel takes values of up to 512 columns and keys of about 1000");
  }
  const int64_t parts = a.heads / a.group * ceil_div(a.group, a.heads_per_block);
  const LaunchShape shape{
      .grid = dim3(grid_x(ceil_div(a.num_tokens, a.tokens_per_block)), static_cast<unsigned>(parts)),
      .block = dim3(static_cast<unsigned>(warps * kWarpSize)),
      .shared_bytes = shared_bytes};
  visit_dtype(op, cache_dtype, [&](auto type) {
    using T = decltype(type);
    if (a.value_dim <= 128) {
      launch<&attention_kernel<T, 4, kExpand>>(context, shape, context.site, texts, a);
    } else {
      launch<&attention_kernel<T, 16, kExpand>>(context, shape, context.site, texts, a);
    }
  });
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void paged_attention(const PagedAttentionArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  int32_t first_seq = 0;
  int32_t end_seq = args.batch.max_seqs;
  const int32_t num_prefill_seqs = std::min(args.num_prefill_seqs, end_seq);
  const bool is_fast = fast_gqa_serves(args);
  if (is_fast) {
    if (num_prefill_seqs < end_seq) gqa_decode(cuda, args, num_prefill_seqs);
    end_seq = num_prefill_seqs;
  }
#if WEFT_HAS_FLASHINFER
  if (flashinfer_serves(args)) {
    flashinfer_paged_attention(cuda, args);
    first_seq = num_prefill_seqs;
  }
#endif
  if (first_seq >= end_seq) return;
  if (is_fast) return gqa_prefill(cuda, args, first_seq, end_seq);
  Attention a{};
  a.out = float_view(args.out);
  a.q = float_view(args.q);
  a.keys = args.k_cache.data;
  a.values = args.v_cache.data;
  a.key_slot_stride = args.k_cache.stride[0];
  a.key_head_stride = args.k_cache.stride[1];
  a.value_slot_stride = args.v_cache.stride[0];
  a.value_head_stride = args.v_cache.stride[1];
  a.key_dim = a.value_dim = args.q.shape[2];
  a.num_slots = args.k_cache.shape[0];
  a.num_tokens = args.q.shape[0];
  a.heads = args.q.shape[1];
  a.group = a.heads / args.k_cache.shape[1];
  a.batch = args.batch;
  a.first_seq = first_seq;
  a.end_seq = end_seq;
  a.scale = args.scale;
  launch_attention<false>("paged_attention", cuda, WEFT_ATTENTION_TEXTS("paged_attention"), a,
                          args.k_cache.dtype);
}

void mla_decode(const MlaDecodeArgs& args, ExecContext& context) {
  if (mla_decode_serves(args)) {
    return kernels::mla_decode(cuda_context(context), args);
  }
  Attention a{};
  a.out = float_view(args.out);
  a.q = float_view(args.q_nope);
  a.q_rope = float_view(args.q_rope);
  a.keys = args.cache.data;
  a.key_slot_stride = args.cache.stride[0];
  a.key_dim = args.cache.shape[1];
  a.value_dim = args.out.shape[2];
  a.num_slots = args.cache.shape[0];
  a.num_tokens = args.q_nope.shape[0];
  a.heads = a.group = args.q_nope.shape[1];
  a.batch = args.batch;
  a.first_seq = args.first_seq;
  a.end_seq = args.batch.max_seqs;
  a.scale = args.scale;
  launch_attention<false>("mla_decode", cuda_context(context), WEFT_ATTENTION_TEXTS("mla_decode"), a,
                          args.cache.dtype);
}

void mla_prefill(const MlaPrefillArgs& args, ExecContext& context) {
#if WEFT_HAS_FLASHINFER
  if (flashinfer_serves(args)) {
    flashinfer_mla_prefill(cuda_context(context), args);
    return;
  }
#endif
  Attention a{};
  a.out = float_view(args.out);
  a.q = float_view(args.q_nope);
  a.q_rope = float_view(args.q_rope);
  a.keys = args.cache.data;
  a.key_slot_stride = args.cache.stride[0];
  a.key_dim = args.cache.shape[1];
  a.value_dim = args.w_kv_b.shape[2];
  a.num_slots = args.cache.shape[0];
  a.num_tokens = args.q_nope.shape[0];
  a.heads = a.group = args.q_nope.shape[1];
  a.w_kv_b = float_view(args.w_kv_b);
  a.batch = args.batch;
  a.end_seq = args.num_prefill_seqs;
  a.scale = args.scale;
  launch_attention<true>("mla_prefill", cuda_context(context), WEFT_ATTENTION_TEXTS("mla_prefill"), a,
                         args.cache.dtype);
}

}  // namespace weft::ops::cuda
