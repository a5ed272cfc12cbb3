#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"
#include "ops/philox.h"

#define WEFT_SIMD_FILE "ops/cpu/sampling_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

/// A token that may be drawn.
struct Candidate {
  float weight = 0.0F;  // its probability over the largest
  int32_t id = 0;
};

bool stands_before(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}

using Candidates = std::vector<Candidate>;

/// What a row needs; one a thread.
struct Workspace {
  std::vector<float> weights;  // [vocab]
  Candidates candidates;
};

bool has_nan(const float* x, int64_t n) {
  uint32_t found = 0;  // on bits: the compiler vectorises this loop, and cannot assume NaNs away
  for (int64_t i = 0; i < n; ++i) {
    found |= static_cast<uint32_t>((std::bit_cast<uint32_t>(x[i]) & 0x7fffffffU) > 0x7f800000U);
  }
  return found != 0;
}

double mass(Candidates::const_iterator begin, Candidates::const_iterator end) {
  double sum = 0.0;
  for (; begin != end; ++begin) sum += static_cast<double>(begin->weight);
  return sum;
}

/// Puts the candidates up to that at which their cumulative weight, in falling order, reaches `target` in
/// front, and that one last of them; returns its index, or the last one if none reaches it. Linear time: it
/// splits, as quickselect does, and follows the half that holds the target.
size_t select_by_mass(Candidates& candidates, double target) {
  const auto at = [&](size_t i) { return candidates.begin() + static_cast<int64_t>(i); };
  size_t low = 0;
  size_t high = candidates.size();
  double before = 0.0;
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(at(low), at(middle), at(high), stands_before);
    const double left = mass(at(low), at(middle));
    if (before + left >= target) {
      high = middle;
    } else {
      before += left;
      low = middle;
    }
  }
  return low;
}

/// Appends the tokens with low <= weight < high.
void collect(const std::vector<float>& weights, float low, float high, Candidates& candidates) {
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= low && weights[i] < high) candidates.push_back({weights[i], static_cast<int32_t>(i)});
  }
}

/// The tokens that can matter, in any order: those within 2^-10 of the largest if they settle the draw, as
/// they mostly do, else all.
void collect_candidates(const SamplingRow& params, double total, double random, Workspace& work) {
  constexpr float kLikely = 0x1p-10F;
  constexpr float kAboveAll = 2.0F;
  work.candidates.clear();
  collect(work.weights, kLikely, kAboveAll, work.candidates);
  if (params.top_k > 0) {
    if (work.candidates.size() >= static_cast<size_t>(params.top_k)) return;
  } else if (params.top_p < 1.0F) {
    if (mass(work.candidates.begin(), work.candidates.end()) >= static_cast<double>(params.top_p) * total)
      return;
  } else if (params.min_p > 0.0F) {
    if (params.min_p >= kLikely) return;
  } else if (mass(work.candidates.begin(), work.candidates.end()) >= random * total) {
    return;
  }
  collect(work.weights, std::numeric_limits<float>::denorm_min(), kLikely, work.candidates);
}

int32_t draw(const float* logits, int64_t vocab, float maximum, const SamplingRow& params, Workspace& work) {
  work.weights.resize(static_cast<size_t>(vocab));
  double total = 0.0;
  WEFT_CALL_ISA(exp_row, logits, vocab, maximum, params.temperature, work.weights.data(), &total);
  const double random = philox_uniform(params.seed, params.position);
  collect_candidates(params, total, random, work);
  Candidates& candidates = work.candidates;
  if (params.top_k > 0) {
    if (static_cast<size_t>(params.top_k) < candidates.size()) {
      std::nth_element(candidates.begin(), candidates.begin() + params.top_k, candidates.end(),
                       stands_before);
      candidates.resize(static_cast<size_t>(params.top_k));
    }
    total = mass(candidates.begin(), candidates.end());
  }
  if (params.top_p < 1.0F) {
    candidates.resize(select_by_mass(candidates, static_cast<double>(params.top_p) * total) + 1);
    total = mass(candidates.begin(), candidates.end());
  }
  if (params.min_p > 0.0F) {
    const float least = std::min(params.min_p, 1.0F);  // the largest weight is 1
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                    [&](const Candidate& c) { return c.weight < least; }),
                     candidates.end());
    total = mass(candidates.begin(), candidates.end());
  }
  return candidates[select_by_mass(candidates, random * total)].id;
}

int32_t sample_row(const float* logits, int64_t vocab, const SamplingRow& params, Workspace& work) {
  if (has_nan(logits, vocab)) return -1;
  float maximum = 0.0F;
  WEFT_CALL_ISA(row_maximum, logits, vocab, &maximum);
  if (!std::isfinite(maximum)) return -1;
  if (params.temperature > 0.0F) return draw(logits, vocab, maximum, params, work);
  return static_cast<int32_t>(std::find(logits, logits + vocab, maximum) - logits);
}

/// What else becomes of the token of row `r`.
void commit(const SampleArgs& args, int64_t r, int32_t token) {
  if (!args.last_tokens.defined()) return;
  const int32_t slot = args.slots.as<int32_t>()[r];
  WEFT_CHECK(slot < args.last_tokens.shape[0], "sample: row {} names slot {} of {}", r, slot,
             args.last_tokens.shape[0]);
  if (slot >= 0) args.last_tokens.as<int32_t>()[slot] = token;
  const int32_t wanted = args.wanted.as<int32_t>()[r];
  args.targets.as<int32_t>()[r] = wanted >= 0 ? wanted : wanted == -1 ? token : -1;
}

/// The `count` <= vocab largest logits as (logit, id), in falling order; ties: lower id.
void find_largest(const float* logits, int64_t vocab, int32_t count, Candidates& top) {
  top.clear();
  for (int64_t i = 0; i < vocab; ++i) {
    if (top.size() == static_cast<size_t>(count)) {
      if (!(logits[i] > top.back().weight)) continue;
      top.pop_back();
    }
    auto place = top.end();
    while (place != top.begin() && logits[i] > (place - 1)->weight) --place;
    top.insert(place, {logits[i], static_cast<int32_t>(i)});
  }
}

}  // namespace

void sample(const SampleArgs& args, ExecContext& context) {
  const int64_t vocab = args.logits.shape[1];
  const int64_t num_rows = read_num_rows("sample", args.num_rows, args.logits.shape[0]);
  context.parallel_for(num_rows, 1, [&](int64_t begin, int64_t end) {
    thread_local Workspace work;
    for (int64_t r = begin; r < end; ++r) {
      const int32_t token = sample_row(row<float>(args.logits, r), vocab, args.params[r], work);
      args.tokens.as<int32_t>()[r * args.tokens.stride[0]] = token;
      commit(args, r, token);
    }
  });
}

void logprobs(const LogprobArgs& args, ExecContext& context) {
  const int64_t vocab = args.logits.shape[1];
  const int64_t num_rows = read_num_rows("logprobs", args.num_rows, args.logits.shape[0]);
  context.parallel_for(num_rows, 1, [&](int64_t begin, int64_t end) {
    thread_local Workspace work;
    work.weights.resize(static_cast<size_t>(vocab));
    for (int64_t r = begin; r < end; ++r) {
      const int32_t target = args.targets.as<int32_t>()[r * args.targets.stride[0]];
      const int32_t num_top = args.num_top == nullptr ? 0 : args.num_top[r];
      WEFT_CHECK(target >= -1 && target < vocab,
                 "logprobs: targets[{}] is {}, but the vocabulary has {} tokens", r, target, vocab);
      WEFT_CHECK(num_top >= 0 && (num_top == 0 || num_top <= std::min(args.top_ids.shape[1], vocab)),
                 "logprobs: num_top[{}] is {}, but top_ids is {} and the vocabulary has {} tokens", r,
                 num_top, args.top_ids.describe(), vocab);
      if (target < 0 && num_top == 0) continue;
      const auto* logits = row<float>(args.logits, r);
      float maximum = 0.0F;
      double sum = 0.0;
      WEFT_CALL_ISA(row_maximum, logits, vocab, &maximum);
      WEFT_CALL_ISA(exp_row, logits, vocab, maximum, 1.0F, work.weights.data(), &sum);
      const double log_sum = static_cast<double>(maximum) + std::log(sum);
      const auto logprob = [&](float logit) {
        return static_cast<float>(static_cast<double>(logit) - log_sum);
      };
      if (target >= 0) args.logprobs.as<float>()[r * args.logprobs.stride[0]] = logprob(logits[target]);
      if (num_top == 0) continue;
      find_largest(logits, vocab, num_top, work.candidates);
      for (int32_t i = 0; i < num_top; ++i) {
        row<int32_t>(args.top_ids, r)[i] = work.candidates[static_cast<size_t>(i)].id;
        row<float>(args.top_logprobs, r)[i] = logprob(work.candidates[static_cast<size_t>(i)].weight);
      }
    }
  });
}

}  // namespace weft::ops::cpu
