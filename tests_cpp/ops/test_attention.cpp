#include <gmock/gmock.h>

#include <limits>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/cpu/kernels.h"
#include "ops/paged_batch.h"

namespace weft::test {
namespace {

using ::testing::HasSubstr;

struct Case {
  std::vector<SequenceLengths> sequences;
  int64_t page_size = 16;
  int64_t kv_heads = 2;
  int64_t group = 2;
  int64_t head_dim = 64;
  DType dtype = DType::kF32;  // of q and out
  DType cache_dtype = DType::kF32;
  int64_t padding_rows = 3;
};

/// All of an attention call; tokens hold the same numbers whatever batch, pages and padding they are in.
class Attention {
 public:
  /// Sequence s of the batch stands for the sequence names[s] (its number by default).
  explicit Attention(const Case& c, std::vector<int64_t> names = {})
      : case_(c),
        names_(std::move(names)),
        paged_(c.sequences, c.page_size, 7),
        q_(c.dtype, shape_of_q(), {2 * c.kv_heads * c.group * c.head_dim, c.head_dim, 1}),
        out_(c.dtype, shape_of_q()),
        k_(c.cache_dtype, {paged_.num_slots(), c.kv_heads, c.head_dim}),
        v_(c.cache_dtype, {paged_.num_slots(), c.kv_heads, c.head_dim}) {
    const int64_t q_width = c.kv_heads * c.group * c.head_dim;
    const int64_t kv_width = c.kv_heads * c.head_dim;
    for (int64_t s = 0; s < num_sequences(); ++s) {
      const SequenceLengths& lengths = c.sequences[static_cast<size_t>(s)];
      for (int64_t p = 0; p < lengths.kv_len; ++p) {
        for (int64_t i = 0; i < kv_width; ++i) {
          k_.set(paged_.slot(s, p) * kv_width + i, 2.0 * content(1, name(s), p, i));
          v_.set(paged_.slot(s, p) * kv_width + i, content(2, name(s), p, i));
        }
      }
      for (int64_t r = 0; r < lengths.q_len; ++r) {
        const int64_t position = lengths.kv_len - lengths.q_len + r;
        for (int64_t i = 0; i < q_width; ++i) {
          q_.set((paged_.first_row(s) + r) * q_width + i, 2.0 * content(3, name(s), position, i));
        }
      }
    }
  }

  [[nodiscard]] ops::PagedAttentionArgs args() const {
    return {.out = out_.view(),
            .q = q_.view(),
            .k_cache = k_.view(),
            .v_cache = v_.view(),
            .batch = paged_.batch(),
            .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(case_.head_dim)))};
  }
  Attention& run(int num_threads = 1) {
    InlineContext context(num_threads);
    ops::cpu::paged_attention(args(), context);
    return *this;
  }

  /// Rows outside of every sequence are NaN: they were, and must stay.
  [[nodiscard]] std::vector<double> expected() const {
    std::vector<double> result(static_cast<size_t>(out_.numel()), std::numeric_limits<double>::quiet_NaN());
    const int64_t heads = case_.kv_heads * case_.group;
    for (int64_t s = 0; s < num_sequences(); ++s) {
      const SequenceLengths& lengths = case_.sequences[static_cast<size_t>(s)];
      for (int64_t r = 0; r < lengths.q_len; ++r) {
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t row = paged_.first_row(s) + r;
          const std::vector<double> out = reference_row(s, row, h, lengths.kv_len - lengths.q_len + r + 1);
          std::copy(out.begin(), out.end(), result.begin() + (row * heads + h) * case_.head_dim);
        }
      }
    }
    return result;
  }

  /// Bits of output row r of sequence s.
  [[nodiscard]] std::vector<uint64_t> row_bits(int64_t s, int64_t r) const {
    const int64_t width = case_.kv_heads * case_.group * case_.head_dim;
    std::vector<uint64_t> bits;
    for (int64_t i = 0; i < width; ++i) bits.push_back(out_.bits((paged_.first_row(s) + r) * width + i));
    return bits;
  }

  PagedBatch& paged() { return paged_; }
  HostTensor& out() { return out_; }

 private:
  [[nodiscard]] HostTensor::Index shape_of_q() const {
    return {paged_.num_rows() + case_.padding_rows, case_.kv_heads * case_.group, case_.head_dim};
  }
  [[nodiscard]] int64_t num_sequences() const { return static_cast<int64_t>(case_.sequences.size()); }
  [[nodiscard]] int64_t name(int64_t s) const { return names_.empty() ? s : names_[static_cast<size_t>(s)]; }
  [[nodiscard]] std::vector<double> reference_row(int64_t s, int64_t row, int64_t head, int64_t limit) const {
    const int64_t dim = case_.head_dim;
    const int64_t kv_head = head / case_.group;
    std::vector<double> scores;
    std::vector<std::vector<double>> values;
    for (int64_t p = 0; p < limit; ++p) {
      double score = 0.0;
      std::vector<double> value;
      for (int64_t d = 0; d < dim; ++d) {
        score += q_.at({row, head, d}) * k_.at({paged_.slot(s, p), kv_head, d});
        value.push_back(v_.at({paged_.slot(s, p), kv_head, d}));
      }
      scores.push_back(score / std::sqrt(static_cast<double>(dim)));
      values.push_back(value);
    }
    return naive_attention(scores, values);
  }

  Case case_;
  std::vector<int64_t> names_;
  PagedBatch paged_;
  HostTensor q_, out_, k_, v_;
};

double tolerance(DType dtype) { return 4e-6 + 1.01 * unit_roundoff(dtype); }

TEST(PagedAttentionTest, MatchesTheReferenceOnPrefillDecodeAndMixedRowsWithEveryInstructionSet) {
  const std::vector<Case> cases = {
      {.sequences = {{5, 5}, {1, 40}, {1, 1}, {33, 70}, {0, 9}, {2, 65}}, .page_size = 16},
      {.sequences = {{1, 1}, {1, 31}, {1, 32}, {1, 33}},
       .page_size = 1,
       .kv_heads = 1,
       .group = 1,
       .head_dim = 128},
      {.sequences = {{70, 70}}, .page_size = 64, .kv_heads = 1, .group = 3, .head_dim = 17},
      {.sequences = {{3, 130}, {1, 64}}, .page_size = 64, .kv_heads = 3, .group = 4, .head_dim = 1},
      {.sequences = {{1, 100}, {7, 7}}, .page_size = 5, .kv_heads = 2, .group = 8, .head_dim = 72},
      {.sequences = {{4, 36}, {1, 3}}, .page_size = 16, .kv_heads = 1, .group = 16, .head_dim = 96},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::vector<double> expected = Attention(cases[i]).expected();
    for (const ops::cpu::Isa isa : available_isas()) {
      const ops::cpu::IsaOverride use(isa);
      Attention attention(cases[i]);
      EXPECT_TRUE(near(attention.run().out(), expected, 0.0, tolerance(DType::kF32)))
          << "case " << i << ", " << ops::cpu::isa_name(isa);
    }
  }
}

TEST(PagedAttentionTest, ConvertsEveryFloatDtypeOfQueriesAndCache) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType cache_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      // Few and many rows: keys are converted at each use, or once a block.
      const Case c{.sequences = {{1, 45}, {20, 50}},
                   .group = 2,
                   .head_dim = 37,
                   .dtype = dtype,
                   .cache_dtype = cache_dtype};
      const std::vector<double> expected = Attention(c).expected();
      for (const ops::cpu::Isa isa : available_isas()) {
        const ops::cpu::IsaOverride use(isa);
        EXPECT_TRUE(near(Attention(c).run().out(), expected, 0.0, tolerance(dtype)))
            << dtype_name(dtype) << " over " << dtype_name(cache_dtype) << ", " << ops::cpu::isa_name(isa);
      }
    }
  }
}

TEST(PagedAttentionTest, ARowHasTheSameBitsInEveryBatchPageSizeThreadCountAndPadding) {
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    for (const DType cache_dtype : {DType::kF32, DType::kBF16}) {
      Case alone{
          .sequences = {{6, 77}}, .group = 3, .head_dim = 40, .cache_dtype = cache_dtype, .padding_rows = 0};
      Case crowded = alone;
      crowded.sequences = {{40, 40}, {6, 77}, {1, 200}, {1, 3}};
      crowded.padding_rows = 9;
      Attention first(alone, {5});
      first.run();
      for (const int64_t page_size : {1, 7, 16, 64}) {
        crowded.page_size = page_size;
        for (const int threads : {1, 3}) {
          Attention second(crowded, {1, 5, 2, 3});
          second.run(threads);
          for (int64_t r = 0; r < 6; ++r)
            EXPECT_EQ(first.row_bits(0, r), second.row_bits(1, r)) << "row " << r;
        }
      }
    }
  }
}

TEST(PagedAttentionTest, ARowHasTheSameBitsInAWholePromptInChunksAndInDecode) {
  constexpr int64_t kLength = 75;
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    for (const int64_t group : {1, 2, 5}) {
      Case whole{.sequences = {{kLength, kLength}},
                 .kv_heads = 1,
                 .group = group,
                 .head_dim = 48,
                 .cache_dtype = DType::kBF16};
      Attention prompt(whole, {0});
      prompt.run();
      for (const int64_t chunk : {1, 2, 7, 32, 40}) {
        for (int64_t begin = 0; begin < kLength; begin += chunk) {
          Case part = whole;
          const int64_t end = std::min(kLength, begin + chunk);
          part.sequences = {{end - begin, end}};
          Attention piece(part, {0});
          piece.run();
          for (int64_t r = begin; r < end; ++r) {
            ASSERT_EQ(prompt.row_bits(0, r), piece.row_bits(0, r - begin))
                << "position " << r << ", chunk " << chunk;
          }
        }
      }
    }
  }
}

TEST(PagedAttentionTest, LargeScoresNeitherOverflowNorVanish) {
  Case c{.sequences = {{1, 80}}, .kv_heads = 1, .group = 1, .head_dim = 8};
  Attention attention(c);
  ops::PagedAttentionArgs args = attention.args();
  args.scale = 400.0F;  // scores of several hundred: e^x alone would be inf
  InlineContext context;
  ops::cpu::paged_attention(args, context);
  for (int64_t i = 0; i < 8; ++i) EXPECT_LE(std::abs(attention.out().get(i)), 1.0);
}

TEST(PagedAttentionTest, NoSequenceWritesNothing) {
  Attention attention({.sequences = {}, .padding_rows = 4});
  const std::vector<std::byte> before = attention.out().bytes();
  attention.run(2);
  EXPECT_EQ(attention.out().bytes(), before);
}

TEST(PagedAttentionTest, MalformedBatchesAreErrorsThatNameTheSequence) {
  const Case c{.sequences = {{2, 20}, {1, 5}}};
  const auto message = [&](void (*damage)(PagedBatch&)) -> std::string {
    Attention attention(c);
    damage(attention.paged());
    try {
      attention.run();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message([](PagedBatch& b) { b.kv_len()[1] = 0; }), HasSubstr("sequence 1 has kv_len=0"));
  EXPECT_THAT(message([](PagedBatch& b) { b.kv_len()[0] = 1000; }), HasSubstr("sequence 0 has kv_len=1000"));
  EXPECT_THAT(message([](PagedBatch& b) { b.cu_q()[2] = 99; }), HasSubstr("sequence 1 owns rows [2, 99)"));
  EXPECT_THAT(message([](PagedBatch& b) { b.cu_q()[1] = -1; }), HasSubstr("cu_q must rise"));
  EXPECT_THAT(message([](PagedBatch& b) { b.num_seqs()[0] = 50; }), HasSubstr("num_seqs=50"));
  EXPECT_THAT(message([](PagedBatch& b) { b.page_table()[1] = 1 << 20; }),
              HasSubstr("position 16 of sequence 0"));
  EXPECT_THAT(message([](PagedBatch& b) { b.page_table()[0] = -1; }), HasSubstr("page -1"));
}

/// The op on a device's stream.
class PagedAttentionStreamTest : public ::testing::Test {
 protected:
  std::unique_ptr<device::Device> device_ = device::make_cpu_device({.num_threads = 2});
  std::unique_ptr<device::Stream> stream_ = device_->make_stream("compute");

  /// The message of the call's error.
  std::string message(const ops::PagedAttentionArgs& args) {
    try {
      ops::paged_attention(*stream_, args);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(PagedAttentionStreamTest, RefusesShapesAndDtypesThatDoNotFit) {
  Attention attention({.sequences = {{2, 20}}, .kv_heads = 2, .group = 2, .head_dim = 64});
  const ops::PagedAttentionArgs good = attention.args();
  ops::PagedAttentionArgs bad = good;
  bad.out = good.out.rows(0, 1);
  EXPECT_THAT(message(bad), HasSubstr("paged_attention: out is f32[1, 4, 64]"));
  bad = good;
  bad.k_cache = good.k_cache.columns(0, 32);
  EXPECT_THAT(message(bad), HasSubstr("k_cache"));
  bad = good;
  bad.v_cache.dtype = DType::kBF16;
  EXPECT_THAT(message(bad), HasSubstr("v_cache"));
  bad = good;
  bad.k_cache.shape[1] = bad.v_cache.shape[1] = 3;
  EXPECT_THAT(message(bad), HasSubstr("q_heads=4 must be a positive multiple of kv_heads=3"));
  bad = good;
  bad.q.dtype = DType::kI32;
  EXPECT_THAT(message(bad), HasSubstr("q is i32"));
  bad = good;
  bad.batch.page_size = 0;
  EXPECT_THAT(message(bad), HasSubstr("page_size=0"));
  bad = good;
  bad.batch.kv_len = nullptr;
  EXPECT_THAT(message(bad), HasSubstr("cu_q, kv_len or num_seqs"));
}

TEST_F(PagedAttentionStreamTest, AReplayReadsLengthsFromDeviceMemory) {
  // One page of 8 tokens, one head of one column: the output is the mean of the values that are seen.
  device::Buffer floats = device_->allocate(4 * 26, "floats");
  device::Buffer ints = device_->allocate(4 * 5, "ints");
  auto* f = static_cast<float*>(floats.data());
  auto* n = static_cast<int32_t*>(ints.data());
  for (int i = 0; i < 8; ++i) {
    f[2 + i] = 0.0F;                    // keys
    f[10 + i] = static_cast<float>(i);  // values
  }
  f[0] = 1.0F;
  const auto set = [&](int32_t kv_len) { n[0] = 0, n[1] = 1, n[2] = kv_len, n[3] = 0, n[4] = 1; };
  set(3);
  const ops::PagedAttentionArgs args{.out = floats.view(DType::kF32, {1, 1, 1}, 4),
                                     .q = floats.view(DType::kF32, {1, 1, 1}),
                                     .k_cache = floats.view(DType::kF32, {8, 1, 1}, 4 * 2),
                                     .v_cache = floats.view(DType::kF32, {8, 1, 1}, 4 * 10),
                                     .batch = {.cu_q = n,
                                               .kv_len = n + 2,
                                               .page_table = n + 3,
                                               .num_seqs = n + 4,
                                               .max_seqs = 1,
                                               .page_table_stride = 1,
                                               .page_size = 8}};
  stream_->begin_capture();
  ops::paged_attention(*stream_, args);
  const std::unique_ptr<device::Graph> graph = stream_->end_capture();
  EXPECT_EQ(graph->op_names(), std::vector<std::string>{"paged_attention"});
  for (const int32_t kv_len : {3, 8, 1}) {
    set(kv_len);
    stream_->replay(*graph);
    stream_->wait_idle(std::chrono::seconds(10));
    EXPECT_FLOAT_EQ(f[1], static_cast<float>(kv_len - 1) / 2.0F) << "kv_len " << kv_len;
  }
}

}  // namespace
}  // namespace weft::test
