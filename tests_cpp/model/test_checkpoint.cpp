#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

#include "base/error.h"
#include "model/checkpoint.h"
#include "model/host_tensor.h"
#include "model/safetensors_writer.h"

namespace weft::model {
namespace {

using ::testing::AllOf;
using ::testing::Each;
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

std::vector<float> iota(size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

/// A folder whose model.safetensors holds w: f32 [4, 6] = 0, 1, 2, ...
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    folder_.write("model.safetensors", SafetensorsWriter()
                                           .add<uint8_t>("a.byte", "U8", {1}, {7})  // misaligns what follows
                                           .add<float>("w", "F32", {4, 6}, iota(24))
                                           .add<uint16_t>("half", "F16", {3}, {0x3c00, 0xc000, 0x7bff})
                                           .add<uint16_t>("brain", "BF16", {2}, {0x3f80, 0xc040})
                                           .add<float>("scalar", "F32", {}, {2.5F})
                                           .add<float>("big", "F32", {2}, {1.0F, 70000.0F})
                                           .bytes());
    source_ = open_checkpoint(folder_.path());
  }
  TempFolder folder_;
  std::unique_ptr<WeightSource> source_;
};

TEST_F(CheckpointTest, KnowsItsTensors) {
  EXPECT_TRUE(source_->contains("w"));
  EXPECT_FALSE(source_->contains("v"));
  EXPECT_THAT(source_->names(), ElementsAre("a.byte", "big", "brain", "half", "scalar", "w"));
}

TEST_F(CheckpointTest, ReadsWholeTensors) {
  HostTensor w(DType::kF32, {4, 6});
  source_->read("w", std::vector<int64_t>{4, 6}, {}, w.view());
  EXPECT_EQ(w.values<float>(), iota(24));
  HostTensor scalar(DType::kF32, {});
  source_->read("scalar", {}, {}, scalar.view());
  EXPECT_THAT(scalar.values<float>(), ElementsAre(2.5F));
  HostTensor byte(DType::kU8, {1});
  source_->read("a.byte", std::vector<int64_t>{1}, {}, byte.view());
  EXPECT_THAT(byte.values<uint8_t>(), ElementsAre(7));
}

TEST_F(CheckpointTest, ReadsRowsAndColumns) {
  const std::vector<int64_t> shape{4, 6};
  HostTensor rows(DType::kF32, {2, 6});
  source_->read("w", shape, std::vector<Slice>{{1, 3}}, rows.view());
  EXPECT_THAT(rows.values<float>(), ElementsAre(6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17));
  HostTensor columns(DType::kF32, {4, 2});
  source_->read("w", shape, std::vector<Slice>{{}, {4, -1}}, columns.view());
  EXPECT_THAT(columns.values<float>(), ElementsAre(4, 5, 10, 11, 16, 17, 22, 23));
}

TEST_F(CheckpointTest, EmptySlicesReadNothing) {
  HostTensor none(DType::kF32, {0, 6});
  source_->read("w", std::vector<int64_t>{4, 6}, std::vector<Slice>{{2, 2}}, none.view());
  HostTensor columns(DType::kF32, {4, 0});
  source_->read("w", std::vector<int64_t>{4, 6}, std::vector<Slice>{{}, {6, 6}}, columns.view());
}

TEST_F(CheckpointTest, WritesOnlyTheDestinationsRows) {
  HostTensor wide(DType::kF32, {3, 4});
  const float before = wide.values<float>()[0];
  source_->read("w", std::vector<int64_t>{4, 6}, std::vector<Slice>{{0, 2}, {0, 2}},
                wide.part({1, 1}, {2, 2}));
  EXPECT_THAT(wide.values<float>(), ElementsAre(before, before, before, before,  //
                                                before, 0, 1, before,            //
                                                before, 6, 7, before));
}

TEST_F(CheckpointTest, ConvertsBetweenFloats) {
  HostTensor f32(DType::kF32, {3});
  source_->read("half", std::vector<int64_t>{3}, {}, f32.view());
  EXPECT_THAT(f32.values<float>(), ElementsAre(1.0F, -2.0F, 65504.0F));
  HostTensor b16(DType::kBF16, {3});
  source_->read("half", std::vector<int64_t>{3}, {}, b16.view());
  EXPECT_THAT(b16.values<uint16_t>(), ElementsAre(0x3f80, 0xc000, 0x4780));  // 65504 rounds to 65536
  HostTensor h16(DType::kF16, {2});
  source_->read("brain", std::vector<int64_t>{2}, {}, h16.view());
  EXPECT_THAT(h16.values<uint16_t>(), ElementsAre(0x3c00, 0xc200));
}

TEST_F(CheckpointTest, RefusesToOverflowF16AndToConvertIntegers) {
  HostTensor half(DType::kF16, {2});
  EXPECT_THAT(error_of([&] { source_->read("big", std::vector<int64_t>{2}, {}, half.view()); }),
              AllOf(HasSubstr("\"big\""), HasSubstr("beyond f16's 65504")));
  HostTensor f32(DType::kF32, {1});
  EXPECT_THAT(error_of([&] { source_->read("a.byte", std::vector<int64_t>{1}, {}, f32.view()); }),
              HasSubstr("tensor \"a.byte\": no conversion from u8 to f32"));
}

TEST_F(CheckpointTest, ErrorsNameTheTensor) {
  HostTensor dst(DType::kF32, {4, 6});
  const std::vector<int64_t> shape{4, 6};
  EXPECT_THAT(error_of([&] { source_->read("v", shape, {}, dst.view()); }),
              AllOf(HasSubstr(folder_.path()), HasSubstr("tensor \"v\" is missing")));
  EXPECT_THAT(error_of([&] {
                source_->read("w", std::vector<int64_t>{6, 4}, {}, dst.view());
              }),
              HasSubstr("tensor \"w\" has shape [4, 6], but config.json makes it [6, 4]"));
  EXPECT_THAT(error_of([&] { source_->read("w", std::vector<int64_t>{24}, {}, dst.view()); }),
              HasSubstr("has shape [4, 6], but config.json makes it [24]"));
  EXPECT_THAT(error_of([&] {
                source_->read("w", shape, std::vector<Slice>{{0, 5}}, dst.view());
              }),
              HasSubstr("tensor \"w\": slice [0, 5) of dimension 0 is outside shape [4, 6]"));
  EXPECT_THAT(error_of([&] {
                source_->read("w", shape, std::vector<Slice>{{3, 2}}, dst.view());
              }),
              HasSubstr("slice [3, 2)"));
  EXPECT_THAT(error_of([&] {
                source_->read("w", shape, std::vector<Slice>{{0, 1}}, dst.view());
              }),
              HasSubstr("a block of shape [1, 6] does not fit a destination of shape [4, 6]"));
  EXPECT_THAT(error_of([&] { source_->read("w", shape, std::vector<Slice>(3), dst.view()); }),
              HasSubstr("3 slices for shape [4, 6]"));
  device::TensorView gaps = dst.view();
  gaps.stride[1] = 2;
  EXPECT_THAT(error_of([&] { source_->read("w", shape, {}, gaps); }), HasSubstr("innermost stride is 2"));
}

TEST(CheckpointShardsTest, RandomBlocksOfRandomTensorsAreExact) {
  std::mt19937_64 rng(11);
  const auto below = [&rng](int64_t n) { return static_cast<int64_t>(rng() % static_cast<uint64_t>(n)); };
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> shape(static_cast<size_t>(1 + below(4)));
    int64_t numel = 1;
    for (int64_t& extent : shape) numel *= extent = 1 + below(6);
    const TempFolder folder;
    folder.write("model.safetensors",
                 SafetensorsWriter().add<float>("t", "F32", shape, iota(static_cast<size_t>(numel))).bytes());
    std::vector<Slice> slices;
    std::vector<int64_t> block;
    for (const int64_t extent : shape) {
      const int64_t begin = below(extent + 1);
      slices.push_back({begin, begin + below(extent - begin + 1)});
      block.push_back(slices.back().end - begin);
    }
    HostTensor dst(DType::kF32, block);
    open_checkpoint(folder.path())->read("t", shape, slices, dst.view());
    const std::vector<float> values = dst.values<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      int64_t rest = static_cast<int64_t>(i);
      int64_t expected = 0;
      int64_t stride = 1;
      for (size_t d = shape.size(); d-- > 0;) {
        expected += (slices[d].begin + rest % block[d]) * stride;
        rest /= block[d];
        stride *= shape[d];
      }
      ASSERT_EQ(values[i], static_cast<float>(expected)) << "round " << round << " element " << i;
    }
  }
}

/// A folder with an index and two shards: x, y in the first, z in the second.
class ShardedTest : public ::testing::Test {
 protected:
  ShardedTest() {
    folder_.write(
        "a.safetensors",
        SafetensorsWriter().add<float>("x", "F32", {2}, {1, 2}).add<float>("y", "F32", {1}, {3}).bytes());
    folder_.write("b.safetensors", SafetensorsWriter().add<float>("z", "F32", {1}, {4}).bytes());
  }
  void write_index(const std::string& weight_map) {
    folder_.write("model.safetensors.index.json", R"({"metadata": {}, "weight_map": )" + weight_map + "}");
  }
  std::string open_error() {
    return error_of([&] { (void)open_checkpoint(folder_.path()); });
  }
  std::string read_error(const std::string& name, int64_t size) {
    return error_of([&] {
      HostTensor dst(DType::kF32, {size});
      open_checkpoint(folder_.path())->read(name, std::vector<int64_t>{size}, {}, dst.view());
    });
  }
  TempFolder folder_;
};

TEST_F(ShardedTest, ReadsFromTheShardThatTheIndexNames) {
  write_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})");
  const auto source = open_checkpoint(folder_.path());
  EXPECT_THAT(source->names(), ElementsAre("x", "y", "z"));
  HostTensor x(DType::kF32, {2});
  HostTensor z(DType::kF32, {1});
  source->read("z", std::vector<int64_t>{1}, {}, z.view());
  source->read("x", std::vector<int64_t>{2}, {}, x.view());
  EXPECT_THAT(x.values<float>(), ElementsAre(1, 2));
  EXPECT_THAT(z.values<float>(), ElementsAre(4));
}

TEST_F(ShardedTest, RefusesNamesOutsideTheFolder) {
  for (const char* file : {"../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "a.bin", "..", "",
                           "a.safetensors\\u0000.safetensors"}) {
    write_index(R"({"x": ")" + std::string(file) + R"("})");
    EXPECT_THAT(open_error(),
                AllOf(HasSubstr("the file of tensor \"x\" is"), HasSubstr("expected a plain name")))
        << file;
  }
  write_index(R"({"x": 7})");
  EXPECT_THAT(open_error(), HasSubstr("the file of tensor \"x\" is 7"));
}

TEST_F(ShardedTest, ReportsWhatIsMissingOrMisplaced) {
  write_index(R"({"x": "a.safetensors", "z": "c.safetensors"})");
  EXPECT_THAT(open_error(), HasSubstr("shard \"c.safetensors\" is missing"));
  write_index(R"({"x": "a.safetensors", "y": "a.safetensors", "w": "b.safetensors", "z": "b.safetensors"})");
  EXPECT_THAT(read_error("w", 1),
              HasSubstr("tensor \"w\" is missing from b.safetensors, where the index places it"));
  write_index(R"({"x": "a.safetensors", "z": "b.safetensors"})");
  EXPECT_THAT(read_error("x", 2),
              HasSubstr("a.safetensors holds tensor \"y\", which the index does not list"));
  write_index(R"({"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"})");
  EXPECT_THAT(read_error("x", 2), HasSubstr("a.safetensors holds tensor \"y\", which the index places in b"));
}

TEST_F(ShardedTest, RefusesMalformedIndicesAndTruncatedShards) {
  folder_.write("model.safetensors.index.json", "{\"weight_map\": [");
  EXPECT_THAT(open_error(), HasSubstr("index.json: unexpected end at byte 16"));
  folder_.write("model.safetensors.index.json", "{}");
  EXPECT_THAT(open_error(), HasSubstr("expected an object with a weight_map"));
  write_index("[]");
  EXPECT_THAT(open_error(), HasSubstr("expected an object with a weight_map"));
  write_index(R"({"z": "b.safetensors"})");
  const std::string bytes = SafetensorsWriter().add<float>("z", "F32", {1}, {4}).bytes();
  folder_.write("b.safetensors", bytes.substr(0, bytes.size() - 2));
  EXPECT_THAT(read_error("z", 1), AllOf(HasSubstr("b.safetensors"), HasSubstr("tensor \"z\""),
                                        HasSubstr("the file is truncated")));
  EXPECT_THAT(error_of([] { (void)open_checkpoint("/nonexistent"); }),
              HasSubstr("weft reads safetensors only"));
}

TEST_F(ShardedTest, RanksMayReadAtTheSameTime) {
  write_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})");
  const auto source = open_checkpoint(folder_.path());
  std::atomic<int> right = 0;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&] {
      HostTensor y(DType::kF32, {1});
      HostTensor z(DType::kF32, {1});
      source->read("y", std::vector<int64_t>{1}, {}, y.view());
      source->read("z", std::vector<int64_t>{1}, {}, z.view());
      if (y.values<float>()[0] == 3 && z.values<float>()[0] == 4) ++right;
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(right, 4);
}

TEST(DummyWeightsTest, EveryLayoutSeesOneTensor) {
  const auto source = open_dummy(1);
  const std::vector<int64_t> shape{6, 10};
  HostTensor whole(DType::kF32, {6, 10});
  source->read("model.w", shape, {}, whole.view());
  HostTensor parts(DType::kF32, {6, 10});
  source->read("model.w", shape, std::vector<Slice>{{0, 2}}, parts.part({0, 0}, {2, 10}));
  source->read("model.w", shape, std::vector<Slice>{{2, 6}, {0, 3}}, parts.part({2, 0}, {4, 3}));
  source->read("model.w", shape, std::vector<Slice>{{2, -1}, {3, -1}}, parts.part({2, 3}, {4, 7}));
  EXPECT_EQ(parts.values<float>(), whole.values<float>());
  HostTensor rounded(DType::kBF16, {6, 10});
  source->read("model.w", shape, {}, rounded.view());
  for (size_t i = 0; i < 60; ++i) {
    EXPECT_EQ(rounded.values<uint16_t>()[i], to_bf16(whole.values<float>()[i]).bits);
  }
}

TEST(DummyWeightsTest, ValuesDependOnSeedAndNameAndAreSmall) {
  const auto read = [](uint64_t seed, const char* name) {
    HostTensor t(DType::kF32, {4096});
    open_dummy(seed)->read(name, std::vector<int64_t>{4096}, {}, t.view());
    return t.values<float>();
  };
  const std::vector<float> a = read(1, "a");
  EXPECT_EQ(read(1, "a"), a);
  EXPECT_NE(read(2, "a"), a);
  EXPECT_NE(read(1, "b"), a);
  double sum = 0;
  double squares = 0;
  for (const float x : a) {
    EXPECT_LE(std::abs(x), 0.035F);
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  EXPECT_NEAR(sum / 4096, 0.0, 0.001);
  EXPECT_NEAR(std::sqrt(squares / 4096), 0.02, 0.001);
  for (const float x : read(1, "model.layers.0.input_layernorm.weight")) EXPECT_NEAR(x, 1.0F, 0.035F);
  EXPECT_TRUE(open_dummy(1)->contains("anything"));
  EXPECT_TRUE(open_dummy(1)->names().empty());
}

}  // namespace
}  // namespace weft::model
