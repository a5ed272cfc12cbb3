#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "base/error.h"
#include "ops/cpu/vec.h"
#include "support/ops_test.h"

#define WEFT_SIMD_FILE "ops/vec_probe_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

using test::available_isas;

TEST(VecTest, ExpIsWithinTwoUlpOfDoublePrecision) {
  std::vector<float> x;
  for (float v = -87.3F; v < 88.7F; v += 0.0123F) x.push_back(v);
  for (const Isa isa : available_isas()) {
    const IsaOverride override_isa(isa);
    std::vector<float> out(x.size());
    WEFT_CALL_ISA(exp_of, out.data(), x.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = std::exp(static_cast<double>(x[i]));
      ASSERT_LE(std::abs(static_cast<double>(out[i]) - expected), 2 * 0x1p-23 * expected)
          << isa_name(isa) << " at " << x[i];
    }
  }
}

TEST(VecTest, ExpOfExtremesIsZeroInfinityOrNan) {
  const std::vector<float> x = {-INFINITY, -200.0F, 0.0F, 89.0F, 1e30F, INFINITY, NAN};
  for (const Isa isa : available_isas()) {
    const IsaOverride override_isa(isa);
    std::vector<float> out(x.size());
    WEFT_CALL_ISA(exp_of, out.data(), x.data(), static_cast<int64_t>(x.size()));
    EXPECT_EQ(out[0], 0.0F);
    EXPECT_EQ(out[1], 0.0F);
    EXPECT_EQ(out[2], 1.0F);
    EXPECT_TRUE(std::isinf(out[3]) && std::isinf(out[4]) && std::isinf(out[5]));
    EXPECT_TRUE(std::isnan(out[6]));
  }
}

TEST(VecTest, ReductionsAddInOneOrder) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (const Isa isa : available_isas()) {
    const IsaOverride override_isa(isa);
    int lanes = 0;
    WEFT_CALL_ISA(num_lanes, &lanes);
    for (int repeat = 0; repeat < 100; ++repeat) {
      std::vector<float> x(4 * lanes);
      for (float& v : x) v = normal(generator);
      std::array<float, 4> together{};
      std::array<float, 4> single{};
      std::array<float, 4> max{};
      WEFT_CALL_ISA(reductions, together.data(), single.data(), max.data(), x.data());
      EXPECT_EQ(together, single) << isa_name(isa);
      for (int j = 0; j < 4; ++j) {
        const auto begin = x.begin() + j * lanes;
        EXPECT_EQ(max[j], *std::max_element(begin, begin + lanes));
        double sum = 0;
        for (int i = 0; i < lanes; ++i) sum += static_cast<double>(begin[i]);
        EXPECT_NEAR(static_cast<double>(single[j]), sum, 1e-5);
      }
    }
  }
}

TEST(IsaTest, AnOverrideEndsWithItsScopeAndNests) {
  const Isa before = current_isa();
  EXPECT_EQ(before, best_isa());
  {
    const IsaOverride outer(Isa::kPortable);
    EXPECT_EQ(current_isa(), Isa::kPortable);
    {
      const IsaOverride inner(best_isa());
      EXPECT_EQ(current_isa(), best_isa());
    }
    EXPECT_EQ(current_isa(), Isa::kPortable);
  }
  EXPECT_EQ(current_isa(), before);
}

TEST(IsaTest, RefusesWhatTheMachineLacks) {
  if (best_isa() == Isa::kAvx512Bf16) GTEST_SKIP() << "this machine lacks nothing";
  EXPECT_THROW({ const IsaOverride missing(Isa::kAvx512Bf16); }, Error);
}

}  // namespace
}  // namespace weft::ops::cpu
