#include "plan/splitter.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/math.h"

namespace weft::plan {
namespace {

using Lengths = std::span<const int64_t>;

int64_t sum_of(Lengths lens) { return std::accumulate(lens.begin(), lens.end(), int64_t{0}); }

// The cut between sequences that balances tokens best; a tie moves right.
int64_t balanced_index(Lengths lens) {
  const int64_t total = sum_of(lens);
  int64_t best = 0, left = 0;
  int64_t best_diff = std::numeric_limits<int64_t>::max();
  for (size_t i = 1; i < lens.size(); ++i) {
    left += lens[i - 1];
    const int64_t diff = std::abs(left - (total - left));
    if (diff > best_diff) break;
    best = static_cast<int64_t>(i);
    best_diff = diff;
  }
  return best;
}

// The sequence that holds the first token of the second half.
int64_t half_index(Lengths lens) {
  const int64_t half = sum_of(lens) / 2;
  int64_t prefix = 0;
  for (size_t i = 0; i < lens.size(); ++i) {
    prefix += lens[i];
    if (prefix > half) return static_cast<int64_t>(i);
  }
  return 0;
}

void check_lens(const SplitInput& input) {
  for (const int64_t len : input.extend_lens) {
    WEFT_CHECK(len >= 0, "split: an extend length of a {} batch is {}", forward_mode_name(input.mode), len);
  }
}

// Everything that compute_* do not look at.
void check_input(const SplitInput& input) {
  const std::string_view mode = forward_mode_name(input.mode);
  WEFT_CHECK(input.num_tokens >= 0, "split: num_tokens={}", input.num_tokens);
  WEFT_CHECK(input.attn_tp_size >= 1, "split: attn_tp_size={} must be at least 1", input.attn_tp_size);
  const auto num_seqs = static_cast<int64_t>(input.extend_lens.size());
  if (is_prefill(input.mode)) {
    const int64_t total = sum_of(input.extend_lens);
    WEFT_CHECK(total == input.num_tokens,
               "split: the extend lengths of a {} batch sum to {}, num_tokens is {}", mode, total,
               input.num_tokens);
    WEFT_CHECK(input.prefix_lens.empty() || input.prefix_lens.size() == input.extend_lens.size(),
               "split: {} prefix lengths for {} sequences", input.prefix_lens.size(), num_seqs);
    WEFT_CHECK(input.seq_lens.empty() || input.seq_lens.size() == input.extend_lens.size(),
               "split: {} sequence lengths for {} sequences", input.seq_lens.size(), num_seqs);
    for (size_t i = 0; i < input.seq_lens.size(); ++i) {
      const int64_t prefix = input.prefix_lens.empty() ? 0 : input.prefix_lens[i];
      WEFT_CHECK(input.seq_lens[i] == prefix + input.extend_lens[i],
                 "split: sequence {} has length {}, but prefix {} and {} new tokens", i, input.seq_lens[i],
                 prefix, input.extend_lens[i]);
    }
  } else {
    WEFT_CHECK(input.extend_lens.empty() && input.prefix_lens.empty(),
               "split: a {} batch takes seq_lens, not extend_lens or prefix_lens", mode);
  }
  if (has_fixed_width(input.mode)) {
    const int64_t width = input.token_num_per_seq;
    WEFT_CHECK(input.num_tokens % width == 0,
               "split: num_tokens={} of a {} batch is no multiple of {} per sequence", input.num_tokens, mode,
               width);
    WEFT_CHECK(
        input.seq_lens.empty() || static_cast<int64_t>(input.seq_lens.size()) == input.num_tokens / width,
        "split: {} sequence lengths for {} sequences", input.seq_lens.size(), input.num_tokens / width);
  }
  const int64_t max_mix = input.mode == ForwardMode::kMixed ? num_seqs : 0;
  WEFT_CHECK(input.mix_decode_bs >= 0 && input.mix_decode_bs <= max_mix,
             "split: mix_decode_bs={} of a {} batch must be 0..{}", input.mix_decode_bs, mode, max_mix);
}

int64_t num_seqs_of(const SplitInput& input) {
  if (is_prefill(input.mode)) return static_cast<int64_t>(input.extend_lens.size());
  return has_fixed_width(input.mode) ? input.num_tokens / input.token_num_per_seq : 0;
}

// A child of whole sequences and tokens as given; a cut sequence is put right by the caller.
SplitChild make_child(const SplitInput& input, int64_t seq_begin, int64_t seq_end, int64_t token_begin,
                      int64_t token_end) {
  SplitChild child;
  child.seq_begin = seq_begin;
  child.seq_end = seq_end;
  child.token_begin = token_begin;
  child.token_end = token_end;
  child.num_tokens = token_end - token_begin;
  child.padded_len = round_up<int64_t>(child.num_tokens, input.attn_tp_size);
  for (int64_t seq = seq_begin; seq < seq_end; ++seq) {
    const auto i = static_cast<size_t>(seq);
    if (is_prefill(input.mode)) {
      const int64_t prefix = input.prefix_lens.empty() ? 0 : input.prefix_lens[i];
      child.extend_lens.push_back(input.extend_lens[i]);
      child.prefix_lens.push_back(prefix);
      child.seq_lens.push_back(prefix + input.extend_lens[i]);
    } else if (!input.seq_lens.empty()) {
      child.seq_lens.push_back(input.seq_lens[i]);
    }
  }
  // The decode sequences are the batch's last: those of them that lie in the range.
  const int64_t decode_begin = num_seqs_of(input) - input.mix_decode_bs;
  child.mix_decode_bs = std::max<int64_t>(0, seq_end - std::max(seq_begin, decode_begin));
  return child;
}

// Cuts sequence split.seq_index between the children, `left` of its tokens to the first.
void cut_sequence(Split& split, int64_t left) {
  SplitChild& a = split.children[0];
  SplitChild& b = split.children[1];
  const int64_t right = a.extend_lens.back() - left;
  a.extend_lens.back() = left;
  a.seq_lens.back() -= right;
  b.extend_lens.front() = right;
  b.prefix_lens.front() += left;
}

}  // namespace

bool is_two_chunk(Lengths extend_lens, double threshold) {
  WEFT_CHECK(threshold <= 0.5, "the token distribution threshold is {}; it must be at most 0.5", threshold);
  const auto total = static_cast<double>(sum_of(extend_lens));
  const auto left =
      static_cast<double>(sum_of(extend_lens.first(static_cast<size_t>(balanced_index(extend_lens)))));
  const bool wanted = left < total * threshold || left > total * (1 - threshold);
  return wanted && half_index(extend_lens) + 1 <= sum_of(extend_lens) / 2;
}

int64_t compute_split_seq_index(const SplitInput& input) {
  switch (input.mode) {
    case ForwardMode::kExtend:
    case ForwardMode::kMixed:
      check_lens(input);
      return is_two_chunk(input.extend_lens, input.threshold) ? half_index(input.extend_lens)
                                                              : balanced_index(input.extend_lens);
    case ForwardMode::kDecode:
    case ForwardMode::kTargetVerify:
      WEFT_CHECK(input.token_num_per_seq >= 1,
                 "split: a {} batch has {} tokens a sequence; it must be at least 1",
                 forward_mode_name(input.mode), input.token_num_per_seq);
      return input.num_tokens / input.token_num_per_seq / 2;
    case ForwardMode::kIdle:
    case ForwardMode::kPrebuilt:
      WEFT_CHECK(input.num_tokens == 0, "split: a {} batch has no rows to run, but num_tokens={}",
                 forward_mode_name(input.mode), input.num_tokens);
      return 0;
  }
  WEFT_THROW("split: no rule for forward mode {}", static_cast<int>(input.mode));
}

int64_t compute_split_token_index(int64_t split_seq_index, const SplitInput& input) {
  switch (input.mode) {
    case ForwardMode::kExtend:
    case ForwardMode::kMixed:
      check_lens(input);
      WEFT_CHECK(split_seq_index >= 0 && split_seq_index <= static_cast<int64_t>(input.extend_lens.size()),
                 "split: sequence index {} of {} sequences", split_seq_index, input.extend_lens.size());
      if (is_two_chunk(input.extend_lens, input.threshold)) return sum_of(input.extend_lens) / 2;
      return sum_of(input.extend_lens.first(static_cast<size_t>(split_seq_index)));
    case ForwardMode::kDecode:
    case ForwardMode::kTargetVerify:
      WEFT_CHECK(input.token_num_per_seq >= 1,
                 "split: a {} batch has {} tokens a sequence; it must be at least 1",
                 forward_mode_name(input.mode), input.token_num_per_seq);
      return split_seq_index * input.token_num_per_seq;
    case ForwardMode::kIdle:
    case ForwardMode::kPrebuilt:
      WEFT_CHECK(split_seq_index == 0, "split: a {} batch has no sequence index {}",
                 forward_mode_name(input.mode), split_seq_index);
      return 0;
  }
  WEFT_THROW("split: no rule for forward mode {}", static_cast<int>(input.mode));
}

std::optional<Split> split(const SplitInput& input, std::string* why) {
  Split result;
  result.seq_index = compute_split_seq_index(input);
  result.token_index = compute_split_token_index(result.seq_index, input);
  check_input(input);
  const auto empty = std::find(input.extend_lens.begin(), input.extend_lens.end(), 0);
  if (empty != input.extend_lens.end()) {
    if (why != nullptr) *why = fmt::format("sequence {} has no tokens", empty - input.extend_lens.begin());
    return std::nullopt;
  }

  const int64_t num_seqs = num_seqs_of(input);
  // Tokens of the sequence at the cut that fall to the first child; 0: the cut is between two sequences.
  int64_t left = 0;
  if (is_prefill(input.mode)) {
    left = result.token_index - sum_of(input.extend_lens.first(static_cast<size_t>(result.seq_index)));
  }
  result.two_chunk = left > 0;
  const int64_t first_end = result.seq_index + (result.two_chunk ? 1 : 0);
  result.children.push_back(make_child(input, 0, first_end, 0, result.token_index));
  result.children.push_back(
      make_child(input, result.seq_index, num_seqs, result.token_index, input.num_tokens));
  if (result.two_chunk) cut_sequence(result, left);
  return result;
}

std::pair<int64_t, int64_t> replay_split(int64_t bucket, int64_t num_tokens) {
  WEFT_CHECK(bucket > 0 && bucket % 2 == 0, "replay_split: a bucket of {} rows has no two equal halves",
             bucket);
  WEFT_CHECK(num_tokens >= 0 && num_tokens <= bucket, "replay_split: {} tokens in a bucket of {} rows",
             num_tokens, bucket);
  const int64_t half = bucket / 2;
  return {std::min(half, num_tokens), std::max<int64_t>(0, num_tokens - half)};
}

}  // namespace weft::plan
