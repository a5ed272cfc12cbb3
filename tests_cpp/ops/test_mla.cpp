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
  int64_t heads = 2;
  int64_t nope = 16;
  int64_t rope = 8;
  int64_t lora = 32;
  int64_t v_dim = 24;
  DType dtype = DType::kF32;
  int64_t padding_rows = 2;
  double weight_scale = 0.3;
};

/// All of an MLA call in both forms. Prefill takes plain queries; decode takes them absorbed, in f32, so that
/// both answer the same question. Tokens hold the same numbers whatever batch and pages they are in.
class Mla {
 public:
  explicit Mla(const Case& c, std::vector<int64_t> names = {})
      : case_(c),
        names_(std::move(names)),
        paged_(c.sequences, c.page_size, 3),
        query_(c.dtype, {rows(), c.heads, c.nope + c.rope}),
        absorbed_(DType::kF32, {rows(), c.heads, c.lora}),
        cache_(c.dtype, {paged_.num_slots(), c.lora + c.rope}),
        w_kv_b_(c.dtype, {c.heads, c.nope + c.v_dim, c.lora}),
        out_(c.dtype, {rows(), c.heads, c.v_dim}),
        latent_(DType::kF32, {rows(), c.heads, c.lora}) {
    w_kv_b_.fill_normal(11, c.weight_scale);
    for (int64_t s = 0; s < num_sequences(); ++s) {
      const SequenceLengths& lengths = c.sequences[static_cast<size_t>(s)];
      for (int64_t p = 0; p < lengths.kv_len; ++p) {
        for (int64_t i = 0; i < c.lora + c.rope; ++i) {
          cache_.set(paged_.slot(s, p) * (c.lora + c.rope) + i, 2.0 * content(1, name(s), p, i));
        }
      }
      const int64_t width = c.heads * (c.nope + c.rope);
      for (int64_t r = 0; r < lengths.q_len; ++r) {
        const int64_t row = paged_.first_row(s) + r;
        for (int64_t i = 0; i < width; ++i) {
          query_.set(row * width + i, content(2, name(s), lengths.kv_len - lengths.q_len + r, i));
        }
        for (int64_t h = 0; h < c.heads; ++h) absorb(row, h);
      }
    }
  }

  [[nodiscard]] ops::MlaPrefillArgs prefill_args() const {
    return {.out = out_.view(),
            .q_nope = query_.view().columns(0, case_.nope),
            .q_rope = query_.view().columns(case_.nope, case_.rope),
            .cache = cache_.view(),
            .w_kv_b = w_kv_b_.view(),
            .batch = paged_.batch(),
            .num_prefill_seqs = paged_.batch().max_seqs,
            .scale = scale()};
  }
  [[nodiscard]] ops::MlaDecodeArgs decode_args() const {
    return {.out = latent_.view(),
            .q_nope = absorbed_.view(),
            .q_rope = query_.view().columns(case_.nope, case_.rope),
            .cache = cache_.view(),
            .batch = paged_.batch(),
            .scale = scale()};
  }
  Mla& prefill(int num_threads = 1) {
    InlineContext context(num_threads);
    ops::cpu::mla_prefill(prefill_args(), context);
    return *this;
  }
  Mla& decode(int num_threads = 1) {
    InlineContext context(num_threads);
    ops::cpu::mla_decode(decode_args(), context);
    return *this;
  }

  /// What prefill must give for the sequences [begin, end); NaN (untouched) elsewhere.
  [[nodiscard]] std::vector<double> expected_values(int64_t begin, int64_t end) const {
    return expected(begin, end, case_.v_dim, [this](const std::vector<double>& latent, int64_t head) {
      std::vector<double> value;
      for (int64_t v = 0; v < case_.v_dim; ++v) value.push_back(times_weight(head, case_.nope + v, latent));
      return value;
    });
  }
  /// What decode must give.
  [[nodiscard]] std::vector<double> expected_latents(int64_t begin, int64_t end) const {
    return expected(begin, end, case_.lora,
                    [](const std::vector<double>& latent, int64_t) { return latent; });
  }

  [[nodiscard]] std::vector<uint64_t> row_bits(const HostTensor& tensor, int64_t s, int64_t r) const {
    const int64_t width = tensor.shape(1) * tensor.shape(2);
    std::vector<uint64_t> bits;
    for (int64_t i = 0; i < width; ++i) bits.push_back(tensor.bits((paged_.first_row(s) + r) * width + i));
    return bits;
  }
  HostTensor& out() { return out_; }
  HostTensor& latent() { return latent_; }
  PagedBatch& paged() { return paged_; }

 private:
  [[nodiscard]] int64_t rows() const { return paged_.num_rows() + case_.padding_rows; }
  [[nodiscard]] int64_t num_sequences() const { return static_cast<int64_t>(case_.sequences.size()); }
  [[nodiscard]] int64_t name(int64_t s) const { return names_.empty() ? s : names_[static_cast<size_t>(s)]; }
  [[nodiscard]] float scale() const {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(case_.nope + case_.rope)));
  }
  /// Row `i` of head's W times a latent.
  [[nodiscard]] double times_weight(int64_t head, int64_t i, const std::vector<double>& latent) const {
    double sum = 0.0;
    for (int64_t l = 0; l < case_.lora; ++l) {
      sum += w_kv_b_.at({head, i, l}) * latent[static_cast<size_t>(l)];
    }
    return sum;
  }
  void absorb(int64_t row, int64_t head) {
    for (int64_t l = 0; l < case_.lora; ++l) {
      double sum = 0.0;
      for (int64_t n = 0; n < case_.nope; ++n) sum += query_.at({row, head, n}) * w_kv_b_.at({head, n, l});
      absorbed_.set({row, head, l}, sum);
    }
  }

  template <class Value>
  [[nodiscard]] std::vector<double> expected(int64_t begin, int64_t end, int64_t width,
                                             const Value& value_of) const {
    std::vector<double> result(static_cast<size_t>(rows() * case_.heads * width),
                               std::numeric_limits<double>::quiet_NaN());
    for (int64_t s = begin; s < end; ++s) {
      const SequenceLengths& lengths = case_.sequences[static_cast<size_t>(s)];
      for (int64_t h = 0; h < case_.heads; ++h) {
        std::vector<std::vector<double>> keys;
        std::vector<std::vector<double>> values;
        for (int64_t p = 0; p < lengths.kv_len; ++p) {
          std::vector<double> latent;
          for (int64_t l = 0; l < case_.lora; ++l) latent.push_back(cache_.at({paged_.slot(s, p), l}));
          std::vector<double> key;
          for (int64_t n = 0; n < case_.nope; ++n) key.push_back(times_weight(h, n, latent));
          for (int64_t d = 0; d < case_.rope; ++d)
            key.push_back(cache_.at({paged_.slot(s, p), case_.lora + d}));
          keys.push_back(key);
          values.push_back(value_of(latent, h));
        }
        for (int64_t r = 0; r < lengths.q_len; ++r) {
          const int64_t row = paged_.first_row(s) + r;
          std::vector<double> scores;
          for (int64_t p = 0; p < lengths.kv_len - lengths.q_len + r + 1; ++p) {
            double score = 0.0;
            for (int64_t d = 0; d < case_.nope + case_.rope; ++d) {
              score += query_.at({row, h, d}) * keys[static_cast<size_t>(p)][static_cast<size_t>(d)];
            }
            scores.push_back(score * static_cast<double>(scale()));
          }
          const std::vector<double> out = naive_attention(scores, values);
          std::copy(out.begin(), out.end(), result.begin() + (row * case_.heads + h) * width);
        }
      }
    }
    return result;
  }

  Case case_;
  std::vector<int64_t> names_;
  PagedBatch paged_;
  HostTensor query_, absorbed_, cache_, w_kv_b_, out_, latent_;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.sequences = {{5, 5}, {1, 40}, {35, 66}, {0, 4}, {1, 1}}},
      {.sequences = {{1, 33}, {3, 97}},
       .page_size = 1,
       .heads = 3,
       .nope = 9,
       .rope = 2,
       .lora = 21,
       .v_dim = 7},
      {.sequences = {{40, 70}}, .page_size = 64, .heads = 1, .nope = 1, .rope = 6, .lora = 1, .v_dim = 1},
      {.sequences = {{2, 50}, {1, 64}},
       .page_size = 16,
       .heads = 17,
       .nope = 16,
       .rope = 4,
       .lora = 40,
       .v_dim = 16},
  };
  return all;
}

TEST(MlaTest, BothFormsMatchTheReferenceWithEveryInstructionSet) {
  for (size_t i = 0; i < cases().size(); ++i) {
    const auto count = static_cast<int64_t>(cases()[i].sequences.size());
    const std::vector<double> values = Mla(cases()[i]).expected_values(0, count);
    const std::vector<double> latents = Mla(cases()[i]).expected_latents(0, count);
    for (const ops::cpu::Isa isa : available_isas()) {
      const ops::cpu::IsaOverride use(isa);
      Mla mla(cases()[i]);
      mla.prefill(2).decode(2);
      EXPECT_TRUE(near(mla.out(), values, 0.0, 1e-5)) << "case " << i << ", " << ops::cpu::isa_name(isa);
      EXPECT_TRUE(near(mla.latent(), latents, 0.0, 1e-5)) << "case " << i << ", " << ops::cpu::isa_name(isa);
    }
  }
}

TEST(MlaTest, SixteenBitTensorsAreReadExactlyAndRoundedOnce) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int64_t q_len : {1, 12}) {
      Mla mla({.sequences = {{q_len, 45}, {q_len, 33}}, .heads = 3, .dtype = dtype});
      mla.prefill();
      mla.decode();
      EXPECT_TRUE(near(mla.out(), mla.expected_values(0, 2), 1.01 * unit_roundoff(dtype), 1e-5))
          << dtype_name(dtype);
      EXPECT_TRUE(near(mla.latent(), mla.expected_latents(0, 2), 0.0, 1e-5)) << dtype_name(dtype);
    }
  }
}

TEST(MlaTest, PrefillTakesTheFirstSequencesAndDecodeTheRest) {
  Mla mla({.sequences = {{4, 20}, {7, 7}, {1, 35}, {1, 2}}});
  InlineContext context;
  ops::MlaPrefillArgs prefill = mla.prefill_args();
  prefill.num_prefill_seqs = 2;
  ops::cpu::mla_prefill(prefill, context);
  ops::MlaDecodeArgs decode = mla.decode_args();
  decode.first_seq = 2;
  ops::cpu::mla_decode(decode, context);
  EXPECT_TRUE(near(mla.out(), mla.expected_values(0, 2), 0.0, 1e-5));
  EXPECT_TRUE(near(mla.latent(), mla.expected_latents(2, 4), 0.0, 1e-5));
}

TEST(MlaTest, ARowHasTheSameBitsInEveryBatchPageSizeThreadCountAndPadding) {
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    Case alone{.sequences = {{3, 70}}, .heads = 5, .dtype = DType::kBF16, .padding_rows = 0};
    Mla first(alone, {9});
    first.prefill().decode();
    for (const int64_t page_size : {1, 16, 64}) {
      for (const int threads : {1, 3}) {
        Case crowded = alone;
        crowded.sequences = {{20, 40}, {3, 70}, {1, 100}};
        crowded.page_size = page_size;
        crowded.padding_rows = 5;
        Mla second(crowded, {1, 9, 2});
        second.prefill(threads).decode(threads);
        for (int64_t r = 0; r < 3; ++r) {
          EXPECT_EQ(first.row_bits(first.out(), 0, r), second.row_bits(second.out(), 1, r)) << "row " << r;
          EXPECT_EQ(first.row_bits(first.latent(), 0, r), second.row_bits(second.latent(), 1, r))
              << "row " << r;
        }
      }
    }
  }
}

TEST(MlaPrefillTest, ARowHasTheSameBitsInAWholePromptAndInChunks) {
  constexpr int64_t kLength = 70;
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    Case whole{.sequences = {{kLength, kLength}}};
    Mla prompt(whole, {0});
    prompt.prefill();
    for (const int64_t chunk : {1, 7, 32, 45}) {
      for (int64_t begin = 0; begin < kLength; begin += chunk) {
        const int64_t end = std::min(kLength, begin + chunk);
        Case part = whole;
        part.sequences = {{end - begin, end}};
        Mla piece(part, {0});
        piece.prefill();
        for (int64_t r = begin; r < end; ++r) {
          ASSERT_EQ(prompt.row_bits(prompt.out(), 0, r), piece.row_bits(piece.out(), 0, r - begin))
              << "position " << r << ", chunk " << chunk;
        }
      }
    }
  }
}

TEST(MlaPrefillTest, PromptsLongerThanOneItemOfWorkAreWhole) {
  Mla mla({.sequences = {{1100, 1100}}, .heads = 1, .nope = 2, .rope = 2, .lora = 3, .v_dim = 2});
  EXPECT_TRUE(near(mla.prefill(2).out(), mla.expected_values(0, 1), 0.0, 1e-5));
}

TEST(MlaTest, NoSequenceWritesNothing) {
  Mla mla({.sequences = {}});
  const std::vector<std::byte> out = mla.out().bytes();
  const std::vector<std::byte> latent = mla.latent().bytes();
  mla.prefill(2).decode(2);
  EXPECT_EQ(mla.out().bytes(), out);
  EXPECT_EQ(mla.latent().bytes(), latent);
}

TEST(MlaTest, MalformedBatchesAreErrors) {
  Mla mla({.sequences = {{2, 20}, {1, 5}}});
  mla.paged().page_table()[1] = 12345;
  const auto message = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message([&] { mla.prefill(); }),
              HasSubstr("mla_prefill: position 16 of sequence 0 is in page 12345"));
  EXPECT_THAT(message([&] { mla.decode(2); }), HasSubstr("mla_decode: position 16 of sequence 0"));
}

TEST(MlaTest, RefusesShapesThatDoNotFit) {
  const std::unique_ptr<device::Device> device = device::make_cpu_device({});
  const std::unique_ptr<device::Stream> stream = device->make_stream("compute");
  Mla mla({.sequences = {{2, 20}}});
  const auto message = [&](const auto& call, const auto& args) -> std::string {
    try {
      call(*stream, args);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  ops::MlaPrefillArgs prefill = mla.prefill_args();
  prefill.w_kv_b = prefill.w_kv_b.columns(0, 31);
  EXPECT_THAT(message(ops::mla_prefill, prefill),
              HasSubstr("cache is f32[80, 40]; its shape must be [any, 39]"));
  prefill = mla.prefill_args();
  prefill.q_rope = prefill.q_rope.rows(0, 1);
  EXPECT_THAT(message(ops::mla_prefill, prefill), HasSubstr("mla_prefill: q_rope"));
  prefill = mla.prefill_args();
  prefill.num_prefill_seqs = -1;
  EXPECT_THAT(message(ops::mla_prefill, prefill), HasSubstr("num_prefill_seqs=-1"));
  ops::MlaDecodeArgs decode = mla.decode_args();
  decode.out = decode.out.columns(0, 8);
  EXPECT_THAT(message(ops::mla_decode, decode), HasSubstr("mla_decode: out"));
  decode = mla.decode_args();
  decode.first_seq = -2;
  EXPECT_THAT(message(ops::mla_decode, decode), HasSubstr("first_seq=-2"));
}

}  // namespace
}  // namespace weft::test
