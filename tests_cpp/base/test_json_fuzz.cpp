#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "fuzz/mutate.h"

namespace weft::json {
namespace {

TEST(JsonFuzzTest, AnyBytesGiveAValueOrAnError) {
  const std::string seeds[] = {
      R"({"architectures": ["X"], "n": [1, -2.5e3, null, true, {"s": "\u00e9\ud83d\ude00\n"}], "m": {}})",
      R"([[[[[[]]]]], "", "\\\"", 0, 1e5, false, {"a": {"b": {"c": [1, 2, 3]}}}])",
  };
  std::mt19937_64 rng(20260101);
  int values = 0;
  int errors = 0;
  for (int i = 0; i < 50000; ++i) {
    const std::string text =
        fuzz::mutate(seeds[i % 2],
                     {"{", "}", "[", "]", "\"", ",", ":", "\\u", "\\ud800", "1e309", "99999999999999999999",
                      "null", "-", "\xf0\x9f", "\xed\xa0\x80", "[[[[[[[[[[[[[[[["},
                     rng);
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
