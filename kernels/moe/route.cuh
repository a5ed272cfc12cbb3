#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/moe.h"

/// The choice of a token's experts, by one warp. Lane l holds the scores of experts l, l + 32, ... in
/// registers; each choice is one maximum over the warp.
namespace weft::kernels {

struct RouteShape {
  int32_t num_tokens;
  int32_t num_experts;
  int32_t top_k;
  int32_t num_groups;
  int32_t top_groups;
  ops::Scoring scoring;
  ops::GroupScore group_score;
  bool renormalize;
  float scaling;
  int64_t logits_stride, ids_stride, weights_stride;
};

struct RouteTensors {
  int32_t* ids;
  float* weights;
  const float* logits;
  const float* bias;  // null: none
};

RouteShape route_shape(const ops::RouteArgs& args);
RouteTensors route_tensors(const ops::RouteArgs& args);
/// Calls f(std::integral_constant<int, experts a lane>). Refuses more than 1024 experts.
template <class F>
void visit_experts_per_lane(int64_t num_experts, const F& f) {
  if (num_experts <= 128) return f(std::integral_constant<int, 4>{});
  if (num_experts <= 256) return f(std::integral_constant<int, 8>{});
  if (num_experts <= 1024) return f(std::integral_constant<int, 32>{});
  device::cuda::refuse_op("route", "more than 1024 experts");
}

__device__ inline bool is_valid(const ops::ValidRows& valid, int32_t row) {
  if (valid.num_segments == 0) return true;
  for (int32_t i = 0; i < valid.num_segments; ++i) {
    if (row >= valid.start[i] && row < valid.start[i] + valid.count[i]) return true;
  }
  return false;
}

/// Orders as numbers do, with NaN below all of them; never 0, which stands for what is taken.
__device__ inline uint32_t rank_of(float x) {
  if (isnan(x)) return 1;
  const uint32_t bits = __float_as_uint(x + 0.0F);  // -0 is 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

/// The index of the largest rank that is not 0; the lower index in a tie. ranks[j]: of index lane + 32 * j.
template <int kPerLane>
__device__ int32_t take_largest(uint32_t (&ranks)[kPerLane], int lane) {
  uint32_t best = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) best = max(best, ranks[j]);
  best = __reduce_max_sync(kAllLanes, best);
  uint32_t index = UINT32_MAX;
#pragma unroll
  for (int j = kPerLane - 1; j >= 0; --j) {
    if (ranks[j] == best) index = static_cast<uint32_t>(lane + kWarpSize * j);
  }
  index = __reduce_min_sync(kAllLanes, index);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (index == static_cast<uint32_t>(lane + kWarpSize * j)) ranks[j] = 0;
  }
  return static_cast<int32_t>(index);
}

__device__ inline float group_score(ops::GroupScore kind, const float* choice, int32_t size) {
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
  return kind == ops::GroupScore::kMax ? first : first + second;
}

/// Bytes of shared memory that a warp needs to choose: what experts are chosen by, their groups' scores, and
/// marks of the groups that are kept.
__host__ __device__ inline int64_t choice_bytes(const RouteShape& shape) {
  if (shape.group_score == ops::GroupScore::kNone) return 0;
  return (shape.num_experts + 2 * shape.num_groups) * 4;
}

/// Sets the ranks of experts outside the best top_groups groups to 0.
template <int kPerLane>
__device__ void keep_best_groups(const RouteShape& shape, const float (&choice)[kPerLane],
                                 uint32_t (&ranks)[kPerLane], float* workspace, int lane) {
  float* scores = workspace + shape.num_experts;
  auto* kept = reinterpret_cast<int32_t*>(scores + shape.num_groups);
  const int32_t size = shape.num_experts / shape.num_groups;
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (lane + kWarpSize * j < shape.num_experts) workspace[lane + kWarpSize * j] = choice[j];
  }
  __syncwarp();
  for (int32_t i = lane; i < shape.num_groups; i += kWarpSize) {
    scores[i] = group_score(shape.group_score, workspace + i * size, size);
  }
  __syncwarp();
  // A group is kept if fewer than top_groups are better.
  for (int32_t i = lane; i < shape.num_groups; i += kWarpSize) {
    int32_t better = 0;
    for (int32_t j = 0; j < shape.num_groups; ++j) {
      const uint32_t mine = rank_of(scores[i]);
      const uint32_t other = rank_of(scores[j]);
      better += other > mine || (other == mine && j < i) ? 1 : 0;
    }
    kept[i] = better < shape.top_groups ? 1 : 0;
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int32_t e = lane + kWarpSize * j;
    if (e < shape.num_experts && kept[e / size] == 0) ranks[j] = 0;
  }
}

/// Writes ids and weights of `token`, which is valid. workspace: choice_bytes() of the warp's own.
template <int kPerLane>
__device__ void choose_experts(const RouteShape& shape, const RouteTensors& tensors, int64_t token,
                               float* workspace) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int32_t* ids = tensors.ids + token * shape.ids_stride;
  float* weights = tensors.weights + token * shape.weights_stride;
  const float* logits = tensors.logits + token * shape.logits_stride;
  float scores[kPerLane];
  float maximum = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int32_t e = lane + kWarpSize * j;
    scores[j] = e < shape.num_experts ? logits[e] : -INFINITY;
    maximum = Max{}(scores[j], maximum);
  }
  if (shape.scoring == ops::Scoring::kSigmoid) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) scores[j] = 1.0F / (1.0F + expf(-scores[j]));
  } else {
    maximum = warp_reduce(maximum, Max{});
    float sum = 0.0F;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      scores[j] = lane + kWarpSize * j < shape.num_experts ? expf(scores[j] - maximum) : 0.0F;
      sum += scores[j];
    }
    sum = warp_reduce(sum, Sum{});
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) scores[j] /= sum;
  }
  float choice[kPerLane];
  uint32_t ranks[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int32_t e = lane + kWarpSize * j;
    const bool exists = e < shape.num_experts;
    choice[j] = exists && tensors.bias != nullptr ? scores[j] + tensors.bias[e] : scores[j];
    ranks[j] = exists ? rank_of(choice[j]) : 0;
  }
  if (shape.group_score != ops::GroupScore::kNone) {
    keep_best_groups(shape, choice, ranks, workspace, lane);
  }
  float sum = 0.0F;
  for (int32_t k = 0; k < shape.top_k; ++k) {
    const int32_t e = take_largest(ranks, lane);
    float score = 0.0F;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (e / kWarpSize == j) score = scores[j];
    }
    score = __shfl_sync(kAllLanes, score, e % kWarpSize);
    sum += score;
    if (lane == 0) {
      ids[k] = e;
      weights[k] = score;
    }
  }
  // Sigmoids may all be 0. A sum of softmax scores does not notice the small number.
  const float divisor = shape.renormalize ? sum + 1e-20F : 1.0F;
  __syncwarp();
  for (int32_t k = lane; k < shape.top_k; k += kWarpSize) weights[k] = weights[k] / divisor * shape.scaling;
}

/// What a token that is not valid gets.
__device__ inline void choose_nothing(const RouteShape& shape, const RouteTensors& tensors, int64_t token) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int32_t k = lane; k < shape.top_k; k += kWarpSize) {
    tensors.ids[token * shape.ids_stride + k] = -1;
    tensors.weights[token * shape.weights_stride + k] = 0.0F;
  }
}

}  // namespace weft::kernels
