#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "plan/forward_mode.h"

namespace weft::plan {

/// One rank's batch as the splitter sees it. Lengths are in tokens, one entry a sequence, host.
struct SplitInput {
  ForwardMode mode = ForwardMode::kIdle;
  int64_t num_tokens = 0;
  std::span<const int64_t> extend_lens;  // EXTEND, MIXED: new tokens of each sequence
  std::span<const int64_t> prefix_lens;  // EXTEND, MIXED: tokens already in the cache; may be empty (zeros)
  std::span<const int64_t> seq_lens;     // all tokens of each sequence; may be empty
  int64_t token_num_per_seq = 1;         // DECODE: 1; TARGET_VERIFY: draft tokens
  double threshold = 0.48;               // of the two-chunk split; 0 disables it, above 0.5 is refused
  int attn_tp_size = 1;                  // children are padded to a multiple of it
  int64_t mix_decode_bs = 0;             // MIXED: decode sequences at the end
};

/// A half of the batch. Ranges are half-open, in the parent.
struct SplitChild {
  int64_t seq_begin = 0, seq_end = 0;
  int64_t token_begin = 0, token_end = 0;
  int64_t num_tokens = 0;
  int64_t padded_len = 0;            // num_tokens rounded up to attn_tp_size
  std::vector<int64_t> extend_lens;  // as the child must run them (a cut sequence appears in both)
  std::vector<int64_t> prefix_lens;
  std::vector<int64_t> seq_lens;
  int64_t mix_decode_bs = 0;
};

struct Split {
  int64_t seq_index = 0;
  int64_t token_index = 0;
  bool two_chunk = false;            // one sequence is cut between the children
  std::vector<SplitChild> children;  // two; one or both may be empty
};

/// SGLang's two indices (semantics 1.3, 1.4). Throw Error for a threshold above 0.5, for negative lengths,
/// for token_num_per_seq < 1 where it counts, for rows in an IDLE or PREBUILT batch, and for modes without a
/// rule. PREBUILT has token index 0, where SGLang has no rule. num_tokens of EXTEND and MIXED is not looked
/// at.
int64_t compute_split_seq_index(const SplitInput& input);
int64_t compute_split_token_index(int64_t split_seq_index, const SplitInput& input);
/// Whether SGLang cuts at half the tokens instead of between two sequences. Such a cut may still fall between
/// two sequences; then Split::two_chunk is false.
bool is_two_chunk(std::span<const int64_t> extend_lens, double threshold);

/// The split, or no value with the reason in *why (may be null): some sequence has no tokens. Children are
/// consistent for every mode: a two-chunk split of a MIXED batch gives what the same lengths give as EXTEND,
/// and no child holds a sequence with zero tokens: where the cut falls between two sequences, each goes to
/// one child. A child may be empty (one decode sequence: the first is). Throws Error as the indices do, and
/// for lengths that contradict num_tokens or each other.
std::optional<Split> split(const SplitInput& input, std::string* why);

/// Rows of a padded decode batch in each half when a graph of `bucket` rows replays `num_tokens` real ones
/// (semantics 1.5): {min(half, n), max(0, n - half)}. Throws Error if bucket is odd or holds fewer than
/// num_tokens.
std::pair<int64_t, int64_t> replay_split(int64_t bucket, int64_t num_tokens);

}  // namespace weft::plan
