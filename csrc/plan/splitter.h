#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "plan/forward_mode.h"

namespace weft::plan {

/// Most parts that a batch is split into.
constexpr int kMaxMicroBatches = 16;

/// One rank's batch as the splitter sees it. Lengths are in tokens, one entry a sequence, host; each is at
/// most 2^31 - 1.
struct SplitInput {
  ForwardMode mode = ForwardMode::kIdle;
  int64_t num_tokens = 0;
  std::span<const int64_t> extend_lens;  // EXTEND, MIXED: new tokens of each sequence
  std::span<const int64_t> prefix_lens;  // EXTEND, MIXED: tokens already in the cache; may be empty (zeros)
  std::span<const int64_t>
      seq_lens;                   // tokens of each sequence (TARGET_VERIFY: before its drafts); may be empty
  int64_t token_num_per_seq = 1;  // DECODE: 1; TARGET_VERIFY: draft tokens
  double threshold = 0.48;        // of the two-chunk split; 0 disables it, above 0.5 is refused
  int attn_tp_size = 1;           // children are padded to a multiple of it
  int64_t mix_decode_bs = 0;      // MIXED: decode sequences at the end
  int64_t num_token_non_padded = -1;  // real rows, where padding follows them; -1: all are real
  int num_micro_batches = 2;          // children, 2 to kMaxMicroBatches
};

/// A part of the batch. Ranges are half-open, in the parent.
struct SplitChild {
  int64_t seq_begin = 0, seq_end = 0;
  int64_t token_begin = 0, token_end = 0;
  int64_t num_tokens = 0;
  int64_t num_token_non_padded = 0;  // real rows among them; they come first
  int64_t padded_len = 0;            // num_tokens rounded up to attn_tp_size
  // As the child must run them (a cut sequence appears in each child that has a part of it). EXTEND, MIXED:
  std::vector<int64_t> extend_lens;
  std::vector<int64_t> prefix_lens;
  std::vector<int64_t> extend_start_loc;  // first row of each sequence in the child, from 0
  std::vector<int64_t> seq_lens;          // all modes, if the parent has them (EXTEND, MIXED: always)
  int64_t mix_decode_bs = 0;
  // TARGET_VERIFY with seq_lens: the child's part of the flat tree mask, (seq_len + w) * w entries a sequence
  // of w draft tokens. Per-sequence arrays of the draft tree (retrieve_*) are cut by the sequence range.
  int64_t mask_begin = 0, mask_end = 0;
};

struct Split {
  int64_t seq_index = 0;             // of the first cut: SGLang's split_seq_index if there are two children
  int64_t token_index = 0;           // the same: split_token_index
  bool two_chunk = false;            // some sequence is cut between children
  std::vector<SplitChild> children;  // num_micro_batches; any of them may be empty
};

/// SGLang's two indices (semantics 1.3, 1.4); num_micro_batches is not looked at. Throw Error for a threshold
/// outside [0, 0.5] in any mode, for lengths out of range, for token_num_per_seq < 1 where it counts, for
/// rows in an IDLE or PREBUILT batch, and for modes without a rule. PREBUILT has token index 0, where SGLang
/// has no rule. num_tokens of EXTEND and MIXED is not looked at.
int64_t compute_split_seq_index(const SplitInput& input);
int64_t compute_split_token_index(int64_t split_seq_index, const SplitInput& input);
/// Whether SGLang cuts at half the tokens instead of between two sequences. Such a cut may still fall between
/// two sequences; then Split::two_chunk is false.
bool is_two_chunk(std::span<const int64_t> extend_lens, double threshold);

/// The split into n = num_micro_batches children, or no value with the reason in *why (may be null): some
/// sequence has no tokens. Throws Error as the indices do, and for arguments that contradict each other.
///
/// DECODE, TARGET_VERIFY: cut i (1 <= i < n) lies before sequence num_seqs * i / n.
/// EXTEND, MIXED: cut i lies between the two sequences where the tokens before it come nearest to total * i /
/// n (a tie moves right; each child has a sequence if there are n of them). If some cut has fewer tokens
/// before it than total * (i - 1 + 2 threshold) / n or more than total * (i + 1 - 2 threshold) / n, all cuts
/// lie before token total * i / n instead, in the middle of a sequence if need be; not so for threshold 0, or
/// if the first child would have more sequences than tokens. For n = 2 both are SGLang's rules.
///
/// Children are consistent for every mode: tokens and sequences in order, each token in one child; a MIXED
/// batch is split as the same lengths are as EXTEND; no child holds a sequence with zero tokens: where a cut
/// falls between two sequences, each goes to one child. A child may be empty (one decode sequence: the first
/// is); its ranges are then empty too.
std::optional<Split> split(const SplitInput& input, std::string* why);

/// Rows of a padded decode batch in each half when a graph of `bucket` rows replays `num_tokens` real ones
/// (semantics 1.5): {min(half, n), max(0, n - half)}. Throws Error if bucket is odd or holds fewer than
/// num_tokens.
std::pair<int64_t, int64_t> replay_split(int64_t bucket, int64_t num_tokens);

}  // namespace weft::plan
