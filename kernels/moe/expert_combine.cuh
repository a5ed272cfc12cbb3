#pragma once

#include "kernels/moe/expert_gemm.cuh"
#include "kernels/moe/places.cuh"

/// The second product of a few tokens' experts and the weighted sum of its rows, in one kernel.
///
/// A block has 16 * kTiles columns of the result and goes through all experts that got rows; as in
/// expert_gemm_kernel a warp owns one segment of k, weights are the tensor core's A, and each lane has a ring
/// of its own in shared memory. So blocks do not wait for each other, and the bits are those of
/// expert_gemm_kernel and moe_unpermute.
namespace weft::kernels {

struct ExpertCombine {
  ExpertGemm product;  // of the rows of experts; its out is not written
  void* out;           // [rows, n]
  int64_t out_stride;
  const int32_t* position;  // [rows, top_k]
  const float* weights;     // [rows, top_k]
  int64_t position_stride, weights_stride;
  const int32_t* num_rows;  // null: all
  int32_t rows, top_k;
};

struct CombineTexts {
  ExpertTexts product;
  const char* bad_rows;
  const char* bad_position;
};

constexpr int kCombineRows = 8;     // tokens at most: no expert has more rows than the tensor core's B
constexpr int kCombineCopies = 64;  // rows * top_k at most

template <class T_, int kTiles_, int kStages_, int kRounds_>
struct CombineShape {
  using T = T_;
  static constexpr int kTiles = kTiles_;    // of 16 columns
  static constexpr int kStages = kStages_;  // steps of 32 columns of k in a ring
  static constexpr int kRounds = kRounds_;  // items of a team between barriers
  static constexpr int kTeams = 2;
  static constexpr int kThreads = kTeams * kSegments * kWarpSize;
  static constexpr int kColumns = 16 * kTiles;
  static constexpr int kAccesses = 2 * kTiles + 1;  // of a lane, a step: weights, then a row
  static constexpr int kRing = kStages * kAccesses * kWarpSize;
  static constexpr int kPartials = kTiles * 128;  // sums of a warp
  static constexpr size_t kSharedBytes = size_t{kTeams} * kSegments * (kRing * 16 + kRounds * kPartials * 4) +
                                         size_t{kCombineCopies} * (kColumns * 2 + 8 + sizeof(ExpertItem)) +
                                         kSegments * 4;
  static_assert(kSharedBytes <= size_t{device::cuda::kSharedBytesOfBlock});
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    expert_combine_kernel(OpSite site, CombineTexts texts, ExpertCombine c) {
  using T = typename Shape::T;
  constexpr int kTiles = Shape::kTiles;
  constexpr int kStages = Shape::kStages;
  constexpr int kTeams = Shape::kTeams;
  const ExpertGemm& p = c.product;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const int team = warp / kSegments;
  const int lane = thread % kWarpSize;
  const int g = lane / 4;
  const int t = lane % 4;
  uint4* const rings = dynamic_shared<uint4>();  // [warp][stage][access][lane]
  // [round][warp]
  auto* const partial = reinterpret_cast<float*>(rings + kTeams * kSegments * Shape::kRing);
  constexpr int kRoundPartials = kTeams * kSegments * Shape::kPartials;
  auto* const position = reinterpret_cast<int32_t*>(partial + Shape::kRounds * kRoundPartials);
  auto* const weights = reinterpret_cast<float*>(position + kCombineCopies);
  auto* const scan = reinterpret_cast<int32_t*>(weights + kCombineCopies);
  auto* const items = reinterpret_cast<ExpertItem*>(scan + kSegments);
  T* const results = reinterpret_cast<T*>(items + kCombineCopies);  // [copy][column]
  uint4* const ring = rings + warp * Shape::kRing + lane;

  let_next_start();
  // offsets are there already: see offsets_ready.
  const int32_t num_items = find_items<kCombineRows>(site, texts.product, p, scan, items);
  const int32_t column = static_cast<int32_t>(blockIdx.x) * Shape::kColumns;
  const int steps = static_cast<int>(p.segment) / kStepK;
  const int32_t segment_k = warp % kSegments * static_cast<int32_t>(p.segment);
  // Columns of k of this lane's first access up to the end of its segment.
  const int32_t limit = min(static_cast<int32_t>(p.segment), p.k - segment_k) - 8 * t;

  // A step of an item of this team, and where this lane's accesses of the item's first step are.
  struct Place {
    int32_t item;
    int step;
    const T* weights;
    const T* row;
    bool has_row;
  };
  const auto aim = [&](Place& at) {
    at.step = 0;
    at.has_row = false;
    if (at.item >= num_items) return;
    const ExpertItem item = items[at.item];
    const int64_t k = segment_k + 8 * t;
    at.weights = static_cast<const T*>(p.w) + item.expert * p.w_expert_stride + (column + g) * p.w_stride + k;
    at.row = static_cast<const T*>(p.a) + (item.first_row + g) * p.a_stride + k;
    at.has_row = g < item.rows;
  };
  const auto advance = [&](Place& at) {
    if (++at.step < steps) return;
    at.item += kTeams;
    aim(at);
  };
  const auto load_weights = [&](const Place& at, int stage) {
    const bool inside = at.item < num_items && at.step * kStepK < limit;
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      const bool exists = inside && column + 8 * i + g < p.n;
      copy_async<true>(
          ring + (stage * Shape::kAccesses + i) * kWarpSize,
          exists ? at.weights + 8 * i * p.w_stride + at.step * kStepK : static_cast<const T*>(p.w), exists);
    }
  };
  const auto load_row = [&](const Place& at, int stage) {
    const bool exists = at.has_row && at.step * kStepK < limit;
    copy_async(ring + (stage * Shape::kAccesses + 2 * kTiles) * kWarpSize,
               exists ? at.row + at.step * kStepK : static_cast<const T*>(p.a), exists);
  };

  Place next{.item = team, .step = 0, .weights = nullptr, .row = nullptr, .has_row = false};
  aim(next);
  Place next_row = next;
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    load_weights(next, s);
    advance(next);
  }
  wait_for_inputs(site);
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    load_row(next_row, s);
    advance(next_row);
    commit_copies();
  }
  const auto rows = static_cast<int32_t>(existing_rows(c.num_rows, c.rows));
  if (blockIdx.x == 0 && thread == 0 && c.num_rows != nullptr && *c.num_rows != rows) {
    fail(site, texts.bad_rows, *c.num_rows, c.rows);
  }
  if (thread < rows * c.top_k) {
    const int32_t r = thread / c.top_k;
    const int32_t k = thread % c.top_k;
    const int32_t place = c.position[r * c.position_stride + k];
    const bool bad = place < -1 || place >= p.max_rows;
    if (bad && blockIdx.x == 0) fail(site, texts.bad_position, r, k, place, p.max_rows);
    position[thread] = bad ? -1 : place;
    weights[thread] = c.weights[r * c.weights_stride + k];
  }

  int stage = 0;
  for (int32_t first = 0; first < num_items; first += Shape::kRounds * kTeams) {
    const int32_t items_at_once = min(Shape::kRounds * kTeams, num_items - first);
    for (int32_t i = team; i < items_at_once; i += kTeams) {
      float sums[kTiles][4] = {};
      for (int step = 0; step < steps; ++step) {
        wait_for_copies<kStages - 1>();
        const uint4* const from = ring + stage * Shape::kAccesses * kWarpSize;
        const uint4 row = from[2 * kTiles * kWarpSize];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const uint4 upper = from[2 * tile * kWarpSize];
          const uint4 lower = from[(2 * tile + 1) * kWarpSize];
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            uint32_t a[4];
            uint32_t b[2];
            as_a(a, upper, lower, half);
            as_b(b, row, half);
            mma_16x8x16<T>(sums[tile], a, b);
          }
        }
        load_weights(next, stage);
        load_row(next, stage);
        advance(next);
        commit_copies();
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
      // Warps are in order of team: [item][segment].
      float* const sums_of = partial + (i / kTeams * kTeams * kSegments + warp) * Shape::kPartials;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        float* const to = sums_of + tile * 128 + g * 8 + 2 * t;
        *reinterpret_cast<Pack<float, 2>*>(to) = {sums[tile][0], sums[tile][1]};
        *reinterpret_cast<Pack<float, 2>*>(to + 64) = {sums[tile][2], sums[tile][3]};
      }
    }
    __syncthreads();
    for (int i = thread; i < items_at_once * Shape::kPartials; i += Shape::kThreads) {
      const ExpertItem item = items[first + i / Shape::kPartials];
      const int at = i % Shape::kPartials;
      const int r = at % 8;
      const int32_t copy = item.first_row + r;
      if (r >= item.rows || copy >= kCombineCopies) continue;
      const float* const of_item = partial + i / Shape::kPartials * kSegments * Shape::kPartials + at;
      float sum = 0.0F;
#pragma unroll
      for (int s = 0; s < kSegments; ++s) sum += of_item[s * Shape::kPartials];
      results[copy * Shape::kColumns + at / 8] = from_float<T>(sum);
    }
    __syncthreads();
  }
  wait_for_copies<0>();
  __syncthreads();  // position and weights are there even if no item is
  for (int i = thread; i < rows * Shape::kColumns; i += Shape::kThreads) {
    const int r = i / Shape::kColumns;
    const int at = i % Shape::kColumns;
    if (column + at >= p.n) continue;
    float sum = 0.0F;
    for (int32_t k = 0; k < c.top_k; ++k) {
      const int32_t place = position[r * c.top_k + k];
      if (place >= 0) {
        sum = fmaf(weights[r * c.top_k + k], to_float(results[place * Shape::kColumns + at]), sum);
      }
    }
    static_cast<T*>(c.out)[r * c.out_stride + column + at] = from_float<T>(sum);
  }
}

}  // namespace weft::kernels
