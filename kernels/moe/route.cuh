#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/moe.h"

/// The choice of a token's experts, by one warp. A lane holds the scores of neighbouring experts in
/// registers, in fours that are sorted once, so that each choice is a maximum over the heads of the fours;
/// the lane that holds it takes it off. Lower lanes hold lower ids, so the lowest lane that holds the maximum
/// has the lowest.
///
/// Loops are unrolled only where that gains something: with few rows an instruction runs about once, and has
/// to be fetched first.
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
  bool packed;            // rows of logits are of whole aligned packs of 4
  int32_t choice_floats;  // of shared memory, for a warp that chooses
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
  if (num_experts <= 512) return f(std::integral_constant<int, 16>{});
  if (num_experts <= 1024) return f(std::integral_constant<int, 32>{});
  device::cuda::refuse_op("route", "more than 1024 experts");
}

/// True in some lane if `row` is valid; all segments are read at once.
__device__ inline bool is_in_a_segment(const ops::ValidRows& valid, int32_t row, int lane) {
  bool inside = valid.num_segments == 0;
#pragma unroll 1
  for (int32_t i = lane; i < valid.num_segments; i += kWarpSize) {
    const int32_t start = valid.start[i];
    const int32_t count = valid.count[i];
    inside |= row >= start && row - start < count;
  }
  return inside;
}

/// Orders as numbers do, with NaN below all of them; never 0, which stands for what is taken.
__device__ inline uint32_t rank_of(float x) {
  if (isnan(x)) return 1;
  const uint32_t bits = __float_as_uint(x + 0.0F);  // -0 is 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float of_rank(uint32_t rank) {
  return __uint_as_float((rank >> 31) != 0 ? rank & 0x7fffffffU : ~rank);
}

/// Four experts by falling rank, of equals the lower id first.
struct SortedFour {
  uint32_t ranks[4];  // 0: none
  uint32_t order;     // which of the four: a byte each, the best in the lowest

  __device__ void set(const uint32_t* of_experts) {
    uint32_t which[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      ranks[i] = of_experts[i];
      which[i] = i;
    }
#pragma unroll
    for (int end = 3; end > 0; --end) {
#pragma unroll
      for (int i = 0; i < end; ++i) {
        const bool swaps = ranks[i] < ranks[i + 1];
        const uint32_t better = max(ranks[i], ranks[i + 1]);
        ranks[i + 1] = min(ranks[i], ranks[i + 1]);
        ranks[i] = better;
        const uint32_t first = swaps ? which[i + 1] : which[i];
        which[i + 1] = swaps ? which[i] : which[i + 1];
        which[i] = first;
      }
    }
    order = which[0] | which[1] << 8 | which[2] << 16 | which[3] << 24;
  }
  __device__ void take_off() {
#pragma unroll
    for (int i = 0; i < 3; ++i) ranks[i] = ranks[i + 1];
    ranks[3] = 0;
    order >>= 8;
  }
};

/// Writes the top_k best experts to `ids` (shared), the best first. Every rank but 0 can be chosen.
template <int kPerLane>
__device__ void take_best(const uint32_t (&ranks)[kPerLane], int32_t top_k, int32_t* ids, int lane) {
  constexpr int kFours = kPerLane / 4;
  SortedFour fours[kFours];
#pragma unroll
  for (int f = 0; f < kFours; ++f) fours[f].set(ranks + 4 * f);
  const uint32_t lower_lanes = (1U << lane) - 1U;
#pragma unroll 2
  for (int32_t k = 0; k < top_k; ++k) {
    uint32_t head = fours[0].ranks[0];
#pragma unroll
    for (int f = 1; f < kFours; ++f) head = max(head, fours[f].ranks[0]);
    const uint32_t best = __reduce_max_sync(kAllLanes, head);
    bool mine = head == best;
    mine = (__ballot_sync(kAllLanes, mine) & lower_lanes) == 0 && mine;
#pragma unroll
    for (int f = 0; f < kFours; ++f) {
      if (!mine || fours[f].ranks[0] != best) continue;
      ids[k] = lane * kPerLane + 4 * f + static_cast<int32_t>(fours[f].order & 0xffU);
      fours[f].take_off();
      mine = false;
    }
  }
  __syncwarp();
}

__device__ inline float group_score(ops::GroupScore kind, const float* choice, int32_t size) {
  float first = -INFINITY;
  float second = -INFINITY;
#pragma unroll 4
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
    if (lane * kPerLane + j < shape.num_experts) workspace[lane * kPerLane + j] = choice[j];
  }
  __syncwarp();
#pragma unroll 1
  for (int32_t i = lane; i < shape.num_groups; i += kWarpSize) {
    scores[i] = group_score(shape.group_score, workspace + i * size, size);
  }
  __syncwarp();
  // A group is kept if fewer than top_groups are better.
#pragma unroll 1
  for (int32_t i = lane; i < shape.num_groups; i += kWarpSize) {
    int32_t better = 0;
#pragma unroll 4
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
    const int32_t e = lane * kPerLane + j;
    if (e < shape.num_experts && kept[e / size] == 0) ranks[j] = 0;
  }
}

/// The logits of a lane's experts; -inf where there is none.
template <int kPerLane>
__device__ void load_logits(const RouteShape& shape, const float* logits, float (&values)[kPerLane],
                            int lane) {
#pragma unroll
  for (int f = 0; f < kPerLane; f += 4) {
    const int32_t e = lane * kPerLane + f;
    if (shape.packed) {
      Pack<float, 4> pack{{-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
      if (e < shape.num_experts) pack = *reinterpret_cast<const Pack<float, 4>*>(logits + e);
#pragma unroll
      for (int j = 0; j < 4; ++j) values[f + j] = pack.at[j];
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) values[f + j] = e + j < shape.num_experts ? logits[e + j] : -INFINITY;
    }
  }
}

/// Logits become scores.
template <int kPerLane>
__device__ void score(ops::Scoring scoring, float (&values)[kPerLane]) {
  if (scoring == ops::Scoring::kSigmoid) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) values[j] = 1.0F / (1.0F + expf(-values[j]));
    return;
  }
  float maximum = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) maximum = Max{}(values[j], maximum);
  maximum = of_rank(__reduce_max_sync(kAllLanes, rank_of(maximum)));
  float sum = 0.0F;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    values[j] = expf(values[j] - maximum);  // 0 where there is no expert
    sum += values[j];
  }
  sum = warp_reduce(sum, Sum{});
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) values[j] /= sum;
}

/// What a token chose, in shared memory: [top_k] each.
struct Choice {
  int32_t* ids;
  float* weights;
};

/// Chooses by all lanes of a warp. A token that is not valid gets ids of -1 and weights of 0: it is scored
/// like any, so that nothing waits for the segments. workspace: choice_floats of the warp's own: with groups
/// what experts are chosen by, the groups' scores, and marks of those that are kept.
template <int kPerLane>
__device__ void choose_experts(const RouteShape& shape, const RouteTensors& tensors,
                               const ops::ValidRows& valid, int32_t token, const Choice& chosen,
                               float* workspace) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float scores[kPerLane];
  float choice[kPerLane];
  uint32_t ranks[kPerLane];
  load_logits(shape, tensors.logits + token * shape.logits_stride, scores, lane);
  const auto exists = [&](int j) { return lane * kPerLane + j < shape.num_experts; };
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    choice[j] = tensors.bias != nullptr && exists(j) ? tensors.bias[lane * kPerLane + j] : 0.0F;
  }
  const bool inside = is_in_a_segment(valid, token, lane);
  score(shape.scoring, scores);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    choice[j] += scores[j];
    ranks[j] = exists(j) ? rank_of(choice[j]) : 0;
  }
  if (shape.group_score != ops::GroupScore::kNone) {
    keep_best_groups(shape, choice, ranks, workspace, lane);
  }
  take_best(ranks, shape.top_k, chosen.ids, lane);
#pragma unroll 1
  for (int32_t first = 0; first < shape.top_k; first += kWarpSize) {
    const int32_t k = first + lane;
    const int32_t e = k < shape.top_k ? chosen.ids[k] : 0;
    float of_expert = 0.0F;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const float other = __shfl_sync(kAllLanes, scores[j], e / kPerLane);
      if (e % kPerLane == j) of_expert = other;
    }
    if (k < shape.top_k) chosen.weights[k] = of_expert;
  }
  const bool is_valid = __ballot_sync(kAllLanes, inside) != 0;
  __syncwarp();
  float divisor = 1.0F;
  if (shape.renormalize) {
    float sum = 0.0F;
#pragma unroll 4
    for (int32_t k = 0; k < shape.top_k; ++k) sum += chosen.weights[k];
    divisor = sum + 1e-20F;  // sigmoids may all be 0; a sum of softmax scores does not notice
    __syncwarp();
  }
#pragma unroll 1
  for (int32_t k = lane; k < shape.top_k; k += kWarpSize) {
    if (!is_valid) chosen.ids[k] = -1;
    chosen.weights[k] = is_valid ? chosen.weights[k] / divisor * shape.scaling : 0.0F;
  }
}

/// Item k of a choice goes to memory.
__device__ inline void write_choice(const RouteShape& shape, const RouteTensors& tensors, int32_t token,
                                    const Choice& chosen, int32_t k) {
  tensors.ids[token * shape.ids_stride + k] = chosen.ids[k];
  tensors.weights[token * shape.weights_stride + k] = chosen.weights[k];
}

}  // namespace weft::kernels
