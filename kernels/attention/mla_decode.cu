// mla_decode for latents of 512 + 64 columns: a key is a latent, its first 512 columns are the value, and all
// heads share it. Bound by reading latents once, on tensor cores.
//
// A block of 4 warps has 16 heads of a query row, and takes 32 positions at a time into shared memory. The
// scores S^T = K Q^T are a sum over 576 columns, of which each warp has a quarter, its queries in registers;
// the quarters are added, in order, through shared memory by every warp for itself, which then has all
// weights as operands of O^T = V^T P^T, of which it has 128 of the 512 columns. Tiles are dealt out in turn
// to the blocks of a cluster, which are merged in order in the end. See gqa_decode.cu for what follows from
// that.
#include "kernels/attention/fast_attention.h"
#include "kernels/attention/fragments.cuh"
#include "kernels/attention/merge.cuh"
#include "kernels/attention/sequences.cuh"
#include "kernels/common/cluster.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"

namespace weft::kernels {
namespace {

constexpr int kLatent = 512;
constexpr int kRope = 64;
constexpr int kKey = kLatent + kRope;
constexpr int kTokens = 32;  // of a tile
constexpr int kHeads = 16;   // of a block
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kStages = 2;
constexpr int kRowChunks = kKey / 8 + 1;  // of 16 bytes; one over, so that eight rows meet all banks
constexpr int kTileChunks = kTokens * kRowChunks;
constexpr int kSteps = kKey / 16 / kWarps;   // of a warp, over the columns of keys
constexpr int kColumns = kLatent / kWarps;   // of a warp, of the values
constexpr int kScoreStride = kHeads + 4;     // floats
constexpr int kPartialStride = kLatent + 4;  // floats
constexpr int kScoreFloats = kTokens * kScoreStride;
constexpr int kSharedBytes = kStages * kTileChunks * 16 + kWarps * kScoreFloats * 4 + kHeads * 16;
static_assert(kStages * kTileChunks * 16 >= kHeads * kPartialStride * 4, "the result takes the tiles' place");

struct MlaDecode {
  void* out;
  const void* q_nope;
  const void* q_rope;
  const void* cache;
  int64_t out_row_stride, out_head_stride, nope_row_stride, nope_head_stride, rope_row_stride,
      rope_head_stride;
  int64_t slot_stride, num_slots, num_tokens;
  int heads;
  int first_seq;
  int cluster_size;
  Divider page_size;
  float scale_log2;
  SequenceBatch batch;
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    mla_decode_kernel(OpSite site, AttentionTexts texts, MlaDecode a) {
  let_next_start();
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  const int g = lane / 4;
  const int t = lane % 4;
  const int rank = static_cast<int>(blockIdx.x) % a.cluster_size;
  const int first_head = static_cast<int>(blockIdx.x) / a.cluster_size * kHeads;
  const int seq = a.first_seq + static_cast<int>(blockIdx.y);
  const int page_size = a.batch.page_size;
  const int capacity = a.batch.page_table_stride * page_size;
  const int* const pages = a.batch.page_table + int64_t{seq} * a.batch.page_table_stride;

  // Four threads copy a token. Its page needs no length, so that it is on its way together with those.
  const int my_token = thread / 4;
  const auto load_page = [&](int tile) {
    const int position = tile * kTokens + my_token;
    return position < capacity ? load_early(pages + a.page_size.quotient(position)) : -1;
  };
  const int first_page = load_page(rank);
  const int second_page = load_page(rank + a.cluster_size);

  const SequenceLengths lengths(a.batch, seq);
  const bool reports = rank == 0 && first_head == 0 && thread == 0;
  const bool is_good = check_num_seqs(site, texts, a.batch, lengths.num_seqs, reports && blockIdx.y == 0) &&
                       seq < lengths.num_seqs &&
                       check_sequence(site, texts, a.batch, lengths, a.num_tokens, seq, reports);
  const auto begin_row = static_cast<int>(lengths.begin_row);
  const auto q_len = static_cast<int>(lengths.end_row) - begin_row;
  const auto kv_len = static_cast<int>(lengths.kv_len);
  const int num_tiles = !is_good || q_len == 0 ? 0 : ceil_div(kv_len, kTokens);
  if (rank >= num_tiles) {
    wait_for_inputs(site);
    return;
  }
  const int busy_blocks = min_of(a.cluster_size, num_tiles);
  const int num_heads = min_of(kHeads, a.heads - first_head);

  uint4* const tiles = dynamic_shared<uint4>();
  auto* const scores = reinterpret_cast<float*>(tiles + kStages * kTileChunks);  // [warp, token, head]
  auto* const block_scores = reinterpret_cast<float4*>(scores + kWarps * kScoreFloats);  // [head]: top, sum
  const T* const cache = static_cast<const T*>(a.cache) + thread % 4 * 8;

  const auto load_tile = [&](int stage, int tile, int page) {
    const int position = tile * kTokens + my_token;
    const int64_t slot = int64_t{page} * page_size + (position - a.page_size.quotient(position) * page_size);
    bool exists = false;  // reads as zeros: a weight of 0 times what lies behind kv_len may not be 0
    if (position < kv_len) {
      exists = slot >= 0 && slot < a.num_slots;
      if (!exists) fail(site, texts.bad_page, position, seq, page, a.num_slots);
    }
    const T* const from = cache + (exists ? slot : 0) * a.slot_stride;
    uint4* const to = tiles + stage * kTileChunks + my_token * kRowChunks + thread % 4;
#pragma unroll
    for (int i = 0; i < kKey / 32; ++i) copy_async(to + i * 4, from + i * 32, exists);
  };

  // What stood in the cache before this step: the kernels ahead do not write it.
  const bool is_old = (rank + 1) * kTokens <= kv_len - q_len;
  if (is_old) load_tile(0, rank, first_page);
  wait_for_inputs(site);

  for (int token = 0; token < q_len; ++token) {
    if (token > 0 || !is_old) load_tile(0, rank, token == 0 ? first_page : load_page(rank));
    commit_copies();
    int next_page = token == 0 ? second_page : load_page(rank + a.cluster_size);

    uint32_t query[kSteps][2][2];
    const int64_t row = begin_row + token;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int head = n * 8 + g;
      const bool exists = head < num_heads;
      const int64_t of = exists ? first_head + head : 0;
      const T* const nope =
          static_cast<const T*>(a.q_nope) + row * a.nope_row_stride + of * a.nope_head_stride;
      const T* const rope =
          static_cast<const T*>(a.q_rope) + row * a.rope_row_stride + of * a.rope_head_stride;
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        const int column = (warp * kSteps + d) * 16 + 2 * t;
        const T* const q = column < kLatent ? nope + column : rope + (column - kLatent);
        query[d][n][0] = exists ? *reinterpret_cast<const uint32_t*>(q) : 0;
        query[d][n][1] = exists ? *reinterpret_cast<const uint32_t*>(q + 8) : 0;
      }
    }
    const int limit = kv_len - q_len + token + 1;  // positions that the row sees
    float o[kColumns / 16][2][4] = {};
    float top[2] = {-INFINITY, -INFINITY};  // of heads g, g + 8; the same in all warps
    float sum[2] = {0.0F, 0.0F};
    int stage = 0;
    for (int tile = rank; tile < num_tiles; tile += a.cluster_size) {
      wait_for_copies<0>();
      __syncthreads();  // the tile is there, and all have done with the one before
      const int ahead = tile + a.cluster_size;
      if (ahead < num_tiles) {
        load_tile(1 - stage, ahead, next_page);
        next_page = load_page(ahead + a.cluster_size);
      }
      commit_copies();
      const uint4* const keys = tiles + stage * kTileChunks;
      stage = 1 - stage;

      float s[2][2][4] = {};  // 16 tokens; 8 heads
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          uint32_t k[4];
          load_matrices<false>(
              k, keys + (m * 16 + lane % 16) * kRowChunks + 2 * (warp * kSteps + d) + lane / 16);
#pragma unroll
          for (int n = 0; n < 2; ++n) mma_16x8x16<T>(s[m][n], k, query[d][n]);
        }
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            *reinterpret_cast<float2*>(scores + warp * kScoreFloats + (m * 16 + g + 8 * h) * kScoreStride +
                                       n * 8 + 2 * t) = float2{s[m][n][2 * h], s[m][n][2 * h + 1]};
          }
        }
      }
      __syncthreads();

      // Now as the operand wants them: heads g, g + 8; tokens 2t, 2t + 1, + 8, and + 16.
      uint32_t weights[2][2][2];  // 16 tokens; 8 heads
      float correction[2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float p[8];
        float new_top = top[n];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int of = i / 2 * 8 + 2 * t + i % 2;
          float score = 0.0F;
#pragma unroll
          for (int w = 0; w < kWarps; ++w) score += scores[w * kScoreFloats + of * kScoreStride + n * 8 + g];
          p[i] = tile * kTokens + of < limit ? score * a.scale_log2 : -INFINITY;
          new_top = fmaxf(new_top, p[i]);
        }
        new_top = fmaxf(new_top, __shfl_xor_sync(kAllLanes, new_top, 1));
        new_top = fmaxf(new_top, __shfl_xor_sync(kAllLanes, new_top, 2));
        const float base = new_top == -INFINITY ? 0.0F : new_top;
        correction[n] = exp2_fast(top[n] - base);
        top[n] = new_top;
        sum[n] *= correction[n];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          p[i] = exp2_fast(p[i] - base);
          sum[n] += p[i];
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          weights[m][n][0] = pack_pair<T>(p[4 * m], p[4 * m + 1]);
          weights[m][n][1] = pack_pair<T>(p[4 * m + 2], p[4 * m + 3]);
        }
      }
      if (__ballot_sync(kAllLanes, correction[0] != 1.0F || correction[1] != 1.0F) != 0) {
        // From heads g to heads 2t, 2t + 1.
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float even = __shfl_sync(kAllLanes, correction[n], 8 * t);
          const float odd = __shfl_sync(kAllLanes, correction[n], 8 * t + 4);
#pragma unroll
          for (int d = 0; d < kColumns / 16; ++d) {
            o[d][n][0] *= even;
            o[d][n][1] *= odd;
            o[d][n][2] *= even;
            o[d][n][3] *= odd;
          }
        }
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int d = 0; d < kColumns / 16; ++d) {
          uint32_t v[4];
          const int of = m * 16 + lane / 16 * 8 + lane % 8;
          load_matrices<true>(v, keys + of * kRowChunks + warp * (kColumns / 8) + 2 * d + lane / 8 % 2);
#pragma unroll
          for (int n = 0; n < 2; ++n) mma_16x8x16<T>(o[d][n], v, weights[m][n]);
        }
      }
    }
    __syncthreads();  // all have done with the tiles

    auto* const partials = reinterpret_cast<float*>(tiles);  // [head, column]
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      sum[n] += __shfl_xor_sync(kAllLanes, sum[n], 1);
      sum[n] += __shfl_xor_sync(kAllLanes, sum[n], 2);
      if (warp == 0 && t == 0) block_scores[n * 8 + g] = float4{top[n], sum[n], 0.0F, 0.0F};
#pragma unroll
      for (int d = 0; d < kColumns / 16; ++d) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          partials[(n * 8 + 2 * t + e % 2) * kPartialStride + warp * kColumns + d * 16 + g + e / 2 * 8] =
              o[d][n][e];
        }
      }
    }
    if (busy_blocks > 1) {
      cluster_arrive();
      cluster_wait();
    } else {
      __syncthreads();
    }
    constexpr int kQuads = kLatent / 4;
    for (int i = rank * kThreads + thread; i < num_heads * kQuads; i += busy_blocks * kThreads) {
      const int head = i / kQuads;
      const int column = i % kQuads * 4;
      const auto* const at = reinterpret_cast<const float4*>(partials + head * kPartialStride + column);
      const Merged merged = merge_blocks<kMaxCluster>(busy_blocks, block_scores + head, at);
      store_merged<T>(
          static_cast<T*>(a.out) + row * a.out_row_stride + (first_head + head) * a.out_head_stride + column,
          merged);
    }
    if (busy_blocks > 1) {
      cluster_arrive_relaxed();  // done with what the others hold
      cluster_wait();
    } else {
      __syncthreads();
    }
  }
}

template <class T>
void launch_type(const CudaContext& context, const AttentionTexts& texts, const MlaDecode& a) {
  const int64_t blocks = int64_t{ceil_div(a.heads, kHeads)} * a.cluster_size;
  const LaunchShape shape{.grid = dim3(grid_x(blocks), static_cast<unsigned>(a.batch.max_seqs - a.first_seq)),
                          .block = dim3(kThreads),
                          .shared_bytes = kSharedBytes,
                          .cluster_blocks = static_cast<unsigned>(a.cluster_size)};
  launch<&mla_decode_kernel<T>>(context, shape, context.site, texts, a);
}

}  // namespace

bool mla_decode_serves(const ops::MlaDecodeArgs& args) {
  const DType dtype = args.cache.dtype;
  const auto packed = [&](const TensorView& view, int64_t columns) {
    return view.dtype == dtype && view.shape[view.rank - 1] == columns &&
           has_packed_rows<bf16>(view, columns);
  };
  return (dtype == DType::kBF16 || dtype == DType::kF16) && decode_batch_serves(args.batch) &&
         args.cache.shape[0] <= INT32_MAX && args.q_nope.shape[0] <= INT32_MAX && packed(args.out, kLatent) &&
         packed(args.q_nope, kLatent) && packed(args.q_rope, kRope) && packed(args.cache, kKey);
}

void mla_decode(const CudaContext& context, const ops::MlaDecodeArgs& args) {
  MlaDecode a{};
  a.out = args.out.data;
  a.q_nope = args.q_nope.data;
  a.q_rope = args.q_rope.data;
  a.cache = args.cache.data;
  a.out_row_stride = args.out.stride[0];
  a.out_head_stride = args.out.stride[1];
  a.nope_row_stride = args.q_nope.stride[0];
  a.nope_head_stride = args.q_nope.stride[1];
  a.rope_row_stride = args.q_rope.stride[0];
  a.rope_head_stride = args.q_rope.stride[1];
  a.slot_stride = args.cache.stride[0];
  a.num_slots = args.cache.shape[0];
  a.num_tokens = args.q_nope.shape[0];
  a.heads = static_cast<int>(args.q_nope.shape[1]);
  a.first_seq = args.first_seq;
  // Two blocks find room on a multiprocessor.
  const int64_t rows = int64_t{args.batch.max_seqs - args.first_seq} * ceil_div(a.heads, kHeads);
  a.cluster_size = cluster_size_of(rows, 2 * kBlocksAtOnce);
  a.page_size = Divider(args.batch.page_size);
  a.scale_log2 = args.scale * kLog2E;
  a.batch = args.batch;
  const AttentionTexts texts = WEFT_ATTENTION_TEXTS("mla_decode");
  if (args.cache.dtype == DType::kBF16) {
    launch_type<bf16>(context, texts, a);
  } else {
    launch_type<f16>(context, texts, a);
  }
}

}  // namespace weft::kernels
