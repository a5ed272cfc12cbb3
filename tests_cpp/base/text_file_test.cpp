#include "base/text_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(TextFileTest, IsReadWholeOrNotAtAll) {
  const std::string path = testing::TempDir() + "/weft_text_file";
  const std::string text = std::string(10000, 'x') + '\0' + "\nend";
  std::ofstream(path, std::ios::binary) << text;
  EXPECT_TRUE(file_exists(path));
  EXPECT_EQ(read_text_file(path), text);
  std::ofstream(path, std::ios::trunc).close();
  EXPECT_EQ(read_text_file(path), "");
  std::remove(path.c_str());
  EXPECT_FALSE(file_exists(path));
  EXPECT_EQ(read_text_file(path), std::nullopt);
  EXPECT_EQ(read_text_file(testing::TempDir()), std::nullopt) << "a directory";
}

TEST(TextFileTest, TextIsSplitIntoItsWords) {
  EXPECT_THAT(split_text(" a  bc\n", " \n"), ElementsAre("a", "bc"));
  EXPECT_THAT(split_text("abc", "/"), ElementsAre("abc"));
  EXPECT_THAT(split_text("", " "), IsEmpty());
  EXPECT_THAT(split_text("   ", " "), IsEmpty());
}

TEST(TextFileTest, ANumberIsAWholeWordThatFits) {
  EXPECT_EQ(to_number<int64_t>("-12"), -12);
  EXPECT_EQ(to_number<int64_t>("12x"), std::nullopt);
  EXPECT_EQ(to_number<int64_t>(""), std::nullopt);
  EXPECT_EQ(to_number<uint8_t>("256"), std::nullopt);
}

}  // namespace
}  // namespace weft
