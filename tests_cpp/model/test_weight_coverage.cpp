#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/host_tensor.h"
#include "model/weight_coverage.h"

namespace weft::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

/// Dummy weights under a fixed list of names.
class NamedSource final : public WeightSource {
 public:
  explicit NamedSource(std::vector<std::string> names) : names_(std::move(names)), values_(open_dummy(0)) {}
  bool contains(std::string_view name) const override {
    return std::find(names_.begin(), names_.end(), name) != names_.end();
  }
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
            const device::TensorView& dst) override {
    values_->read(name, full_shape, slices, dst);
  }
  std::vector<std::string> names() const override { return names_; }

 private:
  std::vector<std::string> names_;
  std::unique_ptr<WeightSource> values_;
};

const std::vector<std::string> kNoPatterns;
using Shape = std::vector<int64_t>;
using Slices = std::vector<Slice>;

std::string finish_error(const WeightCoverage& coverage, std::vector<std::string> names,
                         const std::vector<std::string>& ignore = kNoPatterns) {
  return error_of([&] { coverage.finish(NamedSource(std::move(names)), ignore); });
}

TEST(WeightCoverageTest, ShardsOfAllRanksCoverATensor) {
  WeightCoverage coverage;
  coverage.read("q", Shape{4, 6}, Slices{{0, 2}});
  coverage.read("q", Shape{4, 6}, Slices{{2, 4}});
  coverage.read("o", Shape{4, 6}, Slices{{}, {0, 3}});
  coverage.read("o", Shape{4, 6}, Slices{{}, {3, -1}});
  coverage.read("norm", Shape{4}, {});
  coverage.read("norm", Shape{4}, {});  // every rank has it
  coverage.read("scalar", {}, {});
  EXPECT_EQ(finish_error(coverage, {"norm", "o", "q", "scalar"}), "");
}

TEST(WeightCoverageTest, NamesAnElementThatNobodyRead) {
  WeightCoverage coverage;
  coverage.read("o", Shape{4, 6}, Slices{{}, {0, 3}});
  coverage.read("o", Shape{4, 6}, Slices{{0, 2}, {3, 6}});
  coverage.read("o", Shape{4, 6}, Slices{{2, 4}, {4, 6}});
  EXPECT_THAT(finish_error(coverage, {"o"}),
              HasSubstr("tensor \"o\" of shape [4, 6]: element [2, 3] was read by no"));
  EXPECT_EQ(finish_error(coverage, {"o"}, {"o"}), "");
}

TEST(WeightCoverageTest, ListsExtraTensors) {
  WeightCoverage coverage;
  coverage.read("w", Shape{1}, {});
  EXPECT_THAT(finish_error(coverage, {"w", "x", "y"}),
              HasSubstr("holds 2 tensors that the model does not use: \"x\", \"y\""));
  EXPECT_EQ(
      finish_error(coverage, {"w", "model.layers.61.a", "model.layers.61.b.weight", "rotary_emb.inv_freq"},
                   {"model.layers.61.*", "*inv_freq"}),
      "");
  EXPECT_THAT(finish_error(coverage, {"model.layers.610.a"}, {"model.layers.61.*"}),
              HasSubstr("holds 1 tensors"));
  std::vector<std::string> many(1000, "extra");
  EXPECT_THAT(finish_error(coverage, many), AllOf(HasSubstr("holds 1000 tensors"), HasSubstr(", ...")));
}

TEST(WeightCoverageTest, PatternsMatchAnyCharacters) {
  EXPECT_TRUE(matches_pattern("abc", "abc"));
  EXPECT_FALSE(matches_pattern("abc", "ab"));
  EXPECT_TRUE(matches_pattern("abc", "*"));
  EXPECT_TRUE(matches_pattern("", "*"));
  EXPECT_TRUE(matches_pattern("abc", "a*c"));
  EXPECT_TRUE(matches_pattern("model.layers.3.rotary_emb.inv_freq", "model.*.rotary_emb.*"));
  EXPECT_FALSE(matches_pattern("model.layers.3.norm", "model.*.rotary_emb.*"));
  EXPECT_FALSE(matches_pattern("ab", "ab*b"));
}

class WeightDestinationTest : public ::testing::Test {
 protected:
  WeightDestination destination() { return {*source_, coverage_, "layers.0.qkv", whole_.view()}; }
  std::unique_ptr<WeightSource> source_ = open_dummy(3);
  WeightCoverage coverage_;
  HostTensor whole_{DType::kF32, {6, 4}};
};

TEST_F(WeightDestinationTest, AcceptsPartsThatFillItOnce) {
  WeightDestination dst = destination();
  dst.read("k", Shape{2, 4}, {}, whole_.part({2, 0}, {2, 4}));
  dst.read("q", Shape{4, 4}, Slices{{2, 4}}, whole_.part({0, 0}, {2, 4}));
  dst.read("v", Shape{1, 8}, Slices{{}, {0, 3}}, whole_.part({4, 0}, {1, 3}));
  dst.read("v", Shape{1, 8}, Slices{{}, {3, 4}}, whole_.part({4, 3}, {1, 1}));
  dst.zero(whole_.part({5, 0}, {1, 4}));
  dst.finish();
  const std::vector<float> values = whole_.values<float>();
  EXPECT_THAT(std::vector<float>(values.begin() + 20, values.end()), ElementsAre(0, 0, 0, 0));
  HostTensor q(DType::kF32, {4, 4});
  source_->read("q", Shape{4, 4}, {}, q.view());
  EXPECT_EQ(values[0], q.values<float>()[8]);
  EXPECT_EQ(error_of([&] { coverage_.finish(NamedSource({"k"}), kNoPatterns); }), "");
  EXPECT_THAT(error_of([&] { coverage_.finish(NamedSource({"q"}), kNoPatterns); }),
              HasSubstr("element [0, 0]"));
}

TEST_F(WeightDestinationTest, NamesBothWritersOfAnElement) {
  WeightDestination dst = destination();
  dst.read("a", Shape{6, 4}, {}, whole_.view());
  dst.read("b", Shape{2, 2}, {}, whole_.part({2, 1}, {2, 2}));
  EXPECT_THAT(error_of([&] { dst.finish(); }),
              HasSubstr("weight layers.0.qkv: element [2, 1] is written by \"a\" and by \"b\""));
}

TEST_F(WeightDestinationTest, NamesAnElementThatNothingWrites) {
  WeightDestination dst = destination();
  dst.read("a", Shape{6, 3}, {}, whole_.part({0, 0}, {6, 3}));
  dst.read("b", Shape{4, 1}, {}, whole_.part({0, 3}, {4, 1}));
  EXPECT_THAT(error_of([&] { dst.finish(); }),
              HasSubstr("weight layers.0.qkv: element [4, 3] is written by nothing"));
  WeightDestination untouched = destination();
  EXPECT_THAT(error_of([&] { untouched.finish(); }), HasSubstr("element [0, 0] is written by nothing"));
}

TEST_F(WeightDestinationTest, WritesNothingOutsideTheDestination) {
  HostTensor big(DType::kF32, {8, 4});
  WeightDestination dst(*source_, coverage_, "w", big.part({1, 0}, {6, 4}));
  for (const int64_t row : {0, 6}) {
    EXPECT_THAT(error_of([&] {
                  dst.read("a", Shape{2, 4}, {}, big.part({row, 0}, {2, 4}));
                }),
                HasSubstr("weight w: a would be written outside it"));
  }
  const std::vector<float> values = big.values<float>();
  EXPECT_EQ(values, HostTensor(DType::kF32, {8, 4}).values<float>());
}

TEST_F(WeightDestinationTest, RefusesStridedDestinationsAndOtherDtypes) {
  EXPECT_THAT(error_of([&] {
                WeightDestination(*source_, coverage_, "w", whole_.part({0, 0}, {6, 3}));
              }),
              HasSubstr("weight w: the destination is not contiguous"));
  WeightDestination dst = destination();
  HostTensor other(DType::kBF16, {6, 4});
  EXPECT_THAT(error_of([&] {
                dst.read("a", Shape{6, 4}, {}, other.view());
              }),
              HasSubstr("a part is bf16, the whole f32"));
}

TEST_F(WeightDestinationTest, EmptyTensorsNeedNothing) {
  HostTensor none(DType::kF32, {0, 4});
  WeightDestination dst(*source_, coverage_, "none", none.view());
  dst.finish();
}

}  // namespace
}  // namespace weft::model
