#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "kernels/gemm/mma.cuh"
#include "kernels/gemm/product.cuh"

/// Products of few rows with the weights of many experts, bound by reading these once from memory.
///
/// A block has one of equal shares of the weights of all experts that got rows, cut into units of 16 * kTiles
/// weight rows. Each of its warps owns one segment of k (product.cuh), so bits are those of the other
/// kernels. Weights are the tensor core's A: each lane has a ring of its own for them, and each load is
/// followed by that of the next unit, so a warp always has 2 * kSteps * kTiles loads of 16 bytes a lane under
/// way. The rows of the expert, the tensor core's B, wait in shared memory.
///
/// With few rows the ring is in shared memory. It is in registers if rows leave no room there; but such loads
/// pass through the L1 cache, of which a kernel that is dispatched early may find little, so this one is not.
namespace weft::kernels {

struct ExpertGemm {
  void* out;               // [max_rows, n]
  const void* a;           // [a_rows, k]
  const void* w;           // [experts, n or 2 * n, k]
  const int32_t* offsets;  // [experts + 1]: expert e has rows [offsets[e], offsets[e + 1]) of out
  const int32_t* source;   // [max_rows]: the row of `a` of each row; null: the same
  int64_t out_stride, a_stride, w_stride, w_expert_stride;
  int64_t segment;
  int32_t n, k, experts, max_rows, a_rows;
  int32_t max_items;  // room for row blocks of all experts
  /// The kernel before this one is the expert_gemm_kernel of the first product, with the same offsets: it has
  /// seen their writer end before it let this one start, so they may be read, and weights with them, while it
  /// still runs.
  bool offsets_ready;
};

/// A block of an expert's rows.
struct ExpertItem {
  int32_t expert;
  int32_t first_row;
  int32_t rows;
};

struct ExpertTexts {
  const char* bad_offsets;
  const char* bad_source;
};

__device__ inline uint4 load_streamed(const void* from) {
#if WEFT_CUDA_EMULATED
  return *static_cast<const uint4*>(from);
#else
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
#endif
}

/// The blocks of kRows rows of every expert, in order, for a block of kSegments warps or more; how many there
/// are. scan: workspace [kSegments] in shared memory; items: there, with room for p.max_items.
template <int kRows>
__device__ int32_t find_items(const OpSite& site, const ExpertTexts& texts, const ExpertGemm& p,
                              int32_t* scan, ExpertItem* items) {
  constexpr int kThreads = kSegments * kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const volatile int32_t* const offsets = p.offsets;  // no cache may hold what stood here a layer ago
  int32_t num_items = 0;
  for (int32_t first = 0; first < p.experts; first += kThreads) {
    const int32_t e = first + static_cast<int32_t>(threadIdx.x);
    int32_t from = 0;
    int32_t to = 0;
    if (warp < kSegments && e < p.experts) {
      from = offsets[e];
      to = offsets[e + 1];
      if (from < 0 || from > to || to > p.max_rows) {
        if (blockIdx.x == 0) fail(site, texts.bad_offsets, e, from, to, p.max_rows);
        to = from = 0;
      }
    }
    const int32_t blocks = (to - from + kRows - 1) / kRows;
    int32_t until = blocks;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int32_t before = __shfl_up_sync(kAllLanes, until, step);
      if (lane >= step) until += before;
    }
    __syncthreads();
    if (warp < kSegments && lane == kWarpSize - 1) scan[warp] = until;
    __syncthreads();
    int32_t at = num_items + until - blocks;
    for (int w = 0; w < kSegments; ++w) {
      if (w < warp) at += scan[w];
      num_items += scan[w];
    }
    for (int32_t b = 0; b < blocks && at + b < p.max_items; ++b) {
      const int32_t first_row = from + b * kRows;
      items[at + b] = {e, first_row, min(to - first_row, kRows)};
    }
  }
  __syncthreads();
  return min(num_items, p.max_items);  // more if offsets were bad
}

/// kSilu: out = silu(gate) * up, where w holds n gate rows and then n up rows; else out = a * w^T.
template <class T_, int kSteps_, int kTiles_, int kRowBlocks_, bool kSilu_, int kBlocksPerSm_>
struct ExpertShape {
  using T = T_;
  static constexpr int kSteps = kSteps_;          // steps of 32 columns in the ring
  static constexpr int kTiles = kTiles_;          // of 16 weight rows
  static constexpr int kRowBlocks = kRowBlocks_;  // of 8 rows, that are computed at once
  static constexpr bool kSilu = kSilu_;
  static constexpr int kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kRows = 8 * kRowBlocks;
  static constexpr int kThreads = kSegments * kWarpSize;
  static constexpr int kTileColumns = kSilu ? 8 : 16;  // of out
  static constexpr int kUnitColumns = kTiles * kTileColumns;
  static constexpr bool kSharedRing = kRowBlocks == 1;
  static constexpr int kRing =
      kSharedRing ? kSteps * kTiles * 2 * kWarpSize : 0;       // accesses of a warp's ring
  static constexpr int kPartials = kTiles * kRowBlocks * 128;  // sums of a warp
  static constexpr int kBuffers = kRowBlocks == 3 ? 1 : 2;     // of partial sums

  static int32_t max_items(int64_t copies, int64_t experts) {
    const int64_t most = (copies < experts ? copies : experts) + copies / kRows;
    return static_cast<int32_t>(most < copies ? most : copies);
  }
  static size_t shared_bytes(int64_t segment, int32_t max_items) {
    return static_cast<size_t>(kSegments * (segment * kRows * 2 + kRing * 16) +
                               kBuffers * kSegments * kPartials * 4 + kSegments * 4 +
                               max_items * static_cast<int64_t>(sizeof(ExpertItem)));
  }
};

/// Calls f(std::integral_constant<int, n>) for 1 <= n <= kMost.
template <int kMost, class F>
__device__ void visit_row_blocks(int n, const F& f) {
  if constexpr (kMost == 1) {
    f(std::integral_constant<int, 1>{});
  } else if (n == kMost) {
    f(std::integral_constant<int, kMost>{});
  } else {
    visit_row_blocks<kMost - 1>(n, f);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    expert_gemm_kernel(OpSite site, ExpertTexts texts, ExpertGemm p) {
  using T = typename Shape::T;
  constexpr int kSteps = Shape::kSteps;
  constexpr int kTiles = Shape::kTiles;
  constexpr int kRowBlocks = Shape::kRowBlocks;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int g = lane / 4;
  const int t = lane % 4;
  const int steps = static_cast<int>(p.segment) / kStepK;
  uint4* const all_rows = dynamic_shared<uint4>();  // [segment][step][row][4]
  uint4* const rings = all_rows + int64_t{kSegments} * steps * Shape::kRows * 4;
  auto* const partial = reinterpret_cast<float*>(rings + kSegments * Shape::kRing);
  auto* const scan = reinterpret_cast<int32_t*>(partial + Shape::kBuffers * kSegments * Shape::kPartials);
  auto* const items = reinterpret_cast<ExpertItem*>(scan + kSegments);
  uint4* const my_rows = all_rows + int64_t{warp} * steps * Shape::kRows * 4;

  if (!p.offsets_ready) wait_for_inputs(site);
  let_next_start();  // not before the wait: see offsets_ready
  const int32_t num_items = find_items<Shape::kRows>(site, texts, p, scan, items);

  const int32_t units = (p.n + Shape::kUnitColumns - 1) / Shape::kUnitColumns;
  const int64_t all_units = int64_t{num_items} * units;
  const int64_t first_unit = all_units * blockIdx.x / gridDim.x;
  const int64_t end_unit = all_units * (blockIdx.x + 1) / gridDim.x;
  if (first_unit == end_unit) {
    if (p.offsets_ready) wait_for_inputs(site);
    return;
  }
  const int chunks = (steps + kSteps - 1) / kSteps;
  const int32_t segment_k = warp * static_cast<int32_t>(p.segment);
  // Columns of k of this lane's first access up to the end of its segment.
  const int32_t limit = min(static_cast<int32_t>(p.segment), p.k - segment_k) - 8 * t;

  // What is loaded next, one chunk ahead of what is computed.
  int32_t next_item = static_cast<int32_t>(first_unit / units);
  int32_t next_unit = static_cast<int32_t>(first_unit - int64_t{next_item} * units);
  int next_chunk = 0;
  int64_t left = (end_unit - first_unit) * chunks;  // chunks to load
  const T* next_w[kTiles][2];
  int32_t next_limit[kTiles][2];
  const auto aim = [&] {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int32_t column =
            next_unit * Shape::kUnitColumns + i * Shape::kTileColumns + g + (Shape::kSilu ? 0 : 8 * h);
        const int64_t row = column + (Shape::kSilu && h == 1 ? p.n : 0);
        const int32_t k = next_chunk * kSteps * kStepK;
        next_limit[i][h] = left > 0 && column < p.n ? limit - k : 0;
        next_w[i][h] = static_cast<const T*>(p.w) + int64_t{items[next_item].expert} * p.w_expert_stride +
                       row * p.w_stride + segment_k + k + 8 * t;
      }
    }
  };
  const auto advance = [&] {
    --left;
    if (++next_chunk == chunks) {
      next_chunk = 0;
      if (++next_unit == units) {
        next_unit = 0;
        if (left > 0) ++next_item;
      }
    }
    aim();
  };
  uint4* const shared_ring = rings + warp * Shape::kRing + lane;  // [step][tile][half][lane]: a lane's own
  uint4 ring[Shape::kSharedRing ? 1 : kSteps][kTiles][2];
  const auto load = [&](int s) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const bool exists = s * kStepK < next_limit[i][h];
        const T* const from = next_w[i][h] + s * kStepK;
        if constexpr (Shape::kSharedRing) {
          copy_async<true>(shared_ring + ((s * kTiles + i) * 2 + h) * kWarpSize,
                           exists ? from : static_cast<const T*>(p.w), exists);
        } else {
          ring[s][i][h] = exists ? load_streamed(from) : uint4{};
        }
      }
    }
    if constexpr (Shape::kSharedRing) commit_copies();
  };

  aim();
#pragma unroll
  for (int s = 0; s < kSteps; ++s) load(s);
  int32_t item = next_item;
  int32_t unit = next_unit;
  advance();
  if (p.offsets_ready) wait_for_inputs(site);

  bool new_item = true;
  int32_t first_row = 0;
  int32_t rows = 0;
  int buffer = 0;
  for (int64_t u = first_unit; u < end_unit; ++u) {
    if (new_item) {
      first_row = items[item].first_row;
      rows = items[item].rows;
      __syncwarp();
      // A warp's part of a row is contiguous, so neighbours copy along the row. Asynchronously only if no
      // weights are under way in that manner: to wait for some is to wait for all. A few loads at once then.
      constexpr int kAtOnce = Shape::kSharedRing ? 8 : 1;
      const int row_packs = steps * 4;
      const int count = rows * row_packs;
      const auto place = [&](int i) {
        const int in_row = i % row_packs;
        return my_rows + (in_row / 4 * Shape::kRows + i / row_packs) * 4 + in_row % 4;
      };
      for (int first = lane; first < count; first += kAtOnce * kWarpSize) {
        int32_t from[kAtOnce];  // row of a
        uint4 values[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int i = first + j * kWarpSize;
          from[j] = first_row + i / row_packs;
          if (p.source != nullptr && i < count) from[j] = p.source[from[j]];
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int i = first + j * kWarpSize;
          if (i >= count) continue;
          const int32_t k = 8 * (i % row_packs);
          const bool good = from[j] >= 0 && from[j] < p.a_rows;
          const bool exists = k < p.segment && segment_k + k < p.k;
          const T* const a = static_cast<const T*>(p.a) + (good ? from[j] : 0) * p.a_stride;
          const T* const at = exists ? a + segment_k + k : a;
          if constexpr (Shape::kSharedRing) {
            values[j] = exists ? *reinterpret_cast<const uint4*>(at) : uint4{};
          } else {
            copy_async(place(i), at, exists);
          }
        }
        // No report and no store stands between the loads, which would wait for each other.
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int i = first + j * kWarpSize;
          if (i >= count) continue;
          if constexpr (Shape::kSharedRing) *place(i) = values[j];
          if (from[j] < 0 || from[j] >= p.a_rows) {
            fail(site, texts.bad_source, first_row + i / row_packs, from[j], p.a_rows);
          }
        }
      }
      if constexpr (!Shape::kSharedRing) {
        commit_copies();
        wait_for_copies<0>();
      }
      __syncwarp();
      new_item = false;
    }
    float sums[kTiles][kRowBlocks][4] = {};
    // Straight code for each number of row blocks: a branch at each of them would keep loads from
    // overlapping.
    const auto compute = [&](auto blocks, int chunk) {
      const uint4* const chunk_rows = my_rows + int64_t{chunk} * kSteps * Shape::kRows * 4 + lane;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        if constexpr (Shape::kSharedRing) wait_for_copies<kSteps - 1>();
        if (chunk * kSteps + s < steps) {
          uint4(&weights)[kTiles][2] = ring[Shape::kSharedRing ? 0 : s];
          if constexpr (Shape::kSharedRing) {
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
#pragma unroll
              for (int h = 0; h < 2; ++h) weights[i][h] = shared_ring[((s * kTiles + i) * 2 + h) * kWarpSize];
            }
          }
#pragma unroll
          for (int r = 0; r < blocks; ++r) {
            const uint4 row = chunk_rows[(s * Shape::kRows + 8 * r) * 4];
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                uint32_t a[4];
                uint32_t b[2];
                as_a(a, weights[i][0], weights[i][1], half);
                as_b(b, row, half);
                mma_16x8x16<T>(sums[i][r], a, b);
              }
            }
          }
        }
        load(s);
      }
    };
    const int row_blocks = (rows + 7) / 8;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      visit_row_blocks<kRowBlocks>(row_blocks, [&](auto blocks) { compute(blocks, chunk); });
      advance();
    }
    float* const sums_of = partial + buffer * kSegments * Shape::kPartials;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int r = 0; r < kRowBlocks; ++r) {
        if (r >= row_blocks) break;
        float* const to = sums_of + (warp * kTiles * kRowBlocks + i * kRowBlocks + r) * 128 + g * 8 + 2 * t;
        *reinterpret_cast<Pack<float, 2>*>(to) = {sums[i][r][0], sums[i][r][1]};
        *reinterpret_cast<Pack<float, 2>*>(to + 64) = {sums[i][r][2], sums[i][r][3]};
      }
    }
    __syncthreads();
    // A thread has two columns of one row.
    constexpr int kPairs = Shape::kTileColumns / 2;
    for (int i = static_cast<int>(threadIdx.x); i < kTiles * kRowBlocks * kPairs * 8; i += Shape::kThreads) {
      const int tile = i / (kRowBlocks * kPairs * 8);
      const int block = i / (kPairs * 8) % kRowBlocks;
      const int pair = i / 8 % kPairs;
      const int row = 8 * block + i % 8;
      const int32_t column = unit * Shape::kUnitColumns + tile * Shape::kTileColumns + 2 * pair;
      if (row >= rows || column >= p.n) continue;
      const float* from = sums_of + (tile * kRowBlocks + block) * 128 + 2 * pair * 8 + i % 8;
      const auto total = [&](int at) {
        float sum = 0.0F;
#pragma unroll
        for (int s = 0; s < kSegments; ++s) sum += from[s * Shape::kPartials + at];
        return to_float(from_float<T>(sum));
      };
      Pack<T, 2> two;
      if constexpr (Shape::kSilu) {
        const float gate[2] = {total(0), total(8)};
        const float up[2] = {total(64), total(72)};
#pragma unroll
        for (int j = 0; j < 2; ++j) two.at[j] = from_float<T>(gate[j] / (1.0F + expf(-gate[j])) * up[j]);
      } else {
        two = {from_float<T>(total(0)), from_float<T>(total(8))};
      }
      T* out = static_cast<T*>(p.out) + (first_row + row) * p.out_stride + column;
      *reinterpret_cast<Pack<T, 2>*>(out) = two;
    }
    if constexpr (Shape::kBuffers == 1) {
      __syncthreads();
    } else {
      buffer ^= 1;
    }
    if (++unit == units) {
      unit = 0;
      ++item;
      new_item = true;
    }
  }
  if constexpr (Shape::kSharedRing) wait_for_copies<0>();
}

}  // namespace weft::kernels
