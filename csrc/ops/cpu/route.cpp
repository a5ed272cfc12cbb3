#include <cmath>
#include <limits>
#include <vector>

#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"

namespace weft::ops::cpu {
namespace {

bool is_valid(const ValidRows& valid, int64_t r) {
  if (valid.num_segments == 0) return true;
  for (int32_t i = 0; i < valid.num_segments; ++i) {
    if (r >= valid.start[i] && r < int64_t{valid.start[i]} + valid.count[i]) return true;
  }
  return false;
}

/// What a row needs; one a thread.
struct Workspace {
  std::vector<float> scores;  // [num_experts], what weights are made of
  std::vector<float> choice;  // [num_experts], what experts are chosen by
  std::vector<float> groups;  // [num_groups]
  std::vector<bool> taken;    // [num_experts] or [num_groups]
};

void score_experts(const RouteArgs& args, const float* logits, std::vector<float>& scores) {
  const size_t num_experts = scores.size();
  if (args.scoring == Scoring::kSigmoid) {
    for (size_t e = 0; e < num_experts; ++e) scores[e] = 1.0F / (1.0F + std::exp(-logits[e]));
    return;
  }
  float maximum = logits[0];
  for (size_t e = 1; e < num_experts; ++e) maximum = logits[e] > maximum ? logits[e] : maximum;
  float sum = 0.0F;
  for (size_t e = 0; e < num_experts; ++e) sum += scores[e] = std::exp(logits[e] - maximum);
  for (size_t e = 0; e < num_experts; ++e) scores[e] /= sum;
}

/// The largest value that is not taken, the lower index in a tie; takes it. A NaN never wins over a number,
/// yet indices stay in range and distinct.
size_t take_largest(const std::vector<float>& values, std::vector<bool>& taken) {
  size_t best = values.size();
  for (size_t i = 0; i < values.size(); ++i) {
    if (taken[i]) continue;
    if (best == values.size() || values[i] > values[best] ||
        (std::isnan(values[best]) && !std::isnan(values[i]))) {
      best = i;
    }
  }
  taken[best] = true;
  return best;
}

float group_score(GroupScore kind, const float* choice, size_t size) {
  float first = -std::numeric_limits<float>::infinity();
  float second = first;
  for (size_t i = 0; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return kind == GroupScore::kMax ? first : first + second;
}

// Marks the experts of all groups but the best as taken. transformers gives those the score 0 (DeepSeek-V2)
// or -inf (V3); as the kept groups hold at least top_k experts, neither is ever chosen.
void drop_groups(const RouteArgs& args, Workspace& work) {
  const size_t num_groups = work.groups.size();
  const size_t size = work.choice.size() / num_groups;
  for (size_t g = 0; g < num_groups; ++g) {
    work.groups[g] = group_score(args.group_score, work.choice.data() + g * size, size);
  }
  work.taken.assign(num_groups, false);
  for (int32_t i = 0; i < args.top_groups; ++i) take_largest(work.groups, work.taken);
  const std::vector<bool> kept = work.taken;
  work.taken.assign(work.choice.size(), false);
  for (size_t e = 0; e < work.choice.size(); ++e) work.taken[e] = !kept[e / size];
}

void route_row(const RouteArgs& args, const float* logits, int32_t* ids, float* weights, Workspace& work) {
  score_experts(args, logits, work.scores);
  work.choice = work.scores;
  if (args.bias.defined()) {
    for (size_t e = 0; e < work.choice.size(); ++e) work.choice[e] += args.bias.as<float>()[e];
  }
  work.taken.assign(work.choice.size(), false);
  if (args.group_score != GroupScore::kNone) drop_groups(args, work);
  const int64_t top_k = args.ids.shape[1];
  float sum = 0.0F;
  for (int64_t k = 0; k < top_k; ++k) {
    const size_t expert = take_largest(work.choice, work.taken);
    ids[k] = static_cast<int32_t>(expert);
    weights[k] = work.scores[expert];
    sum += weights[k];
  }
  for (int64_t k = 0; k < top_k; ++k) {
    // Sigmoids may all be 0. A sum of softmax scores does not notice the small number.
    if (args.renormalize) weights[k] /= sum + 1e-20F;
    weights[k] *= args.scaling;
  }
}

}  // namespace

void route(const RouteArgs& args, ExecContext& context) {
  const int64_t top_k = args.ids.shape[1];
  context.parallel_for(args.logits.shape[0], 8, [&](int64_t begin, int64_t end) {
    thread_local Workspace work;
    work.scores.resize(static_cast<size_t>(args.logits.shape[1]));
    work.groups.resize(static_cast<size_t>(args.num_groups));
    for (int64_t r = begin; r < end; ++r) {
      auto* ids = row<int32_t>(args.ids, r);
      auto* weights = row<float>(args.weights, r);
      if (is_valid(args.valid, r)) {
        route_row(args, row<float>(args.logits, r), ids, weights, work);
        continue;
      }
      for (int64_t k = 0; k < top_k; ++k) {
        ids[k] = -1;
        weights[k] = 0.0F;
      }
    }
  });
}

}  // namespace weft::ops::cpu
