// group_copies and route_and_group.
//
// any rows: a block an expert counts the copies of all experts before it, then places its own.
// few rows: one block, or one cluster of blocks that have a run of rows each. As an expert is chosen once a
//   row, a bit for each (expert, row) says what was chosen, and places are counts of bits. Blocks read each
//   other's bits. Nothing is written to memory before, as the cluster's barrier would wait for it.
#include <algorithm>

#include "kernels/common/cluster.cuh"
#include "kernels/moe/places.cuh"
#include "kernels/moe/route.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;

struct Groups {
  int32_t* offsets;
  int32_t* source;
  int32_t* position;
  int64_t position_stride;
  int32_t num_experts, first_expert, total_experts;
  int32_t alignment;
  int32_t max_rows;

  __device__ int32_t aligned(int32_t row) const { return (row + alignment - 1) / alignment * alignment; }
  __device__ bool has(int32_t id) const { return id >= first_expert && id - first_expert < num_experts; }
  /// Says that nothing stands in rows [begin, end), by threads of which this is number `thread`.
  __device__ void clear(int32_t begin, int32_t end, int thread, int num_threads) const {
#pragma unroll 1
    for (int32_t r = begin + thread; r < end && r < max_rows; r += num_threads) source[r] = -1;
  }
};

constexpr char kBadRows[] = "group_copies: num_rows={}, but the tensors hold {} rows";
constexpr char kBadId[] = "group_copies: ids[{}, {}] is {}; expert ids lie in 0..{}, or are -1";
constexpr char kFull[] =
    "group_copies: the copies end at row {}, but there is room for {}; derive max_rows from the rows that "
    "may arrive";
struct GroupTexts {
  const char* bad_rows;
  const char* bad_id;
  const char* full;
};
constexpr GroupTexts kTexts{kBadRows, kBadId, kFull};

__global__ void __launch_bounds__(kThreads)
    group_kernel(OpSite site, GroupTexts texts, Groups groups, CopyIds ids) {
  __shared__ int32_t scratch[kWarps];
  let_next_start();
  wait_for_inputs(site);
  auto* counts = dynamic_shared<int32_t>();  // [num_experts]
  const int32_t rows = ids.existing();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const bool exists = expert < groups.num_experts;
  const int thread = static_cast<int>(threadIdx.x);
  if (expert == 0 && thread == 0 && ids.num_rows != nullptr && *ids.num_rows != rows) {
    fail(site, texts.bad_rows, *ids.num_rows, ids.rows);
  }
  for (int32_t e = thread; e < expert; e += kThreads) counts[e] = 0;
  __syncthreads();
  const CopyRun run = run_of_warp<kThreads>(rows * ids.top_k);
  const int32_t placed = exists ? groups.first_expert + expert : -1;
  int32_t count = 0;
  const int32_t before =
      count_copies<kThreads>(run, ids, placed, scratch, count, [&](int32_t copy, int32_t id) {
        if (groups.has(id) && id < placed) atomicAdd(&counts[id - groups.first_expert], 1);
        if (expert == 0 && (id < -1 || id >= groups.total_experts)) {
          fail(site, texts.bad_id, copy / ids.top_k, copy % ids.top_k, id, groups.total_experts - 1);
        }
      });
  int32_t start = 0;
  for (int32_t e = thread; e < expert; e += kThreads) start += groups.aligned(counts[e]);
  start = block_reduce(start, scratch, Sum{});
  const int32_t end = exists ? start + count : 0;
  if (thread == 0) {
    if (expert == 0) groups.offsets[0] = 0;
    if (exists) groups.offsets[expert + 1] = end;
    if (expert == groups.num_experts - 1 && end > groups.max_rows)
      fail(site, texts.full, end, groups.max_rows);
  }
  place_copies(
      run, ids, placed, before,
      [&](int32_t copy, int32_t n) {
        const bool fits = exists && start + n < groups.max_rows;
        groups.position[ids.place_of(copy, groups.position_stride)] = fits ? start + n : -1;
        if (fits) groups.source[start + n] = copy / ids.top_k;
      },
      [&](int32_t copy, int32_t id) {
        if (expert == 0 && !groups.has(id)) groups.position[ids.place_of(copy, groups.position_stride)] = -1;
      });
  const int32_t next = expert + 1 < groups.num_experts ? groups.aligned(end) : groups.max_rows;
  groups.clear(end, next, thread, kThreads);
}

/// What the blocks of a few-rows launch do: block b has the rows [b * block_rows, (b + 1) * block_rows).
struct FewRows {
  int32_t blocks;  // one cluster
  int32_t block_rows;
  int32_t words;  // of 32 rows, in a block
};

constexpr int32_t kMaxTopK = kWarpSize;       // a lane a choice
constexpr int32_t kOneBlockRows = 16;         // more rows are worth a cluster
constexpr int32_t kFewRows = 512;             // of a cluster; more are better chosen by the whole GPU
constexpr int64_t kFewRowsShared = 96 << 10;  // bytes that a block of any GPU may have

/// The sum of `value` over the threads before this one. Of the warps, the first num_warps have values that
/// are not 0. scratch: one a warp. Has one barrier, and begins with none.
__device__ int32_t sum_before(int32_t value, int32_t* scratch, int num_warps) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int32_t until = value;
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int32_t before = __shfl_up_sync(kAllLanes, until, step);
    if (lane >= step) until += before;
  }
  if (lane == kWarpSize - 1) scratch[warp] = until;
  __syncthreads();
  int32_t before = until - value;
#pragma unroll 4
  for (int w = 0; w < num_warps && w < warp; ++w) before += scratch[w];
  return before;
}

/// Copies of local expert e in rows of the blocks before this one, and in all rows. chosen: [words][experts].
struct ExpertCount {
  int32_t before, all;
};
__device__ ExpertCount count_rows_of(const FewRows& few, const uint32_t* chosen, int32_t num_experts,
                                     int32_t e) {
  const auto rank = static_cast<int>(blockIdx.x);
  ExpertCount count{0, 0};
#pragma unroll 1
  for (int w = 0; w < few.words; ++w) {
    const uint32_t* const here = chosen + w * num_experts + e;
    if (few.blocks == 1) {
      count.all += __popc(*here);
      continue;
    }
    uint32_t bits[kMaxCluster];
#pragma unroll
    for (int b = 0; b < kMaxCluster; ++b) bits[b] = load_from_block(here, b);
#pragma unroll
    for (int b = 0; b < kMaxCluster; ++b) {
      const int32_t n = __popc(bits[b]);
      count.all += n;
      if (b < rank) count.before += n;
    }
  }
  return count;
}

int64_t few_rows_shared(const RouteShape& shape, const Groups& groups, const FewRows& few, int64_t warps) {
  return 4 * (int64_t{groups.num_experts} * (few.words + 2) + kWarps +
              int64_t{few.block_rows} * 2 * shape.top_k + warps * shape.choice_floats);
}

// A thread for each local expert at least; 1 or kMaxCluster blocks.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads)
    route_and_group_kernel(OpSite site, GroupTexts texts, RouteShape shape, RouteTensors tensors,
                           ops::ValidRows valid, Groups groups, FewRows few) {
  const int32_t experts = groups.num_experts;
  auto* chosen = dynamic_shared<uint32_t>();  // [words][experts]: a bit a row of this block
  auto* places =
      reinterpret_cast<int32_t*>(chosen + few.words * experts);  // [experts]: of the first copy here
  int32_t* ends = places + experts;                              // [experts]
  int32_t* scratch = ends + experts;
  int32_t* const ids = scratch + kWarps;                                               // [block_rows][top_k]
  auto* const weights = reinterpret_cast<float*>(ids + few.block_rows * shape.top_k);  // the same
  float* const workspaces = weights + few.block_rows * shape.top_k;
  const auto choice_of = [&](int32_t r) { return Choice{ids + r * shape.top_k, weights + r * shape.top_k}; };
  const int num_threads = static_cast<int>(blockDim.x);
  const int num_warps = num_threads / kWarpSize;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  const auto rank = static_cast<int32_t>(blockIdx.x);
  const int32_t first_row = rank * few.block_rows;
  const int32_t rows = min(few.block_rows, shape.num_tokens - first_row);  // below 1: none
  let_next_start();
#pragma unroll 1
  for (int i = thread; i < experts * few.words; i += num_threads) chosen[i] = 0;
  wait_for_inputs(site);
  __syncthreads();
#pragma unroll 1
  for (int32_t r = warp; r < rows; r += num_warps) {
    const Choice choice = choice_of(r);
    choose_experts<kPerLane>(shape, tensors, valid, first_row + r, choice,
                             workspaces + warp * shape.choice_floats);
    if (lane < shape.top_k && groups.has(choice.ids[lane])) {
      atomicOr(&chosen[r / 32 * experts + choice.ids[lane] - groups.first_expert], 1U << (r % 32));
    }
  }
  if (few.blocks > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
  ExpertCount count{0, 0};
  if (thread < experts) count = count_rows_of(few, chosen, experts, thread);
  const int32_t start = sum_before(groups.aligned(count.all), scratch, ceil_div(experts, kWarpSize));
  if (few.blocks > 1) cluster_arrive_relaxed();  // counts have been used: done with what others hold
  const int32_t end = start + count.all;
  if (thread < experts) {
    places[thread] = start + count.before;
    ends[thread] = end;
    if (rank == 0) groups.offsets[thread + 1] = end;
    if (thread == experts - 1 && end > groups.max_rows) fail(site, texts.full, end, groups.max_rows);
  }
  if (rank == 0 && thread == 0) groups.offsets[0] = 0;
  __syncthreads();
#pragma unroll 1
  for (int32_t r = warp; r < rows; r += num_warps) {
    if (lane >= shape.top_k) continue;
    const Choice choice = choice_of(r);
    const int32_t id = choice.ids[lane];
    int32_t place = -1;
    if (groups.has(id)) {
      const int32_t e = id - groups.first_expert;
      place = places[e] + __popc(chosen[r / 32 * experts + e] & ((1U << (r % 32)) - 1U));
#pragma unroll 1
      for (int w = 0; w < r / 32; ++w) place += __popc(chosen[w * experts + e]);
      if (place >= groups.max_rows) place = -1;
    }
    if (place >= 0) groups.source[place] = first_row + r;
    write_choice(shape, tensors, first_row + r, choice, lane);
    groups.position[(first_row + r) * groups.position_stride + lane] = place;
  }
  if (groups.alignment > 1) {
#pragma unroll 1
    for (int32_t e = warp * few.blocks + rank; e < experts; e += num_warps * few.blocks) {
      groups.clear(ends[e], groups.aligned(ends[e]), lane, kWarpSize);
    }
  }
  groups.clear(experts > 0 ? ends[experts - 1] : 0, groups.max_rows, rank * num_threads + thread,
               few.blocks * num_threads);
  if (few.blocks > 1) cluster_wait();  // before this block's memory goes away
}

Groups groups_of(const ops::GroupArgs& args) {
  return {.offsets = args.offsets.as<int32_t>(),
          .source = args.source.as<int32_t>(),
          .position = args.position.as<int32_t>(),
          .position_stride = args.position.stride[0],
          .num_experts = static_cast<int32_t>(args.offsets.shape[0] - 1),
          .first_expert = args.first_expert,
          .total_experts = args.total_experts,
          .alignment = args.alignment,
          .max_rows = static_cast<int32_t>(args.source.shape[0])};
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void group_copies(const GroupArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const Groups groups = groups_of(args);
  const CopyIds ids = copy_ids("group_copies", args.ids, args.num_rows);
  const LaunchShape shape{.grid = dim3(groups.num_experts > 0 ? grid_x(groups.num_experts) : 1U),
                          .block = dim3(kThreads),
                          .shared_bytes = static_cast<size_t>(groups.num_experts) * 4};
  launch<&group_kernel>(cuda, shape, cuda.site, kTexts, groups, ids);
}

void route_and_group(const RouteAndGroupArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const RouteShape shape = route_shape(args.route);
  const Groups groups = groups_of(args.groups);
  const int32_t rows = shape.num_tokens;
  const int32_t blocks = rows > kOneBlockRows ? kMaxCluster : 1;
  const int32_t block_rows = ceil_div(rows, blocks);
  const FewRows few{.blocks = blocks, .block_rows = block_rows, .words = ceil_div(block_rows, 32)};
  const int64_t warps = std::max(std::min(block_rows, kWarps), ceil_div(groups.num_experts, kWarpSize));
  const int64_t shared_bytes = few_rows_shared(shape, groups, few, warps);
  const bool is_few =
      rows > 0 && rows <= kFewRows && shape.top_k <= kMaxTopK && shared_bytes <= kFewRowsShared;
  if (!is_few) {
    if (rows > 0) route(args.route, context);
    GroupArgs rest = args.groups;
    rest.ids = args.route.ids;
    rest.num_rows = nullptr;
    group_copies(rest, context);
    return;
  }
  const LaunchShape launch_shape{.grid = dim3(static_cast<unsigned>(blocks)),
                                 .block = dim3(static_cast<unsigned>(warps * kWarpSize)),
                                 .shared_bytes = static_cast<size_t>(shared_bytes),
                                 .cluster_blocks = static_cast<unsigned>(blocks)};
  visit_experts_per_lane(shape.num_experts, [&](auto per_lane) {
    launch<&route_and_group_kernel<decltype(per_lane)::value>>(cuda, launch_shape, cuda.site, kTexts, shape,
                                                               route_tensors(args.route), args.route.valid,
                                                               groups, few);
  });
}

}  // namespace weft::ops::cuda
