#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "base/error.h"
#include "base/json.h"

namespace weft::json {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// The message of the error, or "" if the text parses.
std::string error_of(std::string_view text, ParseOptions options = {}) {
  try {
    (void)parse(text, options);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(JsonTest, ReadsEveryKindOfValue) {
  const Value value = parse(R"( {"a": null, "b": [true, false], "c": -12, "d": 1.5e2, "e": "x", "f": {}} )");
  const Object& object = *value.if_object();
  EXPECT_THAT(object.names(), ElementsAre("a", "b", "c", "d", "e", "f"));
  EXPECT_TRUE(object.find("a")->is_null());
  EXPECT_TRUE(*object.find("b")->if_array()->at(0).if_bool());
  EXPECT_FALSE(*object.find("b")->if_array()->at(1).if_bool());
  EXPECT_EQ(*object.find("c")->if_int(), -12);
  EXPECT_EQ(*object.find("d")->if_double(), 150.0);
  EXPECT_EQ(*object.find("e")->if_string(), "x");
  EXPECT_EQ(object.find("f")->if_object()->size(), 0U);
}

TEST(JsonTest, KeepsOrderAndFindsByName) {
  const Value value = parse(R"({"z": 1, "a": 2, "m": 3})");
  EXPECT_THAT(value.if_object()->names(), ElementsAre("z", "a", "m"));
  EXPECT_EQ(*value.if_object()->find("a")->if_int(), 2);
  EXPECT_EQ(value.if_object()->find("b"), nullptr);
  EXPECT_EQ(value.if_object()->find(""), nullptr);
}

TEST(JsonTest, AccessorsOfAnotherKindAreNull) {
  const Value value = parse("1");
  EXPECT_EQ(value.if_double(), nullptr);
  EXPECT_EQ(value.if_string(), nullptr);
  EXPECT_EQ(value.if_object(), nullptr);
  EXPECT_FALSE(value.is_null());
  EXPECT_EQ(value.kind_name(), "integer");
}

TEST(JsonTest, ReadsIntegersUpToInt64AndLargerOnesAsDoubles) {
  EXPECT_EQ(*parse("9223372036854775807").if_int(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(*parse("-9223372036854775808").if_int(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*parse("9223372036854775808").if_double(), 9223372036854775808.0);
  EXPECT_EQ(*parse("-0").if_int(), 0);
  EXPECT_EQ(*parse("0.1").if_double(), 0.1);
  EXPECT_EQ(*parse("1E+2").if_double(), 100.0);
  EXPECT_EQ(*parse("1e-2").if_double(), 0.01);
}

TEST(JsonTest, DecodesEscapesAndKeepsUtf8) {
  EXPECT_EQ(*parse(R"("\" \\ \/ \b \f \n \r \t")").if_string(), "\" \\ / \b \f \n \r \t");
  EXPECT_EQ(*parse(R"("\u0041\u00e9\u20ac\ud83d\ude00")").if_string(),
            "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(*parse("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"").if_string(),
            "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(*parse(R"("a\u0000b")").if_string(), std::string("a\0b", 3));
}

TEST(JsonTest, ErrorsGiveReasonAndOffset) {
  struct Case {
    const char* text;
    const char* message;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"", "unexpected end at byte 0"},
           {"  ", "unexpected end at byte 2"},
           {"{", "unexpected end at byte 1"},
           {"[1", "unexpected end at byte 2"},
           {"[1,]", "expected a value at byte 3"},
           {"[1 2]", "expected ',' or ']' at byte 3"},
           {"{\"a\":1,}", "expected a name in quotes at byte 7"},
           {"{a:1}", "expected a name in quotes at byte 1"},
           {"{\"a\" 1}", "expected ':' at byte 5"},
           {"{\"a\":1 \"b\":2}", "expected ',' or '}' at byte 7"},
           {"{\"a\":1,\"a\":2}", "name \"a\" twice in an object at byte 0"},
           {"1 2", "text after the value at byte 2"},
           {"01", "leading zero at byte 1"},
           {"-", "expected a value at byte 0"},
           {"+1", "expected a value at byte 0"},
           {"1.", "expected a digit at byte 2"},
           {"1e", "expected a digit at byte 2"},
           {"1e999", "number out of range at byte 0"},
           {"NaN", "expected a value at byte 0"},
           {"nul", "unknown word at byte 0"},
           {"truE", "unknown word at byte 0"},
           {"// x", "expected a value at byte 0"},
           {"\"a", "string without an end at byte 2"},
           {"\"\\", "string without an end at byte 2"},
           {"\"\\x\"", "unknown escape at byte 1"},
           {"\"\\u12\"", "expected four hexadecimal digits at byte 3"},
           {"\"\\u-123\"", "expected four hexadecimal digits at byte 3"},
           {"\"\\ud800\"", "lone surrogate at byte 1"},
           {"\"\\ud800\\u0041\"", "lone surrogate at byte 1"},
           {"\"\\udc00\"", "lone surrogate at byte 1"},
           {"\"\n\"", "control character in a string at byte 1"},
           {"\xef\xbb\xbf{}", "byte order mark"},
       }) {
    EXPECT_THAT(error_of(c.text), HasSubstr(c.message)) << c.text;
  }
  EXPECT_THAT(error_of("[", {.source = "config.json"}), ::testing::StartsWith("config.json: "));
}

TEST(JsonTest, RejectsMalformedUtf8) {
  for (const char* bytes :
       {"\x80", "\xc3", "\xc3(", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf0\x80\x80\xaf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xe2\x82", "\xf0\x9f\x98"}) {
    EXPECT_THAT(error_of('"' + std::string(bytes) + '"'), HasSubstr("malformed UTF-8 at byte 1"));
  }
}

TEST(JsonTest, RejectsZeroBytesOutsideStrings) {
  EXPECT_NE(error_of(std::string_view("\0", 1)), "");
  EXPECT_NE(error_of(std::string_view("[1]\0", 4)), "");
  EXPECT_NE(error_of(std::string_view("[1\0]", 4)), "");
}

TEST(JsonTest, LimitsDepthSizeAndCount) {
  const std::string deep = std::string(64, '[') + std::string(64, ']');
  EXPECT_EQ(error_of(deep), "");
  EXPECT_THAT(error_of('[' + deep + ']'), HasSubstr("too deeply nested"));
  EXPECT_THAT(error_of(std::string(1000000, '[')), HasSubstr("too deeply nested"));
  EXPECT_EQ(error_of("[1,2]", {.max_values = 3}), "");
  EXPECT_THAT(error_of("[1,2,3]", {.max_values = 3}), HasSubstr("too many values"));
  EXPECT_THAT(error_of("[1,2]", {.max_bytes = 4}), HasSubstr("5 bytes are more than the limit of 4"));
}

TEST(JsonTest, FindsEveryMemberOfALargeObject) {
  std::string text = "{";
  for (int i = 0; i < 20000; ++i)
    text += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":" + std::to_string(i);
  const Value value = parse(text + "}");
  for (int i = 0; i < 20000; ++i) EXPECT_EQ(*value.if_object()->find("k" + std::to_string(i))->if_int(), i);
}

TEST(JsonTest, DescribesValuesForMessages) {
  EXPECT_EQ(parse("null").describe(), "null");
  EXPECT_EQ(parse("true").describe(), "true");
  EXPECT_EQ(parse("-3").describe(), "-3");
  EXPECT_EQ(parse("[1,2]").describe(), "array of 2");
  EXPECT_EQ(parse("{\"a\":1}").describe(), "object of 1");
  EXPECT_EQ(parse("\"x\"").describe(), "\"x\"");
}

TEST(JsonTest, CutsLongStringsInMessagesBetweenCharacters) {
  std::string text(79, 'a');
  text += "\xe2\x82\xac and more";
  EXPECT_EQ(excerpt(text), "\"" + std::string(79, 'a') + "...\"");
}

TEST(JsonTest, MessagesHoldNoControlCharacters) {
  EXPECT_EQ(excerpt(std::string_view("a\0\n\x7f\"b", 6)), "\"a\\x00\\x0a\\x7f\"b\"");
}

}  // namespace
}  // namespace weft::json
