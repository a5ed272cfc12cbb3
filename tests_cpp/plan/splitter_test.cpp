#include "plan/splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"
#include "base/math.h"
#include "support/message_of.h"

namespace weft::plan {
namespace {

using test::message_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Lens = std::vector<int64_t>;
using Lengths = std::span<const int64_t>;

SplitInput extend_input(const Lens& lens, ForwardMode mode = ForwardMode::kExtend) {
  SplitInput input;
  input.mode = mode;
  input.num_tokens = std::accumulate(lens.begin(), lens.end(), int64_t{0});
  input.extend_lens = lens;  // a view: `lens` must outlive it
  return input;
}
SplitInput extend_input(Lens&&, ForwardMode = ForwardMode::kExtend) = delete;

SplitInput decode_input(int64_t num_tokens) {
  SplitInput input;
  input.mode = ForwardMode::kDecode;
  input.num_tokens = num_tokens;
  return input;
}

std::pair<int64_t, int64_t> indices(const SplitInput& input) {
  const int64_t seq = compute_split_seq_index(input);
  return {seq, compute_split_token_index(seq, input)};
}

TEST(SplitIndexTest, DecodeIsCutInTheMiddle) {
  EXPECT_EQ(indices(decode_input(0)), std::pair(0L, 0L));
  EXPECT_EQ(indices(decode_input(100)), std::pair(50L, 50L));
  EXPECT_EQ(indices(decode_input(99)), std::pair(49L, 49L));
}

TEST(SplitIndexTest, VerifyIsCutBetweenSequences) {
  SplitInput input = decode_input(20);
  input.mode = ForwardMode::kTargetVerify;
  input.token_num_per_seq = 4;
  EXPECT_EQ(indices(input), std::pair(2L, 8L));
}

TEST(SplitIndexTest, ExtendMatchesSglangsUnitRows) {
  const std::pair<Lens, std::pair<int64_t, int64_t>> rows[] = {
      {{}, {0, 0}},
      {{42}, {0, 21}},
      {{42, 999}, {1, 520}},
      {{999, 42}, {0, 520}},
      {{498, 502}, {1, 498}},
      {{4096, 4096, 4096, 4096}, {2, 8192}},
      {{4095, 4096, 4096, 4096, 1}, {2, 8191}},
      {{1, 4095, 4096, 4096, 4096}, {3, 8192}},
      {{4097, 4096, 4096, 4095, 1}, {2, 8193}},
      {{1, 1, 1, 1, 99999}, {4, 50001}},
      {{99999, 1, 1, 1, 1}, {0, 50001}},
  };
  for (const auto& [lens, expected] : rows) {
    EXPECT_EQ(indices(extend_input(lens)), expected) << ::testing::PrintToString(lens);
    EXPECT_EQ(indices(extend_input(lens, ForwardMode::kMixed)), expected) << ::testing::PrintToString(lens);
  }
}

TEST(SplitIndexTest, ThresholdZeroNeverCutsASequence) {
  const Lens lens{1, 99};
  SplitInput input = extend_input(lens);
  input.threshold = 0;
  EXPECT_EQ(indices(input), std::pair(1L, 1L));
}

TEST(SplitIndexTest, IdleAndPrebuiltHaveBothIndicesZero) {
  for (const ForwardMode mode : {ForwardMode::kIdle, ForwardMode::kPrebuilt}) {
    SplitInput input;
    input.mode = mode;
    EXPECT_EQ(indices(input), std::pair(0L, 0L));
    input.num_tokens = 3;
    EXPECT_THAT(message_of([&] { (void)compute_split_seq_index(input); }), HasSubstr("num_tokens=3"));
  }
}

TEST(SplitIndexTest, ThresholdAboveHalfIsRefused) {
  const Lens lens{5, 5};
  for (const double threshold : {0.51, 1.0, std::nan("")}) {
    SplitInput input = extend_input(lens);
    input.threshold = threshold;
    EXPECT_THROW((void)compute_split_seq_index(input), Error);
    input = decode_input(4);  // where it decides nothing, too
    input.threshold = threshold;
    EXPECT_THROW((void)compute_split_seq_index(input), Error);
    EXPECT_THROW((void)split(input, nullptr), Error);
  }
  EXPECT_NO_THROW((void)is_two_chunk(lens, 0.5));
}

TEST(SplitIndexTest, NegativeLengthsAndWidthsAreRefused) {
  const Lens lens{5, -1};
  EXPECT_THAT(message_of([&] { (void)compute_split_seq_index(extend_input(lens)); }),
              HasSubstr("extend_lens[1]=-1"));
  SplitInput input = decode_input(8);
  input.token_num_per_seq = 0;
  EXPECT_THROW((void)compute_split_seq_index(input), Error);
  input = decode_input(8);
  input.mode = static_cast<ForwardMode>(77);
  EXPECT_THAT(message_of([&] { (void)compute_split_seq_index(input); }),
              HasSubstr("no rule for forward mode 77"));
}

TEST(SplitTest, CutsOneSequenceIntoTwoChunks) {
  const Lens lens{10, 90};
  const Lens prefixes{3, 7};
  SplitInput input = extend_input(lens);
  input.prefix_lens = prefixes;
  input.attn_tp_size = 4;
  const Split halves = split(input, nullptr).value();
  EXPECT_TRUE(halves.two_chunk);
  const SplitChild& a = halves.children[0];
  EXPECT_THAT(a.extend_lens, ElementsAre(10, 40));
  EXPECT_THAT(a.prefix_lens, ElementsAre(3, 7));
  EXPECT_THAT(a.seq_lens, ElementsAre(13, 47));
  EXPECT_EQ(a.padded_len, 52);
  const SplitChild& b = halves.children[1];
  EXPECT_EQ(b.seq_begin, 1);
  EXPECT_THAT(b.extend_lens, ElementsAre(50));
  EXPECT_THAT(b.prefix_lens, ElementsAre(47));  // the first chunk is in the cache by then
  EXPECT_THAT(b.seq_lens, ElementsAre(97));
}

TEST(SplitTest, GivesASequenceToOneChildWhereTheTwoChunkCutFallsOnItsEdge) {
  // SGLang leaves a row of zero tokens in the first child here: lengths {2, 0}.
  const Lens lens{2, 3};
  ASSERT_TRUE(is_two_chunk(lens, 0.48));
  const Split halves = split(extend_input(lens), nullptr).value();
  EXPECT_FALSE(halves.two_chunk);
  EXPECT_THAT(halves.children[0].extend_lens, ElementsAre(2));
  EXPECT_THAT(halves.children[1].extend_lens, ElementsAre(3));
}

TEST(SplitTest, MixedBatchSplitsLikeExtendAndCountsItsDecodeTail) {
  const Lens lens{77, 1, 1};
  SplitInput input = extend_input(lens, ForwardMode::kMixed);
  input.mix_decode_bs = 2;
  const Split halves = split(input, nullptr).value();
  EXPECT_TRUE(halves.two_chunk);
  EXPECT_THAT(halves.children[0].extend_lens, ElementsAre(39));
  EXPECT_EQ(halves.children[0].mix_decode_bs, 0);
  EXPECT_THAT(halves.children[1].extend_lens, ElementsAre(38, 1, 1));
  EXPECT_EQ(halves.children[1].mix_decode_bs, 2);
}

TEST(SplitTest, DecodeChildrenSliceTheSequenceLengths) {
  const Lens seq_lens{5, 6, 7};
  SplitInput input = decode_input(3);
  input.seq_lens = seq_lens;
  const Split halves = split(input, nullptr).value();
  EXPECT_THAT(halves.children[0].seq_lens, ElementsAre(5));
  EXPECT_THAT(halves.children[1].seq_lens, ElementsAre(6, 7));
  EXPECT_THAT(halves.children[0].extend_lens, IsEmpty());
}

TEST(SplitTest, OneDecodeSequenceLeavesTheFirstChildEmpty) {
  const Split halves = split(decode_input(1), nullptr).value();
  EXPECT_EQ(halves.children[0].num_tokens, 0);
  EXPECT_EQ(halves.children[1].num_tokens, 1);
}

TEST(SplitTest, VerifyChildrenHaveTheirPartOfTheTreeMask) {
  const Lens seq_lens{10, 13, 16};
  SplitInput input = decode_input(12);
  input.mode = ForwardMode::kTargetVerify;
  input.token_num_per_seq = 4;
  input.seq_lens = seq_lens;
  Split halves = split(input, nullptr).value();
  const SplitChild& a = halves.children[0];
  const SplitChild& b = halves.children[1];
  EXPECT_EQ(std::pair(a.mask_begin, a.mask_end), std::pair(0L, 14L * 4));
  EXPECT_EQ(std::pair(b.mask_begin, b.mask_end), std::pair(14L * 4, (14L + 17 + 20) * 4));
  EXPECT_THAT(b.seq_lens, ElementsAre(13, 16));
  // SGLang gives an empty child the whole mask; here it has an empty part.
  input.num_tokens = 4;
  input.seq_lens = Lengths(seq_lens).first(1);
  halves = split(input, nullptr).value();
  EXPECT_EQ(halves.children[0].mask_end, 0);
  EXPECT_EQ(halves.children[1].mask_end, 14 * 4);
}

TEST(SplitTest, RealRowsFillTheChildrenInOrder) {
  const Lens lens{4, 4, 4};
  SplitInput input = extend_input(lens);
  input.num_micro_batches = 3;
  input.num_token_non_padded = 5;
  const auto real = [&] {
    const Split parts = split(input, nullptr).value();
    Lens counts;
    for (const SplitChild& child : parts.children) counts.push_back(child.num_token_non_padded);
    return counts;
  };
  EXPECT_THAT(real(), ElementsAre(4, 1, 0));
  input.num_token_non_padded = -1;
  EXPECT_THAT(real(), ElementsAre(4, 4, 4));
  input.num_token_non_padded = 13;
  EXPECT_THAT(message_of(real), HasSubstr("num_token_non_padded=13 of num_tokens=12"));
}

TEST(SplitTest, StartsAreThoseOfTheChild) {
  const Lens lens{4, 2, 6};
  const Split halves = split(extend_input(lens), nullptr).value();
  EXPECT_THAT(halves.children[0].extend_start_loc, ElementsAre(0, 4));
  EXPECT_THAT(halves.children[1].extend_start_loc, ElementsAre(0)) << "SGLang keeps the parent's 6";
}

TEST(NWaySplitTest, BalancesWholeSequencesWhereTheyAreEvenEnough) {
  const Lens lens{10, 10, 9, 11, 10, 10};
  SplitInput input = extend_input(lens);
  input.num_micro_batches = 3;
  const Split parts = split(input, nullptr).value();
  EXPECT_FALSE(parts.two_chunk);
  EXPECT_THAT(parts.children[0].extend_lens, ElementsAre(10, 10));
  EXPECT_THAT(parts.children[1].extend_lens, ElementsAre(9, 11));
  EXPECT_THAT(parts.children[2].extend_lens, ElementsAre(10, 10));
}

TEST(NWaySplitTest, CutsOneSequenceIntoAsManyChunksAsItTakes) {
  const Lens lens{2, 90, 8};
  const Lens prefixes{5, 7, 9};
  SplitInput input = extend_input(lens);
  input.prefix_lens = prefixes;
  input.num_micro_batches = 4;
  const Split parts = split(input, nullptr).value();
  EXPECT_TRUE(parts.two_chunk);
  EXPECT_THAT(parts.children[0].extend_lens, ElementsAre(2, 23));
  EXPECT_THAT(parts.children[1].extend_lens, ElementsAre(25));
  EXPECT_THAT(parts.children[1].prefix_lens, ElementsAre(30));
  EXPECT_THAT(parts.children[2].seq_lens, ElementsAre(80));
  EXPECT_THAT(parts.children[3].extend_lens, ElementsAre(17, 8));
  EXPECT_THAT(parts.children[3].prefix_lens, ElementsAre(80, 9));
  input.threshold = 0;
  EXPECT_FALSE(split(input, nullptr)->two_chunk);
}

TEST(NWaySplitTest, FewSequencesAreTheLastChildren) {
  const Lens lens{1, 1};
  SplitInput input = extend_input(lens);
  input.num_micro_batches = 3;
  const Split parts = split(input, nullptr).value();
  EXPECT_THAT(parts.children[0].extend_lens, IsEmpty());
  EXPECT_THAT(parts.children[1].extend_lens, ElementsAre(1));
  EXPECT_THAT(parts.children[2].extend_lens, ElementsAre(1));
}

TEST(NWaySplitTest, DecodeSharesDifferByAtMostOneSequence) {
  SplitInput input = decode_input(11);
  input.num_micro_batches = 4;
  const Split parts = split(input, nullptr).value();
  Lens counts;
  for (const SplitChild& child : parts.children) counts.push_back(child.num_tokens);
  EXPECT_THAT(counts, ElementsAre(2, 3, 3, 3));
}

TEST(NWaySplitTest, TheNumberOfPartsIsBounded) {
  for (const int parts : {1, 0, -3, kMaxMicroBatches + 1}) {
    SplitInput input = decode_input(8);
    input.num_micro_batches = parts;
    EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }),
                HasSubstr(fmt::format("num_micro_batches={} must be 2..16", parts)));
  }
}

TEST(SplitTest, ABatchWithAnEmptySequenceIsNotSplitAndSaysWhich) {
  const Lens lens{4, 0, 4};
  std::string why;
  EXPECT_FALSE(split(extend_input(lens), &why).has_value());
  EXPECT_EQ(why, "sequence 1 has no tokens");
}

TEST(SplitTest, ContradictingLengthsAreRefused) {
  const Lens lens{4, 4};
  const Lens three{1, 2, 3};
  SplitInput input = extend_input(lens);
  input.num_tokens = 9;
  EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }), HasSubstr("sum to 8, num_tokens is 9"));
  input = extend_input(lens);
  input.prefix_lens = three;
  EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }),
              HasSubstr("3 prefix lengths for 2 sequences"));
  input = extend_input(lens);
  input.seq_lens = lens;
  EXPECT_NO_THROW((void)split(input, nullptr));
  input.prefix_lens = lens;
  EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }), HasSubstr("sequence 0 has length 4"));
  input = extend_input(lens, ForwardMode::kMixed);
  input.mix_decode_bs = 3;
  EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }), HasSubstr("must be 0..2"));
  input = extend_input(lens);
  input.mix_decode_bs = 1;
  EXPECT_THROW((void)split(input, nullptr), Error);
  input = decode_input(2);
  input.seq_lens = three;
  EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }), HasSubstr("3 sequence lengths for 2"));
  input = decode_input(2);
  input.extend_lens = lens;
  EXPECT_THROW((void)split(input, nullptr), Error);
  input = decode_input(5);
  input.mode = ForwardMode::kTargetVerify;
  input.token_num_per_seq = 2;
  EXPECT_THAT(message_of([&] { (void)split(input, nullptr); }), HasSubstr("no multiple of 2"));
}

// What must hold of every split, whatever the lengths.
void expect_sound(const SplitInput& input, const Split& parts) {
  ASSERT_EQ(parts.children.size(), static_cast<size_t>(input.num_micro_batches));
  const SplitChild& last = parts.children.back();
  EXPECT_EQ(last.token_end, input.num_tokens);
  EXPECT_EQ(last.seq_end, static_cast<int64_t>(input.extend_lens.size()));
  EXPECT_EQ(parts.children[1].token_begin, parts.token_index);
  EXPECT_EQ(parts.children[1].seq_begin, parts.seq_index);
  int64_t token = 0, seq_end = 0, mix_decode_bs = 0;
  bool two_chunk = false;
  for (const SplitChild& child : parts.children) {
    EXPECT_EQ(child.token_begin, token);  // so every token is in exactly one child
    token = child.token_end;
    EXPECT_TRUE(child.seq_begin == seq_end || child.seq_begin == seq_end - 1);
    two_chunk = two_chunk || child.seq_begin < seq_end;
    seq_end = child.seq_end;
    mix_decode_bs += child.mix_decode_bs;
  }
  EXPECT_EQ(parts.two_chunk, two_chunk);
  // A decode row is one token, so no cut can share one.
  EXPECT_EQ(mix_decode_bs, input.mix_decode_bs);
  Lens tokens(input.extend_lens.size());
  for (const SplitChild& child : parts.children) {
    EXPECT_EQ(child.num_tokens, child.token_end - child.token_begin);
    EXPECT_EQ(child.padded_len, round_up<int64_t>(child.num_tokens, input.attn_tp_size));
    const auto num_seqs = static_cast<size_t>(child.seq_end - child.seq_begin);
    ASSERT_EQ(child.extend_lens.size(), num_seqs);
    ASSERT_EQ(child.seq_lens.size(), num_seqs);
    int64_t sum = 0;
    for (size_t i = 0; i < num_seqs; ++i) {
      const size_t seq = static_cast<size_t>(child.seq_begin) + i;
      EXPECT_GT(child.extend_lens[i], 0);
      EXPECT_EQ(child.prefix_lens[i], input.prefix_lens[seq] + tokens[seq])
          << "runs after what stands before it";
      EXPECT_EQ(child.seq_lens[i], child.prefix_lens[i] + child.extend_lens[i]);
      EXPECT_EQ(child.extend_start_loc[i], sum);
      tokens[seq] += child.extend_lens[i];
      sum += child.extend_lens[i];
    }
    EXPECT_EQ(sum, child.num_tokens);
  }
  EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), input.extend_lens.begin(), input.extend_lens.end()));
}

TEST(SplitPropertyTest, EveryTokenIsInOneChildAndNoSequenceIsEmpty) {
  std::mt19937 rng(7);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  for (int round = 0; round < 20000; ++round) {
    Lens lens, prefixes;
    const int64_t longest = int64_t{1} << between(0, 9);
    for (int64_t n = between(0, 8); n > 0; --n) lens.push_back(between(1, longest));
    SplitInput input;
    input.mode = between(0, 1) == 0 ? ForwardMode::kExtend : ForwardMode::kMixed;
    if (input.mode == ForwardMode::kMixed) {
      input.mix_decode_bs = between(0, 6);
      lens.insert(lens.end(), static_cast<size_t>(input.mix_decode_bs), 1);
    }
    for (size_t i = 0; i < lens.size(); ++i) prefixes.push_back(between(0, 50));
    input.extend_lens = lens;
    input.prefix_lens = prefixes;
    input.num_tokens = std::accumulate(lens.begin(), lens.end(), int64_t{0});
    const double thresholds[] = {0.0, 0.3, 0.48, 0.5};
    input.threshold = thresholds[between(0, 3)];
    input.attn_tp_size = 1 << between(0, 2);
    input.num_micro_batches = static_cast<int>(between(0, 1) == 0 ? 2 : between(3, 9));
    const auto parts = split(input, nullptr);
    ASSERT_TRUE(parts.has_value());
    expect_sound(input, *parts);
    const int64_t n = input.num_micro_batches;
    for (const SplitChild& child : parts->children) {
      if (static_cast<int64_t>(lens.size()) >= n) {
        EXPECT_GT(child.num_tokens, 0) << "enough sequences for all";
      }
      if (parts->two_chunk) {
        EXPECT_LE(std::abs(child.num_tokens * n - input.num_tokens), n) << "a cut makes shares even";
      }
    }
    if (input.num_micro_batches == 2) {
      EXPECT_EQ(indices(input), std::pair(parts->seq_index, parts->token_index));
    }
    if (HasFailure()) {
      FAIL() << "lengths " << ::testing::PrintToString(lens) << " threshold " << input.threshold << " parts "
             << n;
    }
  }
}

TEST(SplitPropertyTest, TwoChunkHalvesDifferByAtMostOneToken) {
  std::mt19937 rng(8);
  for (int round = 0; round < 5000; ++round) {
    Lens lens;
    for (int n = std::uniform_int_distribution<int>(1, 6)(rng); n > 0; --n) {
      lens.push_back(std::uniform_int_distribution<int64_t>(1, 200)(rng));
    }
    const Split halves = split(extend_input(lens), nullptr).value();
    if (!halves.two_chunk) continue;
    EXPECT_LE(halves.children[1].num_tokens - halves.children[0].num_tokens, 1);
    EXPECT_GE(halves.children[1].num_tokens, halves.children[0].num_tokens);
  }
}

TEST(ReplaySplitTest, RealTokensFillTheFirstHalfFirst) {
  EXPECT_EQ(replay_split(8, 8), std::pair(4L, 4L));
  EXPECT_EQ(replay_split(8, 5), std::pair(4L, 1L));
  EXPECT_EQ(replay_split(8, 3), std::pair(3L, 0L));
  EXPECT_EQ(replay_split(8, 0), std::pair(0L, 0L));
  EXPECT_THROW((void)replay_split(7, 3), Error);
  EXPECT_THROW((void)replay_split(8, 9), Error);
  EXPECT_THROW((void)replay_split(0, 0), Error);
}

}  // namespace
}  // namespace weft::plan
