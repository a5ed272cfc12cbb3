#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "model/host_tensor.h"
#include "model/weight_staging.h"

namespace weft::model {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using Shape = std::vector<int64_t>;
using Slices = std::vector<Slice>;

/// Blocks whose copies end when they are waited for.
class Blocks {
 public:
  Blocks(size_t count, int64_t num_bytes) : memory_(count), pending_(count) {
    staging_.block_bytes = num_bytes;
    for (auto& block : memory_) {
      block.resize(static_cast<size_t>(num_bytes));
      staging_.blocks.push_back(block.data());
    }
    staging_.send = [this](size_t block, void* device, int64_t bytes) {
      EXPECT_EQ(pending_[block].to, nullptr)
          << "block " << block << " is sent before its last copy has ended";
      pending_[block] = {device, bytes};
      ++num_sent;
    };
    staging_.wait = [this](size_t block) {
      auto& copy = pending_[block];
      if (copy.to != nullptr)
        std::memcpy(copy.to, staging_.blocks[block], static_cast<size_t>(copy.num_bytes));
      copy = {};
    };
  }
  [[nodiscard]] const WeightStaging& staging() const { return staging_; }
  int num_sent = 0;

 private:
  struct Copy {
    void* to = nullptr;
    int64_t num_bytes = 0;
  };
  std::vector<std::vector<std::byte>> memory_;
  std::vector<Copy> pending_;
  WeightStaging staging_;
};

/// Dummy weights, of which one cannot be read.
class BrokenSource final : public WeightSource {
 public:
  bool contains(std::string_view) const override { return true; }
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
            const device::TensorView& dst) override {
    WEFT_CHECK(name != "broken", "tensor {} cannot be read", name);
    values_->read(name, full_shape, slices, dst);
  }
  std::vector<std::string> names() const override { return {}; }

 private:
  std::unique_ptr<WeightSource> values_ = open_dummy(0);
};

TEST(WeightStagingTest, PartsArriveWholeThroughSmallBlocks) {
  const auto source = open_dummy(3);
  const Shape matrix{9, 10};
  const Shape vector{33};
  const Slices rows{{2, 9}};
  for (const size_t num_blocks : {1, 2, 4, 6}) {
    HostTensor a(DType::kF32, {7, 10}), b(DType::kBF16, {33}), zeros(DType::kF32, {5, 10}),
        none(DType::kF32, {0, 4});
    HostTensor want_a(DType::kF32, {7, 10}), want_b(DType::kBF16, {33});
    source->read("a", matrix, rows, want_a.view());
    source->read("b", vector, {}, want_b.view());
    const std::vector<WeightPart> parts{{"a", matrix, rows, a.view()},
                                        {"b", vector, {}, b.view()},
                                        {.to = zeros.view()},
                                        {"none", matrix, {}, none.view()}};
    Blocks blocks(num_blocks, 90);  // two rows of 40 bytes
    load_staged(*source, parts, blocks.staging());
    EXPECT_EQ(a.values<float>(), want_a.values<float>());
    EXPECT_EQ(b.values<uint16_t>(), want_b.values<uint16_t>());
    EXPECT_THAT(zeros.values<float>(), Each(0.0F));
    EXPECT_EQ(blocks.num_sent, 4 + 1 + 3);
  }
}

TEST(WeightStagingTest, TheErrorOfAThreadComesOut) {
  BrokenSource source;
  const Shape shape{8, 4};
  HostTensor fine(DType::kF32, {8, 4}), broken(DType::kF32, {8, 4});
  const std::vector<WeightPart> parts{{"fine", shape, {}, fine.view()}, {"broken", shape, {}, broken.view()}};
  Blocks blocks(6, 16);
  try {
    load_staged(source, parts, blocks.staging());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor broken cannot be read"));
  }
}

TEST(WeightStagingTest, ARowThatFitsNoBlockIsNamed) {
  const auto source = open_dummy(3);
  const Shape shape{8, 4};
  HostTensor tensor(DType::kF32, {8, 4});
  Blocks blocks(2, 15);
  try {
    load_staged(*source, std::vector<WeightPart>{{"wide", shape, {}, tensor.view()}}, blocks.staging());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("weight wide: a row of 16 bytes exceeds a staging block of 15"));
  }
}

}  // namespace
}  // namespace weft::model
