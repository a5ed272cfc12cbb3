// plan_prefill: one block cuts the prompts of a step into tiles and sorts these by length, longest first.
#include "kernels/attention/prefill_plan.h"
#include "kernels/attention/sequences.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 512;
constexpr AttentionTexts kTexts = WEFT_ATTENTION_TEXTS("plan_prefill");

struct Plan {
  int32_t* memory;
  PrefillPlanLayout layout;
  SequenceBatch batch;
  int64_t num_prefill_seqs;
  int64_t num_tokens;
  int64_t num_slots;

  __device__ PrefillTile* tiles() const { return reinterpret_cast<PrefillTile*>(memory + layout.tiles()); }
  __device__ PrefillTile* unsorted_tiles() const {
    return reinterpret_cast<PrefillTile*>(memory + layout.unsorted_tiles());
  }
  __device__ int32_t* first_tile() const { return memory + layout.first_tile(); }
  __device__ int32_t* kv_begin() const { return memory + layout.kv_begin(); }
};

/// Rows of a sequence that can be computed; reports what is wrong with the lengths of others.
__device__ inline int64_t rows_of(const OpSite& site, const AttentionTexts& texts, const Plan& plan,
                                  int64_t s) {
  const SequenceLengths lengths(plan.batch, s);
  if (!check_sequence(site, texts, plan.batch, lengths, plan.num_tokens, s, true)) return 0;
  return lengths.end_row - lengths.begin_row;
}

/// Keys that the last row of a tile sees: what a tile costs.
__device__ inline int32_t keys_of(const PrefillTile& tile) {
  const int32_t end = (tile.index + 1) * PrefillPlanLayout::kTileRows;
  return tile.kv_len - tile.q_len + (end < tile.q_len ? end : tile.q_len);
}

/// Replaces values[0 .. n) by the sums of those before them, and sets values[n] to the sum of all.
__device__ inline void exclusive_scan(int32_t* values, int64_t n, int32_t* warp_sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int32_t before = 0;
  for (int64_t first = 0; first < n; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const int32_t value = i < n ? values[i] : 0;
    int32_t sum = value;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int32_t other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(step));
      if (lane >= step) sum += other;
    }
    __syncthreads();
    if (lane == kWarpSize - 1) warp_sums[warp] = sum;
    __syncthreads();
    int32_t total = 0;
    int32_t mine = before + sum - value;
    for (int w = 0; w < kThreads / kWarpSize; ++w) {
      if (w < warp) mine += warp_sums[w];
      total += warp_sums[w];
    }
    if (i < n) values[i] = mine;
    before += total;
  }
  if (threadIdx.x == 0) values[n] = before;
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) plan_kernel(OpSite site, AttentionTexts texts, Plan plan) {
  __shared__ int32_t warp_sums[kThreads / kWarpSize];
  wait_for_inputs(site);
  const SequenceBatch& batch = plan.batch;
  int64_t num_seqs = *batch.num_seqs;
  if (!check_num_seqs(site, texts, batch, num_seqs, threadIdx.x == 0)) num_seqs = 0;
  if (num_seqs > plan.num_prefill_seqs) num_seqs = plan.num_prefill_seqs;

  // The tiles of each sequence: none if it is bad, so that attention touches nothing outside the caches.
  for (int64_t s = threadIdx.x; s < num_seqs; s += kThreads) {
    const int64_t rows = rows_of(site, texts, plan, s);
    plan.first_tile()[s] =
        static_cast<int32_t>((rows + PrefillPlanLayout::kTileRows - 1) / PrefillPlanLayout::kTileRows);
    plan.kv_begin()[s] = rows > 0 ? batch.kv_len[s] : 0;
  }
  __syncthreads();
  // A group of threads a sequence looks at its pages, so that neither many prompts nor long ones take long.
  int group = kThreads;
  while (group > kWarpSize && group * num_seqs > kThreads) group /= 2;
  const int in_group = static_cast<int>(threadIdx.x) % group;
  for (int64_t s = static_cast<int>(threadIdx.x) / group; s < num_seqs; s += kThreads / group) {
    const int64_t kv_len = plan.kv_begin()[s];
    const int32_t* pages = batch.page_table + s * batch.page_table_stride;
    for (int64_t p = in_group; p * batch.page_size < kv_len; p += group) {
      const int64_t first = int64_t{pages[p]} * batch.page_size;
      const int64_t rest = kv_len - p * batch.page_size;
      const int64_t last = first + (rest < batch.page_size ? rest : batch.page_size) - 1;
      if (first >= 0 && last < plan.num_slots) continue;
      fail(site, texts.bad_page, p * batch.page_size, s, pages[p], plan.num_slots);
      plan.first_tile()[s] = 0;
    }
  }
  __syncthreads();
  exclusive_scan(plan.first_tile(), num_seqs, warp_sums);
  exclusive_scan(plan.kv_begin(), num_seqs, warp_sums);

  // Rows that several sequences claim could make more tiles than there is room for.
  int64_t num_tiles = plan.first_tile()[num_seqs];
  if (num_tiles > plan.layout.max_tiles) num_tiles = plan.layout.max_tiles;
  for (int64_t t = threadIdx.x; t < num_tiles; t += kThreads) {
    int64_t low =
        0;  // the last sequence that begins at or before tile t: sequences without tiles stand before
    int64_t high = num_seqs;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (plan.first_tile()[middle] <= t) {
        low = middle;
      } else {
        high = middle;
      }
    }
    plan.unsorted_tiles()[t] = {.seq = static_cast<int32_t>(low),
                                .index = static_cast<int32_t>(t) - plan.first_tile()[low],
                                .q_begin = batch.cu_q[low],
                                .q_len = batch.cu_q[low + 1] - batch.cu_q[low],
                                .kv_len = batch.kv_len[low],
                                .kv_begin = plan.kv_begin()[low],
                                .unused = {}};
  }
  __syncthreads();
  for (int64_t t = threadIdx.x; t < num_tiles; t += kThreads) {
    const PrefillTile tile = plan.unsorted_tiles()[t];
    const int32_t keys = keys_of(tile);
    int64_t place = 0;
    for (int64_t other = 0; other < num_tiles; ++other) {
      const int32_t other_keys = keys_of(plan.unsorted_tiles()[other]);
      place += other_keys > keys || (other_keys == keys && other < t) ? 1 : 0;
    }
    plan.tiles()[place] = tile;
  }
  if (threadIdx.x == 0) {
    plan.memory[PrefillPlanLayout::kNumTiles] = static_cast<int32_t>(num_tiles);
    plan.memory[PrefillPlanLayout::kNumSeqs] = static_cast<int32_t>(num_seqs);
  }
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

int64_t prefill_plan_size(int64_t max_tokens, int64_t max_seqs) {
  return PrefillPlanLayout(max_tokens, max_seqs).size();
}

void plan_prefill(const PrefillPlanArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const Plan plan{.memory = args.plan.as<int32_t>(),
                  .layout = PrefillPlanLayout(args.num_tokens, args.batch.max_seqs),
                  .batch = args.batch,
                  .num_prefill_seqs = args.num_prefill_seqs,
                  .num_tokens = args.num_tokens,
                  .num_slots = args.num_slots};
  launch<&plan_kernel>(cuda, {.block = dim3(kThreads)}, cuda.site, kTexts, plan);
}

}  // namespace weft::ops::cuda
