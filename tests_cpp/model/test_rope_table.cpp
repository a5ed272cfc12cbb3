#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "model/config.h"
#include "model/rope_table.h"

namespace weft::model {
namespace {

using ::testing::HasSubstr;

struct ExpectedRow {
  int64_t position;
  std::vector<float> cos_sin;
};

/// A host view that needs nothing of device/.
device::TensorView view_2d(std::vector<float>& memory, int64_t rows, int64_t columns, int64_t row_stride) {
  device::TensorView view;
  view.data = memory.data();
  view.rank = 2;
  view.shape = {rows, columns};
  view.stride = {row_stride, 1};
  return view;
}

/// Compares rows of the table with what transformers 5.17 computes in f32.
void expect_rows(const RopeConfig& rope, const std::vector<ExpectedRow>& expected) {
  int64_t positions = 0;
  for (const ExpectedRow& row : expected) positions = std::max(positions, row.position + 1);
  const auto width = static_cast<size_t>(rope.rope_dim);
  std::vector<float> table(static_cast<size_t>(positions) * width);
  fill_rope_table(rope, view_2d(table, positions, rope.rope_dim, rope.rope_dim));
  for (const ExpectedRow& row : expected) {
    ASSERT_EQ(row.cos_sin.size(), width);
    for (size_t i = 0; i < width; ++i) {
      EXPECT_NEAR(table[static_cast<size_t>(row.position) * width + i], row.cos_sin[i], 1e-5)
          << "position " << row.position << " column " << i;
    }
  }
}

TEST(RopeTableTest, DefaultAgreesWithTransformers) {
  expect_rows({.rope_theta = 1e6, .rope_dim = 16},
              {
                  {1,
                   {0.540302336F, 0.98423022F, 0.999500036F, 0.999984205F, 0.999999523F, 1.0F, 1.0F, 1.0F,
                    0.841470957F, 0.176892191F, 0.0316175073F, 0.00562338345F, 0.000999999931F,
                    0.00017782794F, 3.16227743e-05F, 5.62341347e-06F}},
                  {999,
                   {0.999649823F, -0.149567693F, 0.984686553F, 0.786672652F, 0.541143477F, 0.984261692F,
                    0.99950105F, 0.999984205F, -0.0264607519F, 0.988751471F, 0.174334094F, -0.617370367F,
                    0.840930283F, 0.176717162F, 0.0315858983F, 0.00561776059F}},
              });
}

TEST(RopeTableTest, LinearAgreesWithTransformers) {
  expect_rows({.type = RopeType::kLinear, .rope_theta = 1e6, .rope_dim = 16, .factor = 4.0},
              {
                  {1,
                   {0.968912423F, 0.999011934F, 0.999968767F, 0.999999046F, 1.0F, 1.0F, 1.0F, 1.0F,
                    0.247403964F, 0.0444423407F, 0.0079056127F, 0.00140585285F, 0.000250000012F,
                    4.44569851e-05F, 7.90569356e-06F, 1.40585337e-06F}},
                  {999,
                   {-0.00661591208F, 0.908869088F, -0.0437933579F, 0.165582746F, 0.968974233F, 0.999013901F,
                    0.999968827F, 0.999999046F, -0.999978125F, 0.417081535F, 0.999040604F, 0.986195922F,
                    0.247161746F, 0.0443979278F, 0.00789770577F, 0.00140444702F}},
              });
}

TEST(RopeTableTest, YarnOfDeepseekV3AgreesWithTransformers) {
  expect_rows(
      {.type = RopeType::kYarn,
       .rope_theta = 10000.0,
       .rope_dim = 16,
       .factor = 40.0,
       .original_max_position_embeddings = 4096},
      {
          {0,
           {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F}},
          {1,
           {0.540302336F, 0.950415313F, 0.995004177F, 0.999714077F, 0.999986887F, 0.999999642F, 1.0F, 1.0F,
            0.841470957F, 0.310983598F, 0.0998334214F, 0.0239124447F, 0.00512497732F, 0.000849862059F,
            2.49999994e-05F, 7.90569447e-06F}},
          {7,
           {0.753902256F, -0.599437475F, 0.764842212F, 0.986020803F, 0.999356568F, 0.999982297F, 1.0F, 1.0F,
            0.656986594F, 0.800421596F, 0.64421767F, 0.166622296F, 0.0358672999F, 0.00594900036F,
            0.000174999994F, 5.53398604e-05F}},
          {5000,
           {0.154668406F, -0.607657015F, -0.883849263F, 0.981413543F, 0.881268501F, -0.44670406F,
            0.992197692F, 0.999218822F, -0.987966418F, -0.794199586F, -0.467771798F, 0.191904962F,
            0.472615987F, -0.894681752F, 0.12467473F, 0.0395181812F}},
      });
}

TEST(RopeTableTest, YarnMultipliesByTheAttentionFactor) {
  expect_rows({.type = RopeType::kYarn,
               .rope_theta = 10000.0,
               .rope_dim = 8,
               .attention_factor = 1.1557219901962608,
               .factor = 40.0,
               .original_max_position_embeddings = 4096},
              {
                  {3,
                   {-1.1441561F, 1.10410345F, 1.15558541F, 1.15572202F, 0.163095489F, 0.341539234F,
                    0.0177685264F, 8.66791452e-05F}},
                  {100,
                   {0.996600926F, -0.969733417F, 1.00723648F, 1.15571845F, -0.585217953F, -0.628737211F,
                    0.566717029F, 0.00288930209F}},
              });
}

TEST(RopeTableTest, YarnOfQwen3AgreesWithTransformers) {
  expect_rows({.type = RopeType::kYarn,
               .rope_theta = 1e6,
               .rope_dim = 16,
               .attention_factor = 1.138629436111989,
               .factor = 4.0,
               .original_max_position_embeddings = 32768},
              {
                  {1,
                   {0.615204155F, 1.12067354F, 1.13806021F, 1.1386193F, 1.13862932F, 1.13862944F, 1.13862944F,
                    1.13862944F, 0.958123624F, 0.20141466F, 0.0360006243F, 0.00480222376F, 0.000569314754F,
                    5.06200304e-05F, 9.0016556e-06F, 1.60074603e-06F}},
                  {999,
                   {1.13823068F, -0.170302182F, 1.12119305F, -0.544935286F, 0.999514163F, 1.1375066F,
                    1.13859391F, 1.13862836F, -0.0301289912F, 1.12582147F, 0.19850193F, -0.999761283F,
                    0.545388341F, 0.0505527891F, 0.00899256021F, 0.00159914466F}},
              });
}

TEST(RopeTableTest, YarnWithoutTruncationAgreesWithTransformers) {
  expect_rows({.type = RopeType::kYarn,
               .rope_theta = 5e5,
               .rope_dim = 16,
               .attention_factor = 0.75,
               .factor = 8.0,
               .original_max_position_embeddings = 2048,
               .beta_fast = 16.0,
               .beta_slow = 2.0,
               .truncate = false},
              {
                  {1,
                   {0.405226767F, 0.735941887F, 0.749581933F, 0.749999225F, 0.75F, 0.75F, 0.75F, 0.75F,
                    0.631103218F, 0.144532204F, 0.025037773F, 0.00108117377F, 0.000132582514F,
                    2.57107677e-05F, 4.98590225e-06F, 9.66879838e-07F}},
                  {999,
                   {0.749737382F, 0.373237848F, -0.271062851F, 0.0977255479F, 0.738335013F, 0.749560237F,
                    0.74998343F, 0.749999404F, -0.0198455639F, -0.650533259F, 0.69930315F, 0.743605852F,
                    0.131762534F, 0.0256800354F, 0.00498087984F, 0.00096591271F}},
              });
}

TEST(RopeTableTest, Llama3AgreesWithTransformers) {
  expect_rows({.type = RopeType::kLlama3,
               .rope_theta = 5e5,
               .rope_dim = 16,
               .factor = 8.0,
               .original_max_position_embeddings = 1024,
               .low_freq_factor = 1.0,
               .high_freq_factor = 4.0},
              {
                  {1,
                   {0.540302336F, 0.981255829F, 0.99929297F, 0.999999166F, 1.0F, 1.0F, 1.0F, 1.0F,
                    0.841470957F, 0.192709595F, 0.0375971682F, 0.00131256913F, 0.000176776681F,
                    3.42810235e-05F, 6.64786967e-06F, 1.28917316e-06F}},
                  {999,
                   {0.999649823F, 0.497650445F, 0.991472542F, 0.256635457F, 0.984446704F, 0.99941361F,
                    0.999977946F, 0.999999166F, -0.0264607519F, -0.867377698F, -0.13031593F, 0.966508269F,
                    0.175683379F, 0.0342400484F, 0.0066411728F, 0.00128788361F}},
              });
}

TEST(RopeTableTest, YarnWithoutARampIsFinite) {
  // Both ends of the correction range fall on the same dimension.
  const RopeConfig rope{.type = RopeType::kYarn,
                        .rope_theta = 10000.0,
                        .rope_dim = 2,
                        .factor = 2.0,
                        .original_max_position_embeddings = 4};
  for (const float x : rope_inv_freq(rope)) EXPECT_TRUE(std::isfinite(x));
}

TEST(RopeTableTest, WritesStridedRowsAndNothingBetweenThem) {
  const RopeConfig rope{.rope_dim = 4};
  std::vector<float> table(3 * 6, -7.0F);
  fill_rope_table(rope, view_2d(table, 3, 4, 6));
  for (size_t row = 0; row < 3; ++row) {
    EXPECT_EQ(table[row * 6 + 4], -7.0F);
    EXPECT_EQ(table[row * 6 + 5], -7.0F);
  }
  EXPECT_FLOAT_EQ(table[0], 1.0F);
  EXPECT_FLOAT_EQ(table[12], std::cos(2.0F));
  EXPECT_FLOAT_EQ(table[14], std::sin(2.0F));
}

TEST(RopeTableTest, RefusesAnotherShape) {
  const RopeConfig rope{.rope_dim = 4};
  std::vector<float> table(64);
  try {
    fill_rope_table(rope, view_2d(table, 4, 8, 8));
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("expected f32[positions, 4]"));
  }
}

}  // namespace
}  // namespace weft::model
