#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "fuzz/inputs.h"
#include "fuzz/mutate.h"

namespace weft::json {
namespace {

TEST(JsonFuzzTest, AnyBytesGiveAValueOrAnError) {
  std::mt19937_64 rng(20260101);
  int values = 0;
  int errors = 0;
  for (size_t i = 0; i < 50000; ++i) {
    const std::string text = fuzz::mutate(fuzz::json_seeds()[i % 2], fuzz::kJsonPieces, rng);
    try {
      const Value value = parse(text, {.max_depth = 16});
      EXPECT_FALSE(value.describe().empty());
      ++values;
    } catch (const Error& e) {
      ++errors;
    }
  }
  EXPECT_GT(values, 1000);  // the mutations reach both outcomes
  EXPECT_GT(errors, 1000);
}

}  // namespace
}  // namespace weft::json
