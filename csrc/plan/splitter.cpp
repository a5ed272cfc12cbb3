#include "plan/splitter.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/math.h"

namespace weft::plan {
namespace {

using Lengths = std::span<const int64_t>;

// So that no sum or product below overflows.
constexpr int64_t kMaxLength = INT32_MAX;
constexpr int64_t kMaxWidth = 1 << 16;

int64_t sum_of(Lengths lens) { return std::accumulate(lens.begin(), lens.end(), int64_t{0}); }

// A place between two tokens: before `token`, with `left` tokens of sequence `seq` before it.
struct Cut {
  int64_t seq = 0;
  int64_t token = 0;
  int64_t left = 0;
};

// ---- checks ----

void check_lengths(std::string_view name, Lengths lens, ForwardMode mode) {
  for (size_t i = 0; i < lens.size(); ++i) {
    WEFT_CHECK(lens[i] >= 0 && lens[i] <= kMaxLength, "split: {}[{}]={} of a {} batch; it must be 0..{}",
               name, i, lens[i], forward_mode_name(mode), kMaxLength);
  }
}

void check_threshold(double threshold) {
  WEFT_CHECK(threshold >= 0 && threshold <= 0.5,
             "split: the token distribution threshold is {}; it must be from 0 (no sequence is cut) to at "
             "most 0.5",
             threshold);
}

// What the indices look at.
void check_indexed(const SplitInput& input) {
  const std::string_view mode = forward_mode_name(input.mode);
  WEFT_CHECK(mode != "?", "split: no rule for forward mode {}", static_cast<int>(input.mode));
  check_threshold(input.threshold);
  if (is_prefill(input.mode)) {
    check_lengths("extend_lens", input.extend_lens, input.mode);
  } else {
    WEFT_CHECK(input.num_tokens >= 0 && input.num_tokens <= kMaxLength, "split: num_tokens={} must be 0..{}",
               input.num_tokens, kMaxLength);
  }
  if (has_fixed_width(input.mode)) {
    WEFT_CHECK(input.token_num_per_seq >= 1 && input.token_num_per_seq <= kMaxWidth,
               "split: token_num_per_seq={} of a {} batch; it must be at least 1 and at most {}",
               input.token_num_per_seq, mode, kMaxWidth);
  }
  if (has_no_rows(input.mode)) {
    WEFT_CHECK(input.num_tokens == 0, "split: a {} batch has no rows to run, but num_tokens={}; give 0", mode,
               input.num_tokens);
  }
}

void check_prefill(const SplitInput& input) {
  const std::string_view mode = forward_mode_name(input.mode);
  const size_t num_seqs = input.extend_lens.size();
  const int64_t total = sum_of(input.extend_lens);
  WEFT_CHECK(total == input.num_tokens,
             "split: the extend lengths of a {} batch sum to {}, num_tokens is {}; they must be equal", mode,
             total, input.num_tokens);
  WEFT_CHECK(input.prefix_lens.empty() || input.prefix_lens.size() == num_seqs,
             "split: {} prefix lengths for {} sequences; give one a sequence, or none",
             input.prefix_lens.size(), num_seqs);
  WEFT_CHECK(input.seq_lens.empty() || input.seq_lens.size() == num_seqs,
             "split: {} sequence lengths for {} sequences; give one a sequence, or none",
             input.seq_lens.size(), num_seqs);
  check_lengths("prefix_lens", input.prefix_lens, input.mode);
  for (size_t i = 0; i < input.seq_lens.size(); ++i) {
    const int64_t prefix = input.prefix_lens.empty() ? 0 : input.prefix_lens[i];
    WEFT_CHECK(input.seq_lens[i] == prefix + input.extend_lens[i],
               "split: sequence {} has length {}, but prefix {} and {} new tokens; it must be their sum", i,
               input.seq_lens[i], prefix, input.extend_lens[i]);
  }
}

// What the indices do not look at.
void check_rest(const SplitInput& input) {
  const std::string_view mode = forward_mode_name(input.mode);
  WEFT_CHECK(input.attn_tp_size >= 1, "split: attn_tp_size={} must be at least 1", input.attn_tp_size);
  WEFT_CHECK(input.num_micro_batches >= 2 && input.num_micro_batches <= kMaxMicroBatches,
             "split: num_micro_batches={} must be 2..{}", input.num_micro_batches, kMaxMicroBatches);
  WEFT_CHECK(input.num_token_non_padded >= -1 && input.num_token_non_padded <= input.num_tokens,
             "split: num_token_non_padded={} of num_tokens={}; give the real rows, or -1 if all are",
             input.num_token_non_padded, input.num_tokens);
  if (is_prefill(input.mode)) {
    check_prefill(input);
  } else {
    WEFT_CHECK(input.extend_lens.empty() && input.prefix_lens.empty(),
               "split: a {} batch takes seq_lens, but {} extend_lens and {} prefix_lens are given", mode,
               input.extend_lens.size(), input.prefix_lens.size());
    check_lengths("seq_lens", input.seq_lens, input.mode);
  }
  if (has_fixed_width(input.mode)) {
    const int64_t width = input.token_num_per_seq;
    WEFT_CHECK(input.num_tokens % width == 0,
               "split: num_tokens={} of a {} batch is no multiple of {} per sequence; give all rows of all "
               "sequences",
               input.num_tokens, mode, width);
    WEFT_CHECK(
        input.seq_lens.empty() || static_cast<int64_t>(input.seq_lens.size()) == input.num_tokens / width,
        "split: {} sequence lengths for {} sequences; give one a sequence, or none", input.seq_lens.size(),
        input.num_tokens / width);
  }
  const int64_t max_mix =
      input.mode == ForwardMode::kMixed ? static_cast<int64_t>(input.extend_lens.size()) : 0;
  WEFT_CHECK(input.mix_decode_bs >= 0 && input.mix_decode_bs <= max_mix,
             "split: mix_decode_bs={} of a {} batch must be 0..{}", input.mix_decode_bs, mode, max_mix);
}

// ---- where to cut ----

// Cuts between sequences, each where the tokens before it come nearest to its share.
std::vector<Cut> balanced_cuts(Lengths lens, int64_t total, int num_parts) {
  const auto num_seqs = static_cast<int64_t>(lens.size());
  std::vector<Cut> cuts;
  cuts.reserve(static_cast<size_t>(num_parts));
  Cut cut;
  const auto advance = [&] { cut.token += lens[static_cast<size_t>(cut.seq++)]; };
  for (int64_t i = 1; i < num_parts; ++i) {
    const int64_t last = std::max<int64_t>(0, num_seqs - (num_parts - i));  // a sequence for each part behind
    if (cut.seq < last) advance();
    int64_t diff = std::abs(cut.token * num_parts - i * total);
    while (cut.seq < last) {
      const int64_t next = cut.token + lens[static_cast<size_t>(cut.seq)];
      const int64_t next_diff = std::abs(next * num_parts - i * total);
      if (next_diff > diff) break;
      advance();
      diff = next_diff;
    }
    cuts.push_back(cut);
  }
  return cuts;
}

// Cuts at equal numbers of tokens.
std::vector<Cut> even_cuts(Lengths lens, int64_t total, int num_parts) {
  std::vector<Cut> cuts;
  cuts.reserve(static_cast<size_t>(num_parts));
  int64_t seq = 0, begin = 0;  // the sequence that holds the token, and its first token
  for (int64_t i = 1; i < num_parts; ++i) {
    const int64_t token = total * i / num_parts;
    while (begin + lens[static_cast<size_t>(seq)] <= token) begin += lens[static_cast<size_t>(seq++)];
    cuts.push_back({.seq = seq, .token = token, .left = token - begin});
  }
  return cuts;
}

bool is_uneven(const std::vector<Cut>& cuts, int64_t total, double threshold) {
  const auto num_parts = static_cast<double>(cuts.size() + 1);
  const auto tokens = static_cast<double>(total);
  for (size_t k = 0; k < cuts.size(); ++k) {
    const auto i = static_cast<double>(k + 1);
    const auto left = static_cast<double>(cuts[k].token);
    if (left < tokens * ((i - 1 + 2 * threshold) / num_parts)) return true;
    if (left > tokens * ((i + 1 - 2 * threshold) / num_parts)) return true;
  }
  return false;
}

struct PrefillCuts {
  std::vector<Cut> cuts;
  bool even = false;  // SGLang's two-chunk split
};

PrefillCuts prefill_cuts(Lengths lens, double threshold, int num_parts) {
  const int64_t total = sum_of(lens);
  PrefillCuts result{balanced_cuts(lens, total, num_parts)};
  if (threshold == 0 || total < num_parts || !is_uneven(result.cuts, total, threshold)) return result;
  std::vector<Cut> even = even_cuts(lens, total, num_parts);
  result.even = even[0].seq + 1 <= even[0].token;
  if (result.even) result.cuts = std::move(even);
  return result;
}

int64_t num_seqs_of(const SplitInput& input) {
  if (is_prefill(input.mode)) return static_cast<int64_t>(input.extend_lens.size());
  return has_fixed_width(input.mode) ? input.num_tokens / input.token_num_per_seq : 0;
}

std::vector<Cut> cuts_of(const SplitInput& input, int num_parts) {
  if (is_prefill(input.mode)) return prefill_cuts(input.extend_lens, input.threshold, num_parts).cuts;
  std::vector<Cut> cuts(static_cast<size_t>(num_parts - 1));
  for (size_t k = 0; k < cuts.size(); ++k) {
    cuts[k].seq = num_seqs_of(input) * static_cast<int64_t>(k + 1) / num_parts;
    cuts[k].token = cuts[k].seq * input.token_num_per_seq;
  }
  return cuts;
}

// ---- children ----

void fill_prefill_lens(SplitChild& child, const SplitInput& input, const Cut& begin, const Cut& end) {
  const auto first = static_cast<size_t>(child.seq_begin);
  const auto num_seqs = static_cast<size_t>(child.seq_end - child.seq_begin);
  if (num_seqs == 0) return;
  const Lengths lens = input.extend_lens.subspan(first, num_seqs);
  child.extend_lens.assign(lens.begin(), lens.end());
  // A cut sequence: what is before the child is in the cache by then, what is behind it comes later.
  child.extend_lens.front() -= begin.left;
  if (end.left > 0) child.extend_lens.back() -= lens.back() - end.left;
  if (input.prefix_lens.empty()) {
    child.prefix_lens.assign(num_seqs, 0);
  } else {
    const Lengths prefix = input.prefix_lens.subspan(first, num_seqs);
    child.prefix_lens.assign(prefix.begin(), prefix.end());
  }
  child.prefix_lens.front() += begin.left;
  child.seq_lens.resize(num_seqs);
  child.extend_start_loc.resize(num_seqs);
  int64_t row = 0;
  for (size_t i = 0; i < num_seqs; ++i) {
    child.seq_lens[i] = child.prefix_lens[i] + child.extend_lens[i];
    child.extend_start_loc[i] = row;
    row += child.extend_lens[i];
  }
}

// Sequences and their entries of the flat tree mask; `mask_begin` is where those of the child before end.
void fill_fixed_lens(SplitChild& child, const SplitInput& input, int64_t mask_begin) {
  if (input.seq_lens.empty()) return;
  child.seq_lens.assign(input.seq_lens.begin() + child.seq_begin, input.seq_lens.begin() + child.seq_end);
  if (input.mode != ForwardMode::kTargetVerify) return;
  const int64_t width = input.token_num_per_seq;
  child.mask_begin = child.mask_end = mask_begin;
  for (const int64_t len : child.seq_lens) child.mask_end += (len + width) * width;
}

SplitChild make_child(const SplitInput& input, const Cut& begin, const Cut& end, int64_t mask_begin) {
  SplitChild child;
  child.seq_begin = begin.seq;
  child.seq_end = end.seq + (end.left > 0 ? 1 : 0);
  child.token_begin = begin.token;
  child.token_end = end.token;
  child.num_tokens = end.token - begin.token;
  child.padded_len = round_up<int64_t>(child.num_tokens, input.attn_tp_size);
  const int64_t real = input.num_token_non_padded < 0 ? input.num_tokens : input.num_token_non_padded;
  child.num_token_non_padded = std::clamp<int64_t>(real - begin.token, 0, child.num_tokens);
  if (is_prefill(input.mode)) {
    fill_prefill_lens(child, input, begin, end);
  } else {
    fill_fixed_lens(child, input, mask_begin);
  }
  // The decode sequences are the batch's last: those of them that lie in the range.
  const int64_t decode_begin = num_seqs_of(input) - input.mix_decode_bs;
  child.mix_decode_bs = std::max<int64_t>(0, child.seq_end - std::max(child.seq_begin, decode_begin));
  return child;
}

}  // namespace

bool is_two_chunk(Lengths extend_lens, double threshold) {
  check_threshold(threshold);
  check_lengths("extend_lens", extend_lens, ForwardMode::kExtend);
  return prefill_cuts(extend_lens, threshold, 2).even;
}

int64_t compute_split_seq_index(const SplitInput& input) {
  check_indexed(input);
  return cuts_of(input, 2)[0].seq;
}

int64_t compute_split_token_index(int64_t split_seq_index, const SplitInput& input) {
  check_indexed(input);
  if (is_prefill(input.mode)) {
    WEFT_CHECK(split_seq_index >= 0 && split_seq_index <= static_cast<int64_t>(input.extend_lens.size()),
               "split: sequence index {} of {} sequences; give what compute_split_seq_index returns",
               split_seq_index, input.extend_lens.size());
    if (prefill_cuts(input.extend_lens, input.threshold, 2).even) return sum_of(input.extend_lens) / 2;
    return sum_of(input.extend_lens.first(static_cast<size_t>(split_seq_index)));
  }
  const int64_t max_index = has_fixed_width(input.mode) ? kMaxLength / input.token_num_per_seq : 0;
  WEFT_CHECK(split_seq_index >= 0 && split_seq_index <= max_index,
             "split: a {} batch has no sequence index {}; it must be 0..{}", forward_mode_name(input.mode),
             split_seq_index, max_index);
  return split_seq_index * input.token_num_per_seq;
}

std::optional<Split> split(const SplitInput& input, std::string* why) {
  check_indexed(input);
  check_rest(input);
  const auto empty = std::find(input.extend_lens.begin(), input.extend_lens.end(), 0);
  if (empty != input.extend_lens.end()) {
    if (why != nullptr) *why = fmt::format("sequence {} has no tokens", empty - input.extend_lens.begin());
    return std::nullopt;
  }

  const std::vector<Cut> cuts = cuts_of(input, input.num_micro_batches);
  const Cut end{.seq = num_seqs_of(input), .token = input.num_tokens, .left = 0};
  Split result;
  result.seq_index = cuts[0].seq;
  result.token_index = cuts[0].token;
  result.two_chunk = std::any_of(cuts.begin(), cuts.end(), [](const Cut& cut) { return cut.left > 0; });
  result.children.reserve(cuts.size() + 1);
  for (size_t k = 0; k <= cuts.size(); ++k) {
    const int64_t mask_begin = k == 0 ? 0 : result.children.back().mask_end;
    result.children.push_back(
        make_child(input, k == 0 ? Cut{} : cuts[k - 1], k < cuts.size() ? cuts[k] : end, mask_begin));
  }
  return result;
}

std::pair<int64_t, int64_t> replay_split(int64_t bucket, int64_t num_tokens) {
  WEFT_CHECK(bucket > 0 && bucket % 2 == 0,
             "replay_split: a bucket of {} rows has no two equal halves; give an even number", bucket);
  WEFT_CHECK(num_tokens >= 0 && num_tokens <= bucket,
             "replay_split: {} tokens in a bucket of {} rows; it must hold 0..{}", num_tokens, bucket,
             bucket);
  const int64_t half = bucket / 2;
  return {std::min(half, num_tokens), std::max<int64_t>(0, num_tokens - half)};
}

}  // namespace weft::plan
