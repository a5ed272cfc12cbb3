// paged_attention for sequences with few query rows: bound by reading keys and values once, on tensor cores.
//
// The rows of one kv head (its query heads, times the query rows of the sequence) are the columns of products
// whose rows are 16 positions, or 16 columns of the values: S^T = K Q^T, O^T = V^T P^T. A sequence's
// positions are cut into tiles of 16, dealt out in turn to the warps of a cluster of blocks. A warp keeps its
// next tiles under way in shared memory of its own and has a running softmax over them, so that nothing but
// the merge waits for another warp: warps are merged in order, then blocks in order, through their shared
// memory. The first tiles are on their way before the kernels ahead have ended. There is no workspace and no
// plan: lengths are read where they are used, and blocks without a tile only wait.
//
// The number of blocks in a cluster follows from the sequences and heads that the launch has room for. With
// it given, a row's bits depend on its own keys alone.
#include "kernels/attention/fast_attention.h"
#include "kernels/attention/fragments.cuh"
#include "kernels/attention/merge.cuh"
#include "kernels/attention/sequences.cuh"
#include "kernels/common/cluster.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"

namespace weft::kernels {
namespace {

constexpr int kTokens = 16;  // of a tile

struct GqaDecode {
  void* out;
  const void* q;
  const void* k;
  const void* v;
  int64_t out_row_stride, out_head_stride, q_row_stride, q_head_stride;
  int64_t k_head_stride, v_head_stride;
  int k_slot_stride, v_slot_stride;
  int64_t num_slots, num_tokens;
  Divider group;  // query heads of one kv head
  Divider page_size;
  int first_seq;
  int cluster_size;
  float scale_log2;
  SequenceBatch batch;
};

/// Of a kernel for heads of kWidth columns and 8 * kTiles query rows at a time.
template <int kWidth, int kTiles, int kNumWarps, int kNumStages, int kMinBlocks>
struct Shape {
  static constexpr int kDim = kWidth;
  static constexpr int kRowTiles = kTiles;
  static constexpr int kWarps = kNumWarps;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kStages = kNumStages;  // tiles of a warp in shared memory
  static constexpr int kBlocks = kMinBlocks;  // of a multiprocessor
  static constexpr int kRows = 8 * kRowTiles;
  static constexpr int kRowChunks = kDim / 8 + 1;           // one over, so that eight rows meet all banks
  static constexpr int kTileChunks = kTokens * kRowChunks;  // of keys, or of values
  static constexpr int kWarpChunks = kStages * 2 * kTileChunks;
  static constexpr int kPartialStride = kDim + 4;  // floats
  static_assert(kWarpChunks * 16 >= kRows * kPartialStride * 4, "a warp's result takes its tiles' place");
  static constexpr int kSharedBytes = kWarps * kWarpChunks * 16 + kRows * 16 + kWarps * kRows * 8;
};

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    gqa_decode_kernel(OpSite site, AttentionTexts texts, GqaDecode a) {
  constexpr int kDim = S::kDim;
  constexpr int kWarps = S::kWarps;
  constexpr int kThreads = S::kThreads;
  constexpr int kRowTiles = S::kRowTiles;
  constexpr int kRows = S::kRows;
  constexpr int kStages = S::kStages;
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int rank = static_cast<int>(blockIdx.x) % a.cluster_size;
  const int kv_head = static_cast<int>(blockIdx.x) / a.cluster_size;
  const int place = a.first_seq + static_cast<int>(blockIdx.y);
  const int ordered = a.batch.order == nullptr ? place : load_early(a.batch.order + place);
  const bool is_ordered = ordered >= a.first_seq && ordered < a.batch.max_seqs;
  const int seq = is_ordered ? ordered : place;
  const int first_tile = rank * kWarps + warp;
  const int step = kWarps * a.cluster_size;  // from a tile of a warp to its next
  const int page_size = a.batch.page_size;
  const int group = a.group.divisor();
  const int capacity = a.batch.page_table_stride * page_size;
  const int* const pages = a.batch.page_table + int64_t{seq} * a.batch.page_table_stride;

  // The page of this lane's token of a tile. Needs no length, so that it is on its way together with those.
  const auto load_page = [&](int tile) {
    const int position = tile * kTokens + lane % kTokens;
    return position < capacity ? load_early(pages + a.page_size.quotient(position)) : -1;
  };
  int first_pages[kStages];
#pragma unroll
  for (int s = 0; s < kStages; ++s) first_pages[s] = load_page(first_tile + s * step);

  const SequenceLengths lengths(a.batch, seq);
  const bool reports = rank == 0 && kv_head == 0 && threadIdx.x == 0;
  const bool exists = check_num_seqs(site, texts, a.batch, lengths.num_seqs, reports && blockIdx.y == 0) &&
                      place < lengths.num_seqs;
  const bool is_known = is_ordered && seq < lengths.num_seqs;
  if (exists && !is_known && reports) {
    fail(site, texts.bad_order, place, ordered, a.first_seq, lengths.num_seqs - 1);
  }
  const bool is_good =
      exists && is_known && check_sequence(site, texts, a.batch, lengths, a.num_tokens, seq, reports);
  const auto begin_row = static_cast<int>(lengths.begin_row);
  const auto q_len = static_cast<int>(lengths.end_row) - begin_row;
  const auto kv_len = static_cast<int>(lengths.kv_len);
  const int num_tiles = !is_good || q_len == 0 ? 0 : ceil_div(kv_len, kTokens);
  if (rank * kWarps >= num_tiles) {
    wait_for_inputs(site);
    return;
  }
  const int busy_blocks = min_of(a.cluster_size, ceil_div(num_tiles, kWarps));
  const int busy_warps = min_of(kWarps, num_tiles - rank * kWarps);

  uint4* const memory = dynamic_shared<uint4>();
  uint4* const tiles = memory + warp * S::kWarpChunks;
  auto* const block_scores = reinterpret_cast<float4*>(memory + kWarps * S::kWarpChunks);  // [row]: top, sum
  auto* const warp_scores = reinterpret_cast<Scores*>(block_scores + kRows);               // [warp, row]
  // A lane copies 16 bytes of a row: the same of each row.
  constexpr int kChunks = kDim / 8;
  constexpr int kAtOnce = kWarpSize / kChunks;
  const T* const keys = static_cast<const T*>(a.k) + kv_head * a.k_head_stride + lane % kChunks * 8;
  const T* const values = static_cast<const T*>(a.v) + kv_head * a.v_head_stride + lane % kChunks * 8;

  const auto load_tile = [&](int stage, int tile, int page) {
    const int position = tile * kTokens + lane % kTokens;
    const int64_t wanted =
        int64_t{page} * page_size + (position - a.page_size.quotient(position) * page_size);
    int slot = -1;  // reads as zeros: a weight of 0 times what lies behind kv_len may not be 0
    if (position < kv_len) {
      if (wanted >= 0 && wanted < a.num_slots) {
        slot = static_cast<int>(wanted);
      } else {
        fail(site, texts.bad_page, position, seq, page, a.num_slots);
      }
    }
    uint4* const to = tiles + stage * 2 * S::kTileChunks + lane / kChunks * S::kRowChunks + lane % kChunks;
#pragma unroll
    for (int i = 0; i < kTokens / kAtOnce; ++i) {
      const int of = __shfl_sync(kAllLanes, slot, i * kAtOnce + lane / kChunks);
      const bool exists = of >= 0;
      const int at = exists ? of : 0;
      uint4* const row = to + i * kAtOnce * S::kRowChunks;
      copy_async(row, keys + int64_t{at} * a.k_slot_stride, exists);
      copy_async(row + S::kTileChunks, values + int64_t{at} * a.v_slot_stride, exists);
    }
  };

  // What stood in the cache before this step: the kernels ahead do not write it.
  const int num_old_tiles = (kv_len - q_len) / kTokens;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (first_tile + s * step < num_old_tiles) load_tile(s, first_tile + s * step, first_pages[s]);
  }
  wait_for_inputs(site);

  const int g = lane / 4;
  const int t = lane % 4;
  // Row r of the sequence: head r % group of its query r / group.
  const int rows = q_len * group;
  for (int first_row = 0; first_row < rows; first_row += kRows) {
    const int num_rows = min_of(kRows, rows - first_row);
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      const int tile = first_tile + s * step;
      if (tile < num_tiles && (first_row > 0 || tile >= num_old_tiles)) {
        load_tile(s, tile, first_row == 0 ? first_pages[s] : load_page(tile));
      }
      commit_copies();
    }
    const int next_tile = first_tile + (kStages - 1) * step;
    int next_page = first_row == 0 ? first_pages[kStages - 1] : load_page(next_tile);

    uint32_t query[kRowTiles][kDim / 16][2];
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      const bool exists = n * 8 + g < num_rows;
      const int row = exists ? first_row + n * 8 + g : 0;
      const int token = a.group.quotient(row);
      const T* const q = static_cast<const T*>(a.q) + (begin_row + token) * a.q_row_stride +
                         (kv_head * group + row - token * group) * a.q_head_stride + 2 * t;
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        query[n][d][0] = exists ? *reinterpret_cast<const uint32_t*>(q + d * 16) : 0;
        query[n][d][1] = exists ? *reinterpret_cast<const uint32_t*>(q + d * 16 + 8) : 0;
      }
    }
    int limit[kRowTiles][2];  // positions that this lane's rows see: 8 * n + 2 * t, + 1
    float top[kRowTiles][2];
    float sum[kRowTiles][2];
    float o[kDim / 16][kRowTiles][4] = {};
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        limit[n][h] = min_of(kv_len, kv_len - q_len + a.group.quotient(first_row + 8 * n + 2 * t + h) + 1);
        top[n][h] = -INFINITY;
        sum[n][h] = 0.0F;
      }
    }
    int stage = 0;
    int free_stage = kStages - 1;
    for (int tile = first_tile; tile < num_tiles; tile += step) {
      wait_for_copies<kStages - 2>();
      __syncwarp();  // all lanes' copies are there, and all have done with the tile before
      const int ahead = tile + (kStages - 1) * step;
      if (ahead < num_tiles) {
        load_tile(free_stage, ahead, next_page);
        next_page = load_page(ahead + step);
      }
      commit_copies();
      free_stage = free_stage + 1 == kStages ? 0 : free_stage + 1;
      const uint4* const k_tile = tiles + stage * 2 * S::kTileChunks;
      const uint4* const v_tile = k_tile + S::kTileChunks;
      stage = stage + 1 == kStages ? 0 : stage + 1;

      float s[2][kRowTiles][4] = {};  // even and odd steps, so that products wait less for each other
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t k[4];
        load_matrices<false>(k, k_tile + lane % 16 * S::kRowChunks + 2 * d + lane / 16);
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) mma_16x8x16<T>(s[d % 2][n], k, query[n][d]);
      }
      uint32_t weights[kRowTiles][2];
      float correction[kRowTiles][2];
      bool rises = false;
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        float p[4];  // [g][2t], [g][2t + 1], [g + 8][2t], [g + 8][2t + 1]
        float new_top[2] = {top[n][0], top[n][1]};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int position = tile * kTokens + g + e / 2 * 8;
          p[e] = position < limit[n][e % 2] ? (s[0][n][e] + s[1][n][e]) * a.scale_log2 : -INFINITY;
          new_top[e % 2] = fmaxf(new_top[e % 2], p[e]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int lanes = 4; lanes < 32; lanes *= 2)
            new_top[h] = fmaxf(new_top[h], __shfl_xor_sync(kAllLanes, new_top[h], lanes));
          const float base = new_top[h] == -INFINITY ? 0.0F : new_top[h];
          rises = rises || new_top[h] > top[n][h];
          correction[n][h] = exp2_fast(top[n][h] - base);
          top[n][h] = new_top[h];
          p[h] = exp2_fast(p[h] - base);
          p[h + 2] = exp2_fast(p[h + 2] - base);
          sum[n][h] = fmaf(sum[n][h], correction[n][h], p[h] + p[h + 2]);
        }
        weights[n][0] = transpose_matrix(pack_pair<T>(p[0], p[1]));
        weights[n][1] = transpose_matrix(pack_pair<T>(p[2], p[3]));
      }
      if (__ballot_sync(kAllLanes, rises) != 0) {
#pragma unroll
        for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
          for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) o[d][n][e] *= correction[n][e % 2];
          }
        }
      }
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t v[4];
        const int row = lane / 16 * 8 + lane % 8;
        load_matrices<true>(v, v_tile + row * S::kRowChunks + 2 * d + lane / 8 % 2);
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) mma_16x8x16<T>(o[d][n], v, weights[n]);
      }
    }
    __syncwarp();

    // A warp's result takes the place of its tiles.
    auto* const partial = reinterpret_cast<float*>(tiles);
    if (warp < busy_warps) {
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int lanes = 4; lanes < 32; lanes *= 2)
            sum[n][h] += __shfl_xor_sync(kAllLanes, sum[n][h], lanes);
          const int row = 8 * n + 2 * t + h;
          if (g == 0) warp_scores[warp * kRows + row] = {top[n][h], sum[n][h]};
          if (row >= num_rows) continue;
#pragma unroll
          for (int d = 0; d < kDim / 16; ++d) {
            partial[row * S::kPartialStride + d * 16 + g] = o[d][n][h];
            partial[row * S::kPartialStride + d * 16 + g + 8] = o[d][n][h + 2];
          }
        }
      }
    }
    __syncthreads();

    auto* const partials = reinterpret_cast<float*>(memory);  // of warp 0; the block's own afterwards
    const auto store = [&](int row, int column, const Merged& merged) {
      const int token = a.group.quotient(first_row + row);
      const int head = kv_head * group + first_row + row - token * group;
      store_merged<T>(
          static_cast<T*>(a.out) + (begin_row + token) * a.out_row_stride + head * a.out_head_stride + column,
          merged);
    };
    constexpr int kQuads = kDim / 4;
    for (int i = static_cast<int>(threadIdx.x); i < num_rows * kQuads; i += kThreads) {
      const int row = i / kQuads;
      const int column = i % kQuads * 4;
      auto* const at = reinterpret_cast<float4*>(partials + row * S::kPartialStride + column);
      const Merged merged = merge<kWarps>(
          busy_warps, [&](int w) { return warp_scores[w * kRows + row]; },
          [&](int w) { return at[w * S::kWarpChunks]; });
      if (busy_blocks == 1) {
        store(row, column, merged);
      } else {
        *at = merged.x;
        if (column == 0) block_scores[row] = float4{merged.scores.top, merged.scores.sum, 0.0F, 0.0F};
      }
    }
    if (busy_blocks == 1) {
      __syncthreads();
      continue;
    }
    cluster_arrive();
    cluster_wait();
    for (int i = rank * kThreads + static_cast<int>(threadIdx.x); i < num_rows * kQuads;
         i += busy_blocks * kThreads) {
      const int row = i / kQuads;
      const int column = i % kQuads * 4;
      const auto* const at = reinterpret_cast<const float4*>(partials + row * S::kPartialStride + column);
      store(row, column, merge_blocks<kMaxCluster>(busy_blocks, block_scores + row, at));
    }
    cluster_arrive_relaxed();  // done with what the others hold
    cluster_wait();
  }
}

template <class T, class S>
void launch_shape(const CudaContext& context, const AttentionTexts& texts, const GqaDecode& a, int kv_heads) {
  const LaunchShape shape{.grid = dim3(grid_x(int64_t{kv_heads} * a.cluster_size),
                                       static_cast<unsigned>(a.batch.max_seqs - a.first_seq)),
                          .block = dim3(S::kThreads),
                          .shared_bytes = S::kSharedBytes,
                          .cluster_blocks = static_cast<unsigned>(a.cluster_size)};
  launch<&gqa_decode_kernel<T, S>>(context, shape, context.site, texts, a);
}

/// Heads of sequences, which have a cluster of blocks each.
int64_t num_clusters(const GqaDecode& a, int kv_heads) {
  return int64_t{a.batch.max_seqs - a.first_seq} * kv_heads;
}
/// With more of them not all blocks begin at once.
constexpr int64_t kManyBlocks = 2 * kBlocksAtOnce;
/// A warp takes 1.1 us for a tile, on an H200, however little else there is to do. So blocks of two warps
/// would let a long sequence among short ones end late.
constexpr int64_t kShortContext = 4096;

template <class T, int kDim, int kRowTiles>
void launch_rows(const CudaContext& context, const AttentionTexts& texts, GqaDecode a, int kv_heads) {
  // Few blocks: a multiprocessor each, of many warps. Many: smaller ones, of which one can begin and end
  // while others load. As many tiles as shared memory holds are under way in each case.
  constexpr int kStages = kDim <= 128 ? 3 : 2;
  constexpr int kWarps = kDim <= 128 ? 8 : 4;
  const int64_t blocks = num_clusters(a, kv_heads);
  const bool is_short = int64_t{a.batch.page_table_stride} * a.batch.page_size <= kShortContext;
  if (blocks <= kManyBlocks) a.batch.order = nullptr;
  if (blocks <= kBlocksAtOnce)
    return launch_shape<T, Shape<kDim, kRowTiles, kWarps, kStages, 1>>(context, texts, a, kv_heads);
  if (blocks <= kManyBlocks || !is_short)
    return launch_shape<T, Shape<kDim, kRowTiles, 4, kStages, kWarps / 4>>(context, texts, a, kv_heads);
  return launch_shape<T, Shape<kDim, kRowTiles, 2, kStages, kWarps / 2>>(context, texts, a, kv_heads);
}

template <class T, int kDim>
void launch_width(const CudaContext& context, const AttentionTexts& texts, const GqaDecode& a, int kv_heads) {
  // As many tiles of 8 rows as one query row wants; more query rows are rare.
  if (a.group.divisor() <= 8) return launch_rows<T, kDim, 1>(context, texts, a, kv_heads);
  return launch_rows<T, kDim, 2>(context, texts, a, kv_heads);
}

template <class T>
void launch_type(const CudaContext& context, const AttentionTexts& texts, const GqaDecode& a, int kv_heads,
                 int64_t dim) {
  if (dim == 64) return launch_width<T, 64>(context, texts, a, kv_heads);
  if (dim == 128) return launch_width<T, 128>(context, texts, a, kv_heads);
  return launch_width<T, 256>(context, texts, a, kv_heads);
}

}  // namespace

bool decode_batch_serves(const SequenceBatch& batch) {
  const int64_t capacity = int64_t{batch.page_table_stride} * batch.page_size;
  return batch.max_seqs <= 65535 && capacity <= INT32_MAX / 2 && capacity * batch.page_size <= UINT32_MAX / 2;
}

bool fast_gqa_serves(const ops::PagedAttentionArgs& args) {
  const DType dtype = args.k_cache.dtype;
  const int64_t dim = args.q.shape[2];
  const int64_t group = args.q.shape[1] / args.k_cache.shape[1];
  const auto packed = [&](const TensorView& view) {
    return view.dtype == dtype && has_packed_rows<bf16>(view, dim);
  };
  return (dtype == DType::kBF16 || dtype == DType::kF16) && args.scale > 0.0F &&
         (dim == 64 || dim == 128 || dim == 256) && decode_batch_serves(args.batch) &&
         args.k_cache.shape[0] <= INT32_MAX && args.q.numel() / dim * group < UINT32_MAX / 2 &&
         packed(args.out) && packed(args.q) && packed(args.k_cache) && packed(args.v_cache) &&
         args.k_cache.stride[0] <= INT32_MAX && args.v_cache.stride[0] <= INT32_MAX;
}

void gqa_decode(const CudaContext& context, const ops::PagedAttentionArgs& args, int32_t first_seq) {
  GqaDecode a{};
  a.out = args.out.data;
  a.q = args.q.data;
  a.k = args.k_cache.data;
  a.v = args.v_cache.data;
  a.out_row_stride = args.out.stride[0];
  a.out_head_stride = args.out.stride[1];
  a.q_row_stride = args.q.stride[0];
  a.q_head_stride = args.q.stride[1];
  a.k_slot_stride = static_cast<int>(args.k_cache.stride[0]);
  a.k_head_stride = args.k_cache.stride[1];
  a.v_slot_stride = static_cast<int>(args.v_cache.stride[0]);
  a.v_head_stride = args.v_cache.stride[1];
  a.num_slots = args.k_cache.shape[0];
  a.num_tokens = args.q.shape[0];
  const auto kv_heads = static_cast<int>(args.k_cache.shape[1]);
  const int group = static_cast<int>(args.q.shape[1]) / kv_heads;
  a.group = Divider(group);
  a.page_size = Divider(args.batch.page_size);
  a.first_seq = first_seq;
  a.scale_log2 = args.scale * kLog2E;
  a.batch = args.batch;
  a.cluster_size = cluster_size_of(num_clusters(a, kv_heads), kBlocksAtOnce);
  const AttentionTexts texts = WEFT_ATTENTION_TEXTS("paged_attention");
  const int64_t dim = args.q.shape[2];
  if (args.k_cache.dtype == DType::kBF16) {
    launch_type<bf16>(context, texts, a, kv_heads, dim);
  } else {
    launch_type<f16>(context, texts, a, kv_heads, dim);
  }
}

}  // namespace weft::kernels
