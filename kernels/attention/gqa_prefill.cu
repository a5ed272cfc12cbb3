// paged_attention for sequences with many query rows: bound by the tensor cores.
//
// A block has 128 rows of a sequence and a kv head (its query heads, query by query), 16 a warp, and takes 64
// positions at a time into shared memory, from position 0 on, while the next ones are under way. So a row
// meets the same numbers in the same order whatever the batch and the cut of its sequence into chunks. Blocks
// find their rows in cu_q; those with the most positions begin first.
#include <algorithm>

#include "kernels/attention/fast_attention.h"
#include "kernels/attention/fragments.cuh"
#include "kernels/attention/sequences.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"

namespace weft::kernels {
namespace {

constexpr int kRows = 128;
constexpr int kKeys = 64;  // of a tile
constexpr int kThreads = kRows / 16 * kWarpSize;

struct GqaPrefill {
  void* out;
  const void* q;
  const void* k;
  const void* v;
  int64_t out_row_stride, out_head_stride, q_row_stride, q_head_stride;
  int64_t k_slot_stride, k_head_stride, v_slot_stride, v_head_stride;
  int64_t num_slots, num_tokens;
  Divider group;  // query heads of one kv head
  Divider page_size;
  int first_seq, end_seq;
  float scale_log2;  // positive
  SequenceBatch batch;
};

/// The rows of a block: those from first_row on of a sequence, which has rows at all if seq >= 0.
struct Work {
  int seq = -1;
  int first_row = 0;
};

/// What block `index` does: blocks are dealt out to the sequences in turn, as many as their rows want. The
/// same in all threads; called by whole warps.
__device__ inline Work find_work(const OpSite& site, const AttentionTexts& texts, const GqaPrefill& a,
                                 int64_t num_seqs, int index) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t end = a.end_seq < num_seqs ? a.end_seq : num_seqs;
  for (int64_t base = a.first_seq; base < end; base += kWarpSize) {
    const int64_t seq = base + lane;
    int blocks = 0;
    if (seq < end) {
      const SequenceLengths lengths(a.batch, seq);
      if (check_sequence(site, texts, a.batch, lengths, a.num_tokens, seq, false)) {
        blocks = static_cast<int>(
            ceil_div((lengths.end_row - lengths.begin_row) * a.group.divisor(), int64_t{kRows}));
      }
    }
    int before = blocks;  // up to this lane
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int of = __shfl_up_sync(kAllLanes, before, static_cast<unsigned>(step));
      if (lane >= step) before += of;
    }
    const unsigned behind = __ballot_sync(kAllLanes, index < before);
    if (behind != 0) {
      const int owner = __ffs(static_cast<int>(behind)) - 1;
      const int first = __shfl_sync(kAllLanes, before - blocks, owner);
      return {static_cast<int>(base) + owner, (index - first) * kRows};
    }
    index -= __shfl_sync(kAllLanes, before, kWarpSize - 1);
  }
  return {};
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    gqa_prefill_kernel(OpSite site, AttentionTexts texts, GqaPrefill a) {
  constexpr int kChunks = kDim / 8;  // of 16 bytes, of a row
  constexpr int kTileChunks = kKeys * kChunks;
  constexpr int kAtOnce = kThreads / kChunks;  // rows that all threads copy together
  constexpr int kTurns = kKeys / kAtOnce;
  let_next_start();
  wait_for_inputs(site);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpSize;
  const bool first_block = blockIdx.x == 0 && blockIdx.y == 0;
  const int64_t num_seqs = *a.batch.num_seqs;
  if (!check_num_seqs(site, texts, a.batch, num_seqs, first_block && thread == 0)) return;
  if (first_block) {
    for (int64_t s = a.first_seq + thread; s < a.end_seq && s < num_seqs; s += kThreads)
      check_sequence(site, texts, a.batch, SequenceLengths(a.batch, s), a.num_tokens, s, true);
  }
  // The last rows of a sequence see most.
  const Work work = find_work(site, texts, a, num_seqs, static_cast<int>(gridDim.x - 1 - blockIdx.x));
  if (work.seq < 0) return;
  const SequenceLengths lengths(a.batch, work.seq);
  const auto begin_row = static_cast<int>(lengths.begin_row);
  const auto q_len = static_cast<int>(lengths.end_row) - begin_row;
  const auto kv_len = static_cast<int>(lengths.kv_len);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = a.group.divisor();
  const int num_rows = min_of(kRows, q_len * group - work.first_row);
  const int page_size = a.batch.page_size;
  const int* const pages = a.batch.page_table + int64_t{work.seq} * a.batch.page_table_stride;
  // Row r: head r % group of query r / group. It sees so many positions.
  const auto limit_of = [&](int row) { return kv_len - q_len + a.group.quotient(work.first_row + row) + 1; };
  const int num_keys = limit_of(num_rows - 1);
  const int num_tiles = ceil_div(num_keys, kKeys);

  uint4* const queries = dynamic_shared<uint4>();
  uint4* const tiles = queries + kRows * kChunks;
  const T* const keys = static_cast<const T*>(a.k) + kv_head * a.k_head_stride + thread % kChunks * 8;
  const T* const values = static_cast<const T*>(a.v) + kv_head * a.v_head_stride + thread % kChunks * 8;

  int next_pages[kTurns];  // of this thread's rows of the next tile
  const auto load_pages = [&](int tile) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int position = tile * kKeys + i * kAtOnce + thread / kChunks;
      next_pages[i] = position < num_keys ? pages[a.page_size.quotient(position)] : -1;
    }
  };
  const auto load_tile = [&](int stage, int tile) {
    uint4* const k_tile = tiles + stage * 2 * kTileChunks;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int row = i * kAtOnce + thread / kChunks;
      const int position = tile * kKeys + row;
      const int in_page = position - a.page_size.quotient(position) * page_size;
      const int64_t slot = int64_t{next_pages[i]} * page_size + in_page;
      bool exists = false;  // reads as zeros: a weight of 0 times what lies behind may not be 0
      if (position < num_keys) {
        exists = slot >= 0 && slot < a.num_slots;
        if (!exists) fail(site, texts.bad_page, position, work.seq, next_pages[i], a.num_slots);
      }
      const int64_t at = exists ? slot : 0;
      uint4* const to = k_tile + swizzle<kChunks>(row, thread % kChunks);
      copy_async(to, keys + at * a.k_slot_stride, exists);
      copy_async(to + kTileChunks, values + at * a.v_slot_stride, exists);
    }
  };

  load_pages(0);
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const bool exists = row < num_rows;
    const int of = exists ? work.first_row + row : 0;
    const int token = a.group.quotient(of);
    const int head = kv_head * group + of - token * group;
    copy_async(queries + swizzle<kChunks>(row, i % kChunks),
               static_cast<const T*>(a.q) + (int64_t{begin_row} + token) * a.q_row_stride +
                   head * a.q_head_stride + i % kChunks * 8,
               exists);
  }
  load_tile(0, 0);
  commit_copies();
  load_pages(1);

  const int warp_row = thread / kWarpSize * 16;
  const int g = lane / 4;  // this lane's rows: warp_row + g, + 8
  const int t = lane % 4;
  const int limit[2] = {limit_of(warp_row + g), limit_of(warp_row + g + 8)};
  const int sees_all = limit_of(warp_row);  // positions that all rows of the warp see
  constexpr bool kKeepQuery = kDim <= 128;  // of 256 columns there are too many to keep
  uint32_t query[kKeepQuery ? kDim / 16 : 1][4];
  float o[kDim / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0F, 0.0F};
  for (int tile = 0; tile < num_tiles; ++tile) {
    wait_for_copies<0>();
    __syncthreads();  // the tile is there, and all have done with the one before
    if (tile + 1 < num_tiles) {
      load_tile((tile + 1) % 2, tile + 1);
      load_pages(tile + 2);
    }
    commit_copies();
    if constexpr (kKeepQuery) {
      if (tile == 0) {
#pragma unroll
        for (int d = 0; d < kDim / 16; ++d) load_a<kChunks>(query[d], queries, warp_row, d, lane);
      }
    }
    const uint4* const k_tile = tiles + tile % 2 * 2 * kTileChunks;
    const uint4* const v_tile = k_tile + kTileChunks;
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      if constexpr (!kKeepQuery) load_a<kChunks>(query[0], queries, warp_row, d, lane);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[2][2];
        load_b_of_rows<kChunks>(b, k_tile, n * 16, d, lane);
        mma_16x8x16<T>(s[2 * n], query[kKeepQuery ? d : 0], b[0]);
        mma_16x8x16<T>(s[2 * n + 1], query[kKeepQuery ? d : 0], b[1]);
      }
    }
    if ((tile + 1) * kKeys > sees_all) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (tile * kKeys + n * 8 + 2 * t + e % 2 >= limit[e / 2]) s[n][e] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float highest = s[0][2 * h];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
      const float new_top = fmaxf(top[h], highest * a.scale_log2);
      const float base = new_top == -INFINITY ? 0.0F : new_top;
      const float correction = exp2_fast(top[h] - base);
      top[h] = new_top;
      sum[h] *= correction;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) {
          s[n][e] = exp2_fast(fmaf(s[n][e], a.scale_log2, -base));
          sum[h] += s[n][e];
        }
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        o[n][2 * h] *= correction;
        o[n][2 * h + 1] *= correction;
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t weights[4] = {
          pack_pair<T>(s[2 * k][0], s[2 * k][1]), pack_pair<T>(s[2 * k][2], s[2 * k][3]),
          pack_pair<T>(s[2 * k + 1][0], s[2 * k + 1][1]), pack_pair<T>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[2][2];
        load_b_of_columns<kChunks>(b, v_tile, k * 16, d, lane);
        mma_16x8x16<T>(o[2 * d], weights, b[0]);
        mma_16x8x16<T>(o[2 * d + 1], weights, b[1]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 1);
    sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 2);
    const int row = warp_row + g + 8 * h;
    if (row >= num_rows) continue;
    const int token = a.group.quotient(work.first_row + row);
    const int head = kv_head * group + work.first_row + row - token * group;
    T* const out = static_cast<T*>(a.out) + (int64_t{begin_row} + token) * a.out_row_stride +
                   head * a.out_head_stride + 2 * t;
    const float r = 1.0F / sum[h];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      *reinterpret_cast<uint32_t*>(out + n * 8) = pack_pair<T>(o[n][2 * h] * r, o[n][2 * h + 1] * r);
  }
}

template <class T, int kDim>
void launch_width(const CudaContext& context, const AttentionTexts& texts, const GqaPrefill& a,
                  int kv_heads) {
  // No more than a block for each 128 rows, and a last one for each sequence.
  const int64_t num_seqs = a.end_seq - a.first_seq;
  const int64_t blocks = a.num_tokens * a.group.divisor() / kRows + std::min(num_seqs, a.num_tokens);
  const LaunchShape shape{.grid = dim3(grid_x(blocks), static_cast<unsigned>(kv_heads)),
                          .block = dim3(kThreads),
                          .shared_bytes = (kRows + 4 * kKeys) * kDim * sizeof(T)};
  launch<&gqa_prefill_kernel<T, kDim>>(context, shape, context.site, texts, a);
}

template <class T>
void launch_type(const CudaContext& context, const AttentionTexts& texts, const GqaPrefill& a, int kv_heads,
                 int64_t dim) {
  if (dim == 64) return launch_width<T, 64>(context, texts, a, kv_heads);
  if (dim == 128) return launch_width<T, 128>(context, texts, a, kv_heads);
  return launch_width<T, 256>(context, texts, a, kv_heads);
}

}  // namespace

void gqa_prefill(const CudaContext& context, const ops::PagedAttentionArgs& args, int32_t first_seq,
                 int32_t end_seq) {
  GqaPrefill a{};
  a.out = args.out.data;
  a.q = args.q.data;
  a.k = args.k_cache.data;
  a.v = args.v_cache.data;
  a.out_row_stride = args.out.stride[0];
  a.out_head_stride = args.out.stride[1];
  a.q_row_stride = args.q.stride[0];
  a.q_head_stride = args.q.stride[1];
  a.k_slot_stride = args.k_cache.stride[0];
  a.k_head_stride = args.k_cache.stride[1];
  a.v_slot_stride = args.v_cache.stride[0];
  a.v_head_stride = args.v_cache.stride[1];
  a.num_slots = args.k_cache.shape[0];
  a.num_tokens = args.q.shape[0];
  const auto kv_heads = static_cast<int>(args.k_cache.shape[1]);
  a.group = Divider(static_cast<int>(args.q.shape[1]) / kv_heads);
  a.page_size = Divider(args.batch.page_size);
  a.first_seq = first_seq;
  a.end_seq = end_seq;
  a.scale_log2 = args.scale * kLog2E;
  a.batch = args.batch;
  const AttentionTexts texts = WEFT_ATTENTION_TEXTS("paged_attention");
  const int64_t dim = args.q.shape[2];
  if (args.k_cache.dtype == DType::kBF16) {
    launch_type<bf16>(context, texts, a, kv_heads, dim);
  } else {
    launch_type<f16>(context, texts, a, kv_heads, dim);
  }
}

}  // namespace weft::kernels
