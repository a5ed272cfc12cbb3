#include "plan/tbo_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;

// Compute grows with rows from a fixed cost; dispatch and combine are proportional.
TboCostTable linear(double fixed, double compute, double exchange) {
  TboCostTable table;
  for (const int64_t rows : {1, 100}) {
    const auto n = static_cast<double>(rows);
    table.tokens.push_back(rows);
    table.compute_us.push_back(fixed + compute * n);
    table.dispatch_us.push_back(exchange * n);
    table.combine_us.push_back(exchange * n);
  }
  return table;
}

std::string error_of(const TboCostTable& table) {
  try {
    table.validate();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(TboCostTableTest, IsLinearBetweenPointsFlatBelowAndKeepsTheLastSlopeAbove) {
  const TboCostTable table{{4, 8, 16}, {10, 20, 30}, {0, 0, 8}, {1, 1, 1}};
  EXPECT_DOUBLE_EQ(table.whole_us(1), 10 + 0 + 1);
  EXPECT_DOUBLE_EQ(table.whole_us(4), 10 + 0 + 1);
  EXPECT_DOUBLE_EQ(table.whole_us(6), 15 + 0 + 1);
  EXPECT_DOUBLE_EQ(table.whole_us(8), 20 + 0 + 1);
  EXPECT_DOUBLE_EQ(table.whole_us(12), 25 + 4 + 1);
  EXPECT_DOUBLE_EQ(table.whole_us(16), 30 + 8 + 1);
  EXPECT_DOUBLE_EQ(table.whole_us(32), 50 + 24 + 1);
}

TEST(TboCostTableTest, NothingGetsCheaperAboveTheLastPoint) {
  const TboCostTable table{{1, 10}, {50, 20}, {0, 0}, {0, 0}};
  EXPECT_DOUBLE_EQ(table.whole_us(10), 20);
  EXPECT_DOUBLE_EQ(table.whole_us(1000), 20);
}

TEST(TboCostTableTest, OnePointIsAConstant) {
  const TboCostTable table{{8}, {5}, {2}, {1}};
  for (const int64_t rows : {0, 8, 1 << 20}) EXPECT_DOUBLE_EQ(table.whole_us(rows), 8);
}

TEST(TboCostTableTest, EachCommunicationRunsBesideHalfOfTheOthersCompute) {
  const TboCostTable table{{1, 100}, {1, 100}, {4, 400}, {0.25, 25}};  // C(n) = n, D(n) = 4n, B(n) = n/4
  EXPECT_DOUBLE_EQ(table.whole_us(40), 40 + 160 + 10);
  // max(C(30)/2, D(10)) + max(C(10)/2, D(30)) + max(C(30)/2, B(10)) + max(C(10)/2, B(30))
  EXPECT_DOUBLE_EQ(table.split_us(10, 30), 40 + 120 + 15 + 7.5);
}

TEST(TboCostTableTest, OverlapPaysWhereCommunicationCanHideAndFixedCostsAreSmall) {
  EXPECT_TRUE(linear(0, 1, 0.5).pays(64, 32, 32)) << "communication as long as compute hides behind it";
  EXPECT_FALSE(linear(0, 1, 0).pays(64, 32, 32)) << "nothing to hide";
  EXPECT_FALSE(linear(100, 1, 0.1).pays(64, 32, 32)) << "the fixed cost is paid twice";
  EXPECT_TRUE(linear(100, 1, 0.5).pays(2048, 1024, 1024)) << "and matters less to a large step";
}

TEST(TboCostTableTest, ATableThatIsNoneIsRefusedByItsEntry) {
  EXPECT_THAT(error_of({{4, 4}, {1, 1}, {1, 1}, {1, 1}}), HasSubstr("tokens[1]=4 after 4"));
  EXPECT_THAT(error_of({{0}, {1}, {1}, {1}}), HasSubstr("tokens[0]=0"));
  EXPECT_THAT(error_of({{1, 2}, {1, 1}, {1}, {1, 1}}), HasSubstr("dispatch_us has 1 entries for 2"));
  EXPECT_THAT(error_of({{1}, {1}, {1}, {-2}}), HasSubstr("combine_us[0]=-2"));
  EXPECT_THAT(error_of({{1}, {std::nan("")}, {1}, {1}}), HasSubstr("compute_us[0]=nan"));
  EXPECT_EQ(error_of({}), "no error");
  EXPECT_THROW((void)TboCostTable{}.whole_us(1), Error);
}

TEST(TboGateTest, NamesParseBackAndOthersAreRefused) {
  for (const TboGate gate : {TboGate::kAuto, TboGate::kAlways}) {
    EXPECT_EQ(parse_tbo_gate(tbo_gate_name(gate)), gate);
  }
  EXPECT_THROW((void)parse_tbo_gate("never"), Error);
}

}  // namespace
}  // namespace weft::plan
