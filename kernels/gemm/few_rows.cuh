#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/common/cluster.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "kernels/gemm/mma.cuh"

/// Products of few rows of a: bound by reading w, so everything here is about bytes of w in flight.
///
/// A block has 16 * kRowTiles rows of w and 8 * kTokenTiles rows of a, which are all, or, if w is small, a
/// part of them: the other parts read w from the L2 cache. The blocks of a cluster cut k among themselves; a
/// block's part goes by chunks to its 8 warps in turn. Each warp sums its chunks from the first to the last,
/// then the warps' sums are added in order, then the blocks'. So a sum depends on n and k alone, not on the
/// number of rows.
///
/// A warp copies chunks of rows into its own queue in shared memory, whole lines at a time: that costs no
/// registers, and no barrier but the warp's. Weights are not written by kernels in flight, so the queue is
/// filled with them before the kernel waits for those; with programmatic launches they come while the kernel
/// before still runs.
namespace weft::kernels {

struct FewRows {
  void* out;
  const void* a;
  const void* w;
  const void* bias;  // null: none
  int64_t out_stride, out_product_stride;
  int64_t a_stride, a_product_stride;
  int64_t w_stride, w_product_stride;
  int64_t n, k;
  int32_t m;
  // What the launcher fills in.
  int32_t split;   // blocks of a cluster
  int32_t chunks;  // of k, for a block
  int32_t stages;  // of a queue: no more than are filled
};

constexpr int kFewWarps = 8;
constexpr int kFewThreads = kFewWarps * 32;
constexpr int kChunk = 64;               // columns of k: a line
constexpr int kChunkPacks = kChunk / 8;  // of 16 bytes

/// Where pack `pack` of row `row` stands: eight lanes that read four packs of two rows meet every bank once.
__device__ inline int few_rows_place(int row, int pack) { return row * kChunkPacks + (pack ^ (row % 2 * 4)); }

// kGated: the tiles are by turns of the first and of the second n rows of w (gate, up), and out is
// silu(gate) * up.
template <class T, class Out, int kRowTiles, int kTokenTiles, int kStages, bool kGated>
__global__ void __launch_bounds__(kFewThreads) few_rows_kernel(OpSite site, FewRows p) {
  static_assert(!kGated || kRowTiles % 2 == 0);
  let_next_start();
  if (p.split > 1) cluster_arrive_relaxed();
  constexpr int kTileRows = 16 * kRowTiles;
  constexpr int kTokens = 8 * kTokenTiles;
  constexpr int kColumns = kGated ? kTileRows / 2 : kTileRows;
  constexpr int kRowsAtOnce = 32 / kChunkPacks;  // that a warp copies with one instruction
  const int stage_packs = (kTileRows + (p.m < kTokens ? p.m : kTokens)) * kChunkPacks;
  const int first_token = static_cast<int>(blockIdx.y) * kTokens;
  const int num_tokens = p.m - first_token < kTokens ? p.m - first_token : kTokens;
  const int rank = static_cast<int>(blockIdx.x) % p.split;
  const int64_t column = static_cast<int64_t>(blockIdx.x) / p.split * kColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint4* const queue =
      dynamic_shared<uint4>() + warp * p.stages * stage_packs;  // [stage][row of w, of a][pack]

  // This warp's chunks: every eighth of the block's.
  const int64_t first_chunk = int64_t{rank} * p.chunks + warp;
  const int64_t all_chunks = (p.k + kChunk - 1) / kChunk;
  const int64_t until =
      all_chunks < (rank + 1) * int64_t{p.chunks} ? all_chunks : (rank + 1) * int64_t{p.chunks};
  const int steps =
      first_chunk < until ? static_cast<int>((until - first_chunk + kFewWarps - 1) / kFewWarps) : 0;

  const int copy_row = lane / kChunkPacks;
  const int copy_pack = lane % kChunkPacks;
  const int64_t copy_k = first_chunk * kChunk + copy_pack * 8;
  const T* const w_at = static_cast<const T*>(p.w) + int64_t{blockIdx.z} * p.w_product_stride +
                        (column + copy_row) * p.w_stride + copy_k;
  const auto fetch_w = [&](int step) {
    uint4* const to = queue + step % kStages * stage_packs;
    const int64_t ahead = int64_t{step} * (kFewWarps * kChunk);
    const bool inside = copy_k + ahead < p.k;
#pragma unroll
    for (int i = 0; i < kTileRows / kRowsAtOnce; ++i) {
      const int in_tile = i * kRowsAtOnce;
      const int r = in_tile / 16;
      const int row = (kGated ? r / 2 : r) * 16 + in_tile % 16;  // before copy_row
      const bool exists = inside && column + row + copy_row < p.n;
      const T* const from = w_at + (row + (kGated ? r % 2 * p.n : 0)) * p.w_stride + ahead;
      copy_async(to + few_rows_place(in_tile + copy_row, copy_pack),
                 exists ? from : static_cast<const T*>(p.w), exists);
    }
  };
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    if (s < steps) fetch_w(s);
  }
  wait_for_inputs(site);

  const T* const a_at = static_cast<const T*>(p.a) + int64_t{blockIdx.z} * p.a_product_stride +
                        (first_token + copy_row) * p.a_stride + copy_k;
  const auto fetch_a = [&](int step) {
    uint4* const to = queue + step % kStages * stage_packs + kTileRows * kChunkPacks;
    const int64_t ahead = int64_t{step} * (kFewWarps * kChunk);
    const bool inside = copy_k + ahead < p.k;
#pragma unroll
    for (int i = 0; i < kTokens / kRowsAtOnce; ++i) {
      const int row = i * kRowsAtOnce + copy_row;
      if (row < num_tokens) {
        copy_async(to + few_rows_place(row, copy_pack),
                   inside ? a_at + i * kRowsAtOnce * p.a_stride + ahead : static_cast<const T*>(p.a), inside);
      }
    }
  };
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    if (s < steps) fetch_a(s);
    commit_copies();
  }
  const int g = lane / 4;
  const int t = lane % 4;
  float sums[kRowTiles][kTokenTiles][4] = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 1>();
    __syncwarp();
    const uint4* const from = queue + step % kStages * stage_packs;
#pragma unroll
    for (int part = 0; part < kChunkPacks / 4; ++part) {
      uint4 a[kTokenTiles];
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        a[j] = 8 * j + g < num_tokens
                   ? from[kTileRows * kChunkPacks + few_rows_place(8 * j + g, 4 * part + t)]
                   : uint4{};
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const uint4 upper = from[few_rows_place(16 * r + g, 4 * part + t)];
        const uint4 lower = from[few_rows_place(16 * r + 8 + g, 4 * part + t)];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t w_part[4];
          as_a(w_part, upper, lower, half);
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            uint32_t a_part[2];
            as_b(a_part, a[j], half);
            mma_16x8x16<T>(sums[r][j], w_part, a_part);
          }
        }
      }
    }
    __syncwarp();  // nobody reads this stage any more
    if (step + kStages < steps) {
      fetch_w(step + kStages);
      fetch_a(step + kStages);
    }
    commit_copies();
  }

  // The warp's queue is empty: its sums take that place.
  float4* const partial = dynamic_shared<float4>();  // [warp][tile][lane]
  const int warp_stride = p.stages * stage_packs;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      partial[warp * warp_stride + (r * kTokenTiles + j) * 32 + lane] =
          float4{sums[r][j][0], sums[r][j][1], sums[r][j][2], sums[r][j][3]};
    }
  }
  __syncthreads();
  constexpr int kTiles = kRowTiles * kTokenTiles;
  constexpr int kPerThread = (kTiles * 32 + kFewThreads - 1) / kFewThreads;
  // Tile i / 32 of the lane i % 32.
  float4 mine[kPerThread];
#pragma unroll
  for (int q = 0; q < kPerThread; ++q) {
    const int i = static_cast<int>(threadIdx.x) + q * kFewThreads;
    if (i >= kTiles * 32) continue;
    float4 sum = partial[i];
#pragma unroll
    for (int other = 1; other < kFewWarps; ++other) {
      const float4 more = partial[other * warp_stride + i];
      sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
    mine[q] = sum;
  }
  // Where the blocks' sums meet: in the first block, which may still use its queue.
  float4* const meeting = partial + kFewWarps * warp_stride;  // [rank][tile, lane]
  if (p.split > 1) {
    cluster_wait();  // every block has begun
#pragma unroll
    for (int q = 0; q < kPerThread; ++q) {
      const int i = static_cast<int>(threadIdx.x) + q * kFewThreads;
      if (i < kTiles * 32) store_to_block(meeting + rank * kTiles * 32 + i, 0, mine[q]);
    }
    cluster_arrive();
    if (rank != 0) return;
    cluster_wait();
#pragma unroll
    for (int q = 0; q < kPerThread; ++q) {
      const int i = static_cast<int>(threadIdx.x) + q * kFewThreads;
      if (i >= kTiles * 32) continue;
      float4 sum = mine[q];
      for (int other = 1; other < p.split; ++other) {
        const float4 more = meeting[other * kTiles * 32 + i];
        sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
      }
      mine[q] = sum;
    }
  }
  if constexpr (kGated) {
    // Gate and up of one element are a multiple of 32 tiles' lanes apart, in other threads.
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kPerThread; ++q) {
      const int i = static_cast<int>(threadIdx.x) + q * kFewThreads;
      if (i < kTiles * 32) partial[i] = mine[q];
    }
    __syncthreads();
  }
#pragma unroll
  for (int q = 0; q < kPerThread; ++q) {
    const int i = static_cast<int>(threadIdx.x) + q * kFewThreads;
    if (i >= kTiles * 32) continue;
    const int r = i / 32 / kTokenTiles;
    const int j = i / 32 % kTokenTiles;
    if (kGated && r % 2 != 0) continue;
    const float of[4] = {mine[q].x, mine[q].y, mine[q].z, mine[q].w};
    float up[4] = {};
    if constexpr (kGated) {
      const float4 ups = partial[i + kTokenTiles * 32];
      up[0] = ups.x, up[1] = ups.y, up[2] = ups.z, up[3] = ups.w;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t at = column + (kGated ? r / 2 : r) * 16 + i % 32 / 4 + (e >= 2 ? 8 : 0);
      const int token = 8 * j + 2 * (i % 4) + e % 2;
      if (at >= p.n || token >= num_tokens) continue;
      float value = of[e];
      if constexpr (kGated) {
        // Rounded as if they had been stored in between.
        const float gate = to_float(from_float<T>(value));
        value = gate / (1.0F + expf(-gate)) * to_float(from_float<T>(up[e]));
      } else if (p.bias != nullptr) {
        value += to_float(static_cast<const T*>(p.bias)[at]);
      }
      Out* const row = static_cast<Out*>(p.out) + int64_t{blockIdx.z} * p.out_product_stride +
                       (first_token + token) * p.out_stride;
      row[at] = from_float<Out>(value);
    }
  }
}

/// How a block is cut.
template <int kRowTiles_, int kStages_>
struct FewRowsTile {
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kStages = kStages_;
};

template <class T, class Out, int kTokenTiles, bool kGated, class Tile>
void launch_few_rows_tile(const CudaContext& context, FewRows p, int64_t split, int64_t products, Tile) {
  constexpr int64_t kColumns = 16 * (kGated ? Tile::kRowTiles / 2 : Tile::kRowTiles);
  constexpr int32_t kTokens = 8 * kTokenTiles;
  p.split = static_cast<int32_t>(split);
  p.chunks = static_cast<int32_t>(ceil_div<int64_t>(ceil_div<int64_t>(p.k, kChunk), split));
  const int32_t steps = ceil_div(p.chunks, kFewWarps);
  p.stages = steps < 1 ? 1 : steps < Tile::kStages ? steps : Tile::kStages;
  const int64_t queues =
      int64_t{kFewWarps} * p.stages * (16 * Tile::kRowTiles + std::min(p.m, kTokens)) * kChunkPacks;
  const int64_t meeting = split > 1 ? split * Tile::kRowTiles * kTokenTiles * 32 : 0;
  launch<&few_rows_kernel<T, Out, Tile::kRowTiles, kTokenTiles, Tile::kStages, kGated>>(
      context,
      {.grid = dim3(grid_x(ceil_div(p.n, kColumns) * split), static_cast<unsigned>(ceil_div(p.m, kTokens)),
                    static_cast<unsigned>(products)),
       .block = dim3(kFewThreads),
       .shared_bytes = static_cast<size_t>(queues + meeting) * sizeof(uint4),
       .cluster_blocks = static_cast<unsigned>(split)},
      context.site, p);
}

/// The most rows of a that launch_few_rows() serves, for `w_rows` rows of w in all, of k columns. Wide
/// matrices keep many multiprocessors busy anyway, and then the tiles for many rows are as fast. Small ones,
/// such as a router's, are read again from the L2 cache sooner than a kernel for many rows starts.
inline int64_t max_few_rows(int64_t w_rows, int64_t k) {
  constexpr int64_t kSmall = 1 << 20;
  if (w_rows * k <= kSmall) return 256;
  return w_rows <= 4224 ? 32 : 16;
}

/// Blocks of a cluster: one, unless the matrix has too few rows to keep a large GPU reading. By its shape
/// alone, not by the GPU, since sums depend on it.
inline int64_t few_rows_split(int64_t w_rows, int64_t k) {
  constexpr int64_t kBlocks = 100;
  int64_t split = 1;
  while (split < 4 && ceil_div<int64_t>(w_rows, 16) * split < kBlocks &&
         k >= 2 * split * kFewWarps * kChunk) {
    split *= 2;
  }
  return split;
}

/// `products` of 1 to max_few_rows() rows each; rows of a and w are dense, 16-byte aligned, and of whole 16
/// bytes. Rows up to 16 are one class, in which a row's bits do not depend on their number; more are another.
///
/// Tiles are as measured on an H200: a block for each multiprocessor and a deep queue where w has few rows,
/// more blocks with short queues where it has many.
template <class T, class Out, bool kGated>
void launch_few_rows(const CudaContext& context, const FewRows& p, int64_t products) {
  if (products > 65535) device::cuda::refuse_op("gemm", "more than 65535 products");
  const int64_t w_rows = p.n * (kGated ? 2 : 1) * products;
  const int64_t split = few_rows_split(w_rows, p.k);
  const bool is_narrow = w_rows <= 2112;
  const bool is_middling = w_rows <= 4224;
  const auto launch_tile = [&](auto tokens, auto tile) {
    launch_few_rows_tile<T, Out, decltype(tokens)::value, kGated>(context, p, split, products, tile);
  };
  constexpr std::integral_constant<int, 1> kEight;
  constexpr std::integral_constant<int, 2> kSixteen;
  if (p.m > 16) {
    const bool halved = is_narrow && split == 1 && p.k >= 2 * kFewWarps * kChunk;
    launch_few_rows_tile<T, Out, 4, kGated>(context, p, halved ? 2 : split, products, FewRowsTile<2, 2>{});
  } else if constexpr (kGated) {
    p.m <= 8 ? launch_tile(kEight, FewRowsTile<2, 2>{}) : launch_tile(kSixteen, FewRowsTile<2, 2>{});
  } else if constexpr (std::is_same_v<T, bf16> && std::is_same_v<Out, bf16>) {
    if (is_narrow) {
      p.m <= 8 ? launch_tile(kEight, FewRowsTile<1, 6>{}) : launch_tile(kSixteen, FewRowsTile<1, 4>{});
    } else if (is_middling && p.k <= 1024) {
      p.m <= 8 ? launch_tile(kEight, FewRowsTile<4, 2>{}) : launch_tile(kSixteen, FewRowsTile<4, 2>{});
    } else if (is_middling) {
      p.m <= 8 ? launch_tile(kEight, FewRowsTile<2, 4>{}) : launch_tile(kSixteen, FewRowsTile<2, 4>{});
    } else if (p.m <= 8 && w_rows <= 16384) {
      launch_tile(kEight, FewRowsTile<1, 3>{});
    } else {
      p.m <= 8 ? launch_tile(kEight, FewRowsTile<2, 2>{}) : launch_tile(kSixteen, FewRowsTile<2, 2>{});
    }
  } else if (is_narrow) {
    p.m <= 8 ? launch_tile(kEight, FewRowsTile<1, 4>{}) : launch_tile(kSixteen, FewRowsTile<1, 4>{});
  } else {
    p.m <= 8 ? launch_tile(kEight, FewRowsTile<2, 2>{}) : launch_tile(kSixteen, FewRowsTile<2, 2>{});
  }
}

}  // namespace weft::kernels
