#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "device/backend.h"
#include "device/tensor.h"

namespace weft::device {
namespace {

TEST(TensorViewTest, CountsElementsAndBytes) {
  std::vector<float> data(24);
  const TensorView view = make_view(data.data(), DType::kF32, {2, 3, 4});
  EXPECT_TRUE(view.defined());
  EXPECT_EQ(view.numel(), 24);
  EXPECT_EQ(view.span_bytes(), 96U);
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(view.describe(), "f32[2, 3, 4]");
  EXPECT_FALSE(TensorView{}.defined());
  EXPECT_EQ(TensorView{}.numel(), 0);
  EXPECT_EQ(TensorView{}.span_bytes(), 0U);
}

TEST(TensorViewTest, RowsAndColumnsAreViewsOfTheSameMemory) {
  std::vector<int32_t> data(24);
  const TensorView view = make_view(data.data(), DType::kI32, {6, 4});
  const TensorView rows = view.rows(2, 3);
  EXPECT_EQ(rows.data, data.data() + 8);
  EXPECT_TRUE(rows.is_contiguous());
  const TensorView columns = view.columns(1, 2);
  EXPECT_EQ(columns.data, data.data() + 1);
  EXPECT_FALSE(columns.is_contiguous());
  EXPECT_EQ(columns.span_bytes(), (5 * 4 + 2) * sizeof(int32_t));
  EXPECT_TRUE(columns.rows(3, 1).is_contiguous());  // one row has nothing between rows
  EXPECT_EQ(view.rows(6, 0).numel(), 0);
  expect_error([&] { (void)view.rows(4, 3); }, {"rows", "[4, 7)", "i32[6, 4]"});
  expect_error([&] { (void)view.columns(-1, 2); }, {"columns", "i32[6, 4]"});
  expect_error([&] { (void)TensorView{}.rows(0, 0); }, {"undefined"});
}

TEST(TensorViewTest, ReshapesWhatIsContiguous) {
  std::vector<float> data(24);
  const TensorView view = make_view(data.data(), DType::kF32, {6, 4});
  EXPECT_EQ(view.reshape({24}).describe(), "f32[24]");
  EXPECT_EQ(view.reshape({2, 3, 2, 2}).describe(), "f32[2, 3, 2, 2]");
  EXPECT_EQ(view.rows(0, 0).reshape({0, 2, 2}).numel(), 0);
  expect_error([&] { (void)view.reshape({5, 5}); }, {"f32[5, 5]", "f32[6, 4]"});
}

TEST(TensorViewTest, SplitsOnlyTheInnermostDimensionOfStridedViews) {
  std::vector<float> data(60);
  const TensorView qkv = make_view(data.data(), DType::kF32, {5, 12});
  const TensorView heads = qkv.columns(4, 4).reshape({5, 2, 2});
  EXPECT_EQ(heads.data, data.data() + 4);
  EXPECT_EQ(heads.stride[0], 12);
  EXPECT_EQ(heads.stride[1], 2);
  EXPECT_EQ(heads.stride[2], 1);
  expect_error([&] { (void)qkv.columns(0, 4).reshape({20}); }, {"strided"});
  expect_error([&] { (void)qkv.columns(0, 4).reshape({10, 2}); }, {"strided"});
}

TEST(TensorViewTest, ShapesMustMakeSense) {
  expect_error([] { (void)make_view(nullptr, DType::kF32, {}); }, {"0 dimensions"});
  expect_error([] { (void)make_view(nullptr, DType::kF32, {1, 1, 1, 1, 1}); }, {"5 dimensions"});
  expect_error([] { (void)make_view(nullptr, DType::kF32, {2, -1}); }, {"dimension 1 is -1"});
}

}  // namespace
}  // namespace weft::device
