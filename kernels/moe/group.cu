// group_copies and route_and_group.
//
// any rows: a block an expert counts the copies of all experts, then places its own.
// few rows: one block does it all. As an expert is chosen once a row, a bit for each (expert, row) says what
//   was chosen, and places are counts of bits.
#include <algorithm>

#include "kernels/moe/places.cuh"
#include "kernels/moe/route.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int64_t kFewRows = 256;
constexpr int kWords = kFewRows / 32;

struct Groups {
  int32_t* offsets;
  int32_t* source;
  int32_t* position;
  int64_t position_stride;
  int32_t num_experts, first_expert, total_experts;
  int32_t alignment;
  int32_t max_rows;

  __device__ int32_t& position_of(int64_t copy, int64_t top_k) const {
    return position[copy / top_k * position_stride + copy % top_k];
  }
  __device__ int32_t aligned(int32_t row) const { return (row + alignment - 1) / alignment * alignment; }
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

/// The sum of `value` over the threads before this one; the sum over all goes to `total`.
__device__ int32_t sum_before(int32_t value, int32_t* scratch, int num_warps, int32_t& total) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int32_t until = value;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int32_t before = __shfl_up_sync(kAllLanes, until, step);
    if (lane >= step) until += before;
  }
  __syncthreads();
  if (lane == kWarpSize - 1) scratch[warp] = until;
  __syncthreads();
  int32_t before = until - value;
  total = 0;
  for (int w = 0; w < num_warps; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  return before;
}

__global__ void __launch_bounds__(kThreads)
    group_kernel(OpSite site, GroupTexts texts, Groups groups, CopyIds ids) {
  __shared__ int32_t scratch[kWarps];
  let_next_start();
  wait_for_inputs(site);
  auto* counts = dynamic_shared<int32_t>();  // [num_experts]
  const int64_t rows = ids.existing();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  if (expert == 0 && threadIdx.x == 0 && ids.num_rows != nullptr && *ids.num_rows != rows) {
    fail(site, texts.bad_rows, *ids.num_rows, ids.rows);
  }
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < groups.num_experts; e += kThreads) counts[e] = 0;
  __syncthreads();
  for (int64_t copy = threadIdx.x; copy < rows * ids.top_k; copy += kThreads) {
    const int32_t id = ids.at(copy);
    const int32_t local = id - groups.first_expert;
    if (expert == 0 && (id < -1 || id >= groups.total_experts)) {
      fail(site, texts.bad_id, copy / ids.top_k, copy % ids.top_k, id, groups.total_experts - 1);
    }
    if (id >= 0 && local >= 0 && local < groups.num_experts) atomicAdd(&counts[local], 1);
  }
  __syncthreads();
  int32_t start = 0;
  for (int32_t first = 0; first < expert; first += kThreads) {
    const int32_t e = first + static_cast<int32_t>(threadIdx.x);
    int32_t total = 0;
    sum_before(e < expert ? groups.aligned(counts[e]) : 0, scratch, kWarps, total);
    start += total;
  }
  const bool exists = expert < groups.num_experts;
  const int32_t end = exists ? start + counts[expert] : 0;
  if (threadIdx.x == 0) {
    if (expert == 0) groups.offsets[0] = 0;
    if (exists) groups.offsets[expert + 1] = end;
    if (end > groups.max_rows) fail(site, texts.full, end, groups.max_rows);
  }
  place_copies<kThreads>(
      ids, rows, exists ? groups.first_expert + expert : -1, scratch,
      [&](int64_t copy, int32_t n) {
        const bool fits = exists && start + n < groups.max_rows;
        groups.position_of(copy, ids.top_k) = fits ? start + n : -1;
        if (fits) groups.source[start + n] = static_cast<int32_t>(copy / ids.top_k);
      },
      [&](int64_t copy) {
        const int32_t local = ids.at(copy) - groups.first_expert;
        if (expert == 0 && (ids.at(copy) < 0 || local < 0 || local >= groups.num_experts)) {
          groups.position_of(copy, ids.top_k) = -1;
        }
      });
  // What lies behind this expert's copies holds none.
  const int32_t next = expert + 1 < groups.num_experts ? groups.aligned(end) : groups.max_rows;
  for (int32_t r = end + static_cast<int32_t>(threadIdx.x); r < next && r < groups.max_rows; r += kThreads) {
    groups.source[r] = -1;
  }
}

int64_t few_rows_shared(const RouteShape& shape, const Groups& groups) {
  return (int64_t{groups.num_experts} * (kWords + 1) + kWarps) * 4 + kWarps * choice_bytes(shape);
}

// One block, with a thread for each local expert at least.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads)
    route_and_group_kernel(OpSite site, GroupTexts texts, RouteShape shape, RouteTensors tensors,
                           ops::ValidRows valid, Groups groups) {
  auto* chosen = dynamic_shared<uint32_t>();  // [num_experts][kWords]: a bit a row
  auto* starts = reinterpret_cast<int32_t*>(chosen + groups.num_experts * kWords);  // [num_experts]
  int32_t* scratch = starts + groups.num_experts;
  auto* workspaces = reinterpret_cast<float*>(scratch + kWarps);
  const int num_threads = static_cast<int>(blockDim.x);
  const int num_warps = num_threads / kWarpSize;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  let_next_start();
  for (int i = thread; i < groups.num_experts * kWords; i += num_threads) chosen[i] = 0;
  wait_for_inputs(site);
  for (int32_t r = thread; r < groups.max_rows; r += num_threads) groups.source[r] = -1;
  __syncthreads();
  for (int32_t token = warp; token < shape.num_tokens; token += num_warps) {
    if (!is_valid(valid, token)) {
      choose_nothing(shape, tensors, token);
      continue;
    }
    choose_experts<kPerLane>(shape, tensors, token, workspaces + warp * choice_bytes(shape) / 4);
    for (int32_t k = lane; k < shape.top_k; k += kWarpSize) {
      const int32_t local = tensors.ids[token * shape.ids_stride + k] - groups.first_expert;
      if (local >= 0 && local < groups.num_experts) {
        atomicOr(&chosen[local * kWords + token / 32], 1U << (token % 32));
      }
    }
  }
  __syncthreads();
  int32_t count = 0;
  if (thread < groups.num_experts) {
    for (int w = 0; w < kWords; ++w) count += __popc(chosen[thread * kWords + w]);
  }
  int32_t total = 0;
  const int32_t start = sum_before(groups.aligned(count), scratch, num_warps, total);
  if (thread == 0) groups.offsets[0] = 0;
  if (thread < groups.num_experts) {
    starts[thread] = start;
    groups.offsets[thread + 1] = start + count;
    if (start + count > groups.max_rows) fail(site, texts.full, start + count, groups.max_rows);
  }
  __syncthreads();
  for (int32_t copy = thread; copy < shape.num_tokens * shape.top_k; copy += num_threads) {
    const int32_t token = copy / shape.top_k;
    const int32_t id = tensors.ids[token * shape.ids_stride + copy % shape.top_k];
    const int32_t local = id - groups.first_expert;
    int32_t place = -1;
    if (id >= 0 && local >= 0 && local < groups.num_experts) {
      const uint32_t* rows = chosen + local * kWords;
      place = starts[local] + __popc(rows[token / 32] & ((1U << (token % 32)) - 1U));
      for (int w = 0; w < token / 32; ++w) place += __popc(rows[w]);
      if (place < groups.max_rows) {
        groups.source[place] = token;
      } else {
        place = -1;
      }
    }
    groups.position_of(copy, shape.top_k) = place;
  }
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
  const CopyIds ids{.ids = args.ids.as<int32_t>(),
                    .num_rows = args.num_rows,
                    .rows = args.ids.shape[0],
                    .top_k = args.ids.shape[1],
                    .stride = args.ids.stride[0]};
  const LaunchShape shape{.grid = dim3(groups.num_experts > 0 ? grid_x(groups.num_experts) : 1U),
                          .block = dim3(kThreads),
                          .shared_bytes = static_cast<size_t>(groups.num_experts) * 4};
  launch<&group_kernel>(cuda, shape, cuda.site, kTexts, groups, ids);
}

void route_and_group(const RouteAndGroupArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const RouteShape shape = route_shape(args.route);
  const Groups groups = groups_of(args.groups);
  if (shape.num_tokens == 0 || shape.num_tokens > kFewRows) {
    if (shape.num_tokens > 0) route(args.route, context);
    GroupArgs rest = args.groups;
    rest.ids = args.route.ids;
    rest.num_rows = nullptr;
    group_copies(rest, context);
    return;
  }
  const int64_t warps = std::max<int64_t>(std::min<int64_t>(shape.num_tokens, kWarps),
                                          ceil_div<int64_t>(groups.num_experts, kWarpSize));
  const LaunchShape launch_shape{.block = dim3(static_cast<unsigned>(warps * kWarpSize)),
                                 .shared_bytes = static_cast<size_t>(few_rows_shared(shape, groups))};
  visit_experts_per_lane(shape.num_experts, [&](auto per_lane) {
    launch<&route_and_group_kernel<decltype(per_lane)::value>>(
        cuda, launch_shape, cuda.site, kTexts, shape, route_tensors(args.route), args.route.valid, groups);
  });
}

}  // namespace weft::ops::cuda
