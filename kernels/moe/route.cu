// route: one warp a token. Scores stand in shared memory; each choice is one pass of the warp over them.
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

using ops::GroupScore;
using ops::Scoring;

constexpr int kTokensPerBlock = 4;

struct RouteShape {
  int32_t num_tokens;
  int32_t num_experts;
  int32_t top_k;
  int32_t num_groups;
  int32_t top_groups;
  Scoring scoring;
  GroupScore group_score;
  bool renormalize;
  float scaling;
  int64_t logits_stride, ids_stride, weights_stride;
};

/// A candidate in a search for the largest. index -1: none.
struct Candidate {
  float value;
  int32_t index;
};

// A number wins over a NaN, a NaN over nothing; ties go to the lower index.
__device__ inline bool wins(const Candidate& a, const Candidate& b) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  const bool a_nan = isnan(a.value);
  const bool b_nan = isnan(b.value);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.index < b.index;
}

// The best of values[0, n) that is not taken; taken has one byte a value. The same in all lanes.
__device__ inline Candidate largest(const float* values, const uint8_t* taken, int32_t n, int lane) {
  Candidate best{0.0F, -1};
  for (int32_t i = lane; i < n; i += kWarpSize) {
    const Candidate here{values[i], i};
    if (taken[i] == 0 && wins(here, best)) best = here;
  }
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.value, step),
                          __shfl_xor_sync(kAllLanes, best.index, step)};
    if (wins(other, best)) best = other;
  }
  return best;
}

__device__ inline bool is_valid(const ops::ValidRows& valid, int32_t row) {
  if (valid.num_segments == 0) return true;
  for (int32_t i = 0; i < valid.num_segments; ++i) {
    if (row >= valid.start[i] && row < valid.start[i] + valid.count[i]) return true;
  }
  return false;
}

__device__ inline float group_score(GroupScore kind, const float* choice, int32_t size) {
  float first = -INFINITY;
  float second = -INFINITY;
  for (int32_t i = 0; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return kind == GroupScore::kMax ? first : first + second;
}

// Bytes of shared memory of one token: scores, choice, groups, then the taken marks.
__host__ __device__ inline int64_t workspace_bytes(int64_t num_experts, int64_t num_groups) {
  return (2 * num_experts + num_groups) * 4 + (num_experts + num_groups + 3) / 4 * 4;
}

__global__ void route_kernel(OpSite site, RouteShape shape, int32_t* ids, float* weights, const float* logits,
                             const float* bias, ops::ValidRows valid) {
  let_next_start();
  wait_for_inputs(site);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int32_t token = static_cast<int32_t>(blockIdx.x) * kTokensPerBlock + warp;
  if (token >= shape.num_tokens) return;
  ids += token * shape.ids_stride;
  weights += token * shape.weights_stride;
  if (!is_valid(valid, token)) {
    for (int32_t k = lane; k < shape.top_k; k += kWarpSize) {
      ids[k] = -1;
      weights[k] = 0.0F;
    }
    return;
  }
  const int32_t n = shape.num_experts;
  auto* scores =
      reinterpret_cast<float*>(dynamic_shared<std::byte>() + warp * workspace_bytes(n, shape.num_groups));
  float* choice = scores + n;
  float* groups = choice + n;
  auto* taken = reinterpret_cast<uint8_t*>(groups + shape.num_groups);  // experts', then groups'

  logits += token * shape.logits_stride;
  if (shape.scoring == Scoring::kSigmoid) {
    for (int32_t e = lane; e < n; e += kWarpSize) scores[e] = 1.0F / (1.0F + expf(-logits[e]));
  } else {
    float maximum = -INFINITY;
    for (int32_t e = lane; e < n; e += kWarpSize) maximum = Max{}(logits[e], maximum);
    maximum = warp_reduce(maximum, Max{});
    float sum = 0.0F;
    for (int32_t e = lane; e < n; e += kWarpSize) sum += scores[e] = expf(logits[e] - maximum);
    sum = warp_reduce(sum, Sum{});
    for (int32_t e = lane; e < n; e += kWarpSize) scores[e] /= sum;
  }
  for (int32_t e = lane; e < n; e += kWarpSize) {
    choice[e] = bias == nullptr ? scores[e] : scores[e] + bias[e];
    taken[e] = 0;
  }
  __syncwarp();
  if (shape.group_score != GroupScore::kNone) {
    const int32_t size = n / shape.num_groups;
    uint8_t* kept = taken + n;
    for (int32_t g = lane; g < shape.num_groups; g += kWarpSize) {
      groups[g] = group_score(shape.group_score, choice + g * size, size);
      kept[g] = 0;
    }
    __syncwarp();
    for (int32_t i = 0; i < shape.top_groups; ++i) {
      const Candidate best = largest(groups, kept, shape.num_groups, lane);
      __syncwarp();
      if (lane == 0) kept[best.index] = 1;
      __syncwarp();
    }
    for (int32_t e = lane; e < n; e += kWarpSize) taken[e] = kept[e / size] == 0;
    __syncwarp();
  }
  float sum = 0.0F;
  for (int32_t k = 0; k < shape.top_k; ++k) {
    const Candidate best = largest(choice, taken, n, lane);
    __syncwarp();
    sum += scores[best.index];
    if (lane == 0) {
      taken[best.index] = 1;
      ids[k] = best.index;
    }
    __syncwarp();
  }
  // Sigmoids may all be 0. A sum of softmax scores does not notice the small number.
  const float divisor = shape.renormalize ? sum + 1e-20F : 1.0F;
  __syncwarp();
  for (int32_t k = lane; k < shape.top_k; k += kWarpSize)
    weights[k] = scores[ids[k]] / divisor * shape.scaling;
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void route(const RouteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const RouteShape shape{.num_tokens = static_cast<int32_t>(args.logits.shape[0]),
                         .num_experts = static_cast<int32_t>(args.logits.shape[1]),
                         .top_k = static_cast<int32_t>(args.ids.shape[1]),
                         .num_groups = args.num_groups,
                         .top_groups = args.top_groups,
                         .scoring = args.scoring,
                         .group_score = args.group_score,
                         .renormalize = args.renormalize,
                         .scaling = args.scaling,
                         .logits_stride = args.logits.stride[0],
                         .ids_stride = args.ids.stride[0],
                         .weights_stride = args.weights.stride[0]};
  const LaunchShape launch_shape{.grid = dim3(grid_x(ceil_div<int64_t>(shape.num_tokens, kTokensPerBlock))),
                                 .block = dim3(kTokensPerBlock * kWarpSize),
                                 .shared_bytes = static_cast<size_t>(
                                     kTokensPerBlock * workspace_bytes(shape.num_experts, shape.num_groups))};
  launch<&route_kernel>(cuda, launch_shape, cuda.site, shape, args.ids.as<int32_t>(),
                        args.weights.as<float>(), args.logits.as<float>(),
                        args.bias.defined() ? args.bias.as<float>() : nullptr, args.valid);
}

}  // namespace weft::ops::cuda
