#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <string>
#include <thread>

#include "base/error.h"
#include "fuzz/inputs.h"
#include "fuzz/mutate.h"
#include "model/safetensors.h"
#include "model/safetensors_writer.h"

namespace weft::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::span<const std::byte> as_bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string error_of(const std::string& bytes) {
  try {
    (void)parse_safetensors(as_bytes(bytes), "x.safetensors");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

/// The error of a file with one tensor "t" of `entry` and `num_bytes` of data.
std::string entry_error(const std::string& entry, size_t num_bytes) {
  return error_of(safetensors_bytes("{\"t\":" + entry + "}", std::string(num_bytes, 'x')));
}

TEST(SafetensorsTest, GivesDtypeShapeAndBytesOfEveryTensor) {
  const std::string bytes = SafetensorsWriter()
                                .add<float>("w", "F32", {2, 3}, {1, 2, 3, 4, 5, 6})
                                .add<uint8_t>("u", "U8", {5}, {9, 8, 7, 6, 5})
                                .add<uint16_t>("b", "BF16", {}, {0x3f80})
                                .add<int64_t>("none", "I64", {0, 7}, {})
                                .bytes();
  const SafeTensorMap tensors = parse_safetensors(as_bytes(bytes), "x");
  ASSERT_EQ(tensors.size(), 4U);
  const SafeTensor& w = tensors.at("w");
  EXPECT_EQ(w.dtype, DType::kF32);
  EXPECT_THAT(w.shape, ElementsAre(2, 3));
  float values[6];
  ASSERT_EQ(w.data.size(), sizeof(values));
  std::memcpy(values, w.data.data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(tensors.at("u").data,
              ElementsAre(std::byte{9}, std::byte{8}, std::byte{7}, std::byte{6}, std::byte{5}));
  EXPECT_THAT(tensors.at("b").shape, IsEmpty());
  EXPECT_EQ(tensors.at("b").data.size(), 2U);
  EXPECT_THAT(tensors.at("none").shape, ElementsAre(0, 7));
  EXPECT_TRUE(tensors.at("none").data.empty());
}

TEST(SafetensorsTest, AcceptsMetadataPaddingAndAnyOrderOfOffsets) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"shape":[1],"data_offsets":[1,2],"dtype":"U8"},)"
      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   )";
  const std::string bytes = safetensors_bytes(header, "AB");
  const SafeTensorMap tensors = parse_safetensors(as_bytes(bytes), "x");
  EXPECT_THAT(tensors.at("a").data, ElementsAre(std::byte{'A'}));
  EXPECT_THAT(tensors.at("b").data, ElementsAre(std::byte{'B'}));
}

TEST(SafetensorsTest, AFileWithoutTensorsIsLegal) { EXPECT_EQ(error_of(safetensors_bytes("{}", "")), ""); }

TEST(SafetensorsTest, RejectsBadLengths) {
  EXPECT_THAT(error_of(""), HasSubstr("0 bytes are too few"));
  EXPECT_THAT(error_of("1234567"), HasSubstr("7 bytes are too few"));
  EXPECT_THAT(error_of(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
              HasSubstr("passes the format's limit"));
  EXPECT_THAT(error_of(std::string("\x03\0\0\0\0\0\0\0{}", 10)), HasSubstr("it is truncated"));
  EXPECT_THAT(error_of(std::string(8, '\0')), HasSubstr("does not begin with '{'"));
}

TEST(SafetensorsTest, RejectsMalformedHeaders) {
  EXPECT_THAT(error_of(safetensors_bytes("[]", "")), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(error_of(safetensors_bytes(" {}", "")), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(error_of(safetensors_bytes("{\"a\":", "")),
              HasSubstr("x.safetensors: unexpected end at byte 5"));
  EXPECT_THAT(error_of(safetensors_bytes(R"({"a":1,"a":2})", "")), HasSubstr("name \"a\" twice"));
  EXPECT_THAT(
      error_of(safetensors_bytes("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", "")),
      HasSubstr("too deeply nested"));
}

TEST(SafetensorsTest, ErrorsNameTheTensorAndTheReason) {
  struct Case {
    const char* entry;
    const char* reason;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"7", "expected an object, found 7"},
           {"{}", "expected dtype, shape and data_offsets"},
           {R"({"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1})", "and nothing else"},
           {R"({"dtype":"U8","shape":[4],"offsets":[0,4]})", "data_offsets is missing"},
           {R"({"dtype":"F64","shape":[4],"data_offsets":[0,4]})", "dtype \"F64\" is not supported"},
           {R"({"dtype":8,"shape":[4],"data_offsets":[0,4]})", "dtype is 8"},
           {R"({"dtype":"U8","shape":4,"data_offsets":[0,4]})", "shape is 4"},
           {R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})", "shape holds -4"},
           {R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})", "shape holds 4"},
           {R"({"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,4]})", "shape holds 1e+20"},
           {R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,4]})", "9 dimensions are more"},
           {R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]})", "product overflows"},
           {R"({"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0]})", "product overflows"},
           {R"({"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]})", "product overflows"},
           {R"({"dtype":"U8","shape":[4],"data_offsets":[0]})", "data_offsets is array of 1"},
           {R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,4]})", "data_offsets is array of 3"},
           {R"({"dtype":"U8","shape":[4],"data_offsets":[-4,0]})", "data_offsets holds -4"},
           {R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})", "run backwards"},
           {R"({"dtype":"F16","shape":[4],"data_offsets":[0,4]})",
            "span 4 bytes, but dtype and shape need 8"},
           {R"({"dtype":"U8","shape":[5],"data_offsets":[0,5]})",
            "ends at byte 5 of 4: the file is truncated"},
           {R"({"dtype":"U8","shape":[3],"data_offsets":[1,4]})",
            "1 bytes before its data belong to no tensor"},
       }) {
    EXPECT_THAT(entry_error(c.entry, 4),
                AllOf(HasSubstr("x.safetensors: tensor \"t\": "), HasSubstr(c.reason)))
        << c.entry;
  }
  EXPECT_THAT(entry_error(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})", 6),
              HasSubstr("2 bytes after the last tensor belong to none"));
}

TEST(SafetensorsTest, RejectsOverlapsAndNamesBothTensors) {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})";
  EXPECT_THAT(error_of(safetensors_bytes(header, "1234")),
              AllOf(HasSubstr("tensor \"b\""), HasSubstr("overlaps that of \"a\"")));
  // An empty tensor inside another one's bytes would hide nothing, but no honest writer makes it.
  const std::string inside =
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})";
  EXPECT_THAT(error_of(safetensors_bytes(inside, "1234")), HasSubstr("overlaps that of \"a\""));
}

TEST(SafetensorsFileTest, ReadsAFileFromAnyThread) {
  const TempFolder folder;
  const std::string path =
      folder.write("m.safetensors", SafetensorsWriter().add<int32_t>("t", "I32", {3}, {7, 8, 9}).bytes());
  const SafetensorsFile file(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.find("other"), nullptr);
  const auto check = [&file] {
    int32_t values[3];
    std::memcpy(values, file.find("t")->data.data(), sizeof(values));
    EXPECT_THAT(values, ElementsAre(7, 8, 9));
  };
  std::thread other(check);
  check();
  other.join();
}

TEST(SafetensorsFileTest, ErrorsNameThePath) {
  const TempFolder folder;
  const auto error = [](const std::string& path) -> std::string {
    try {
      const SafetensorsFile file(path);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(error(folder.path() + "/none"), AllOf(HasSubstr("/none"), HasSubstr("No such file")));
  EXPECT_THAT(error(folder.path()), HasSubstr("is not a regular file"));
  EXPECT_THAT(error(folder.write("empty", "")), AllOf(HasSubstr("/empty"), HasSubstr("is empty")));
  EXPECT_THAT(error(folder.write("short", "1234")), HasSubstr("/short: 4 bytes are too few"));
  const std::string pipe = folder.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error(pipe), HasSubstr("is not a regular file"));
}

TEST(SafetensorsFuzzTest, AnyBytesGiveTensorsInsideTheFileOrAnError) {
  std::mt19937_64 rng(20260102);
  int accepted = 0;
  int rejected = 0;
  for (size_t i = 0; i < 50000; ++i) {
    std::string bytes = fuzz::mutate(fuzz::safetensors_seeds()[i % 2], fuzz::kSafetensorsPieces, rng);
    fuzz::repair_header_length(bytes.data(), bytes.size(), i);
    const std::string exact(bytes);  // no spare capacity: the sanitizer sees every byte past the end
    try {
      for (const auto& [name, tensor] : parse_safetensors(as_bytes(exact), "x")) {
        const char* begin = reinterpret_cast<const char*>(tensor.data.data());
        ASSERT_TRUE(tensor.data.empty() ||
                    (begin >= exact.data() && begin + tensor.data.size() <= exact.data() + exact.size()));
        size_t expected = dtype_size(tensor.dtype);
        for (const int64_t dim : tensor.shape) expected *= static_cast<size_t>(dim);
        ASSERT_EQ(tensor.data.size(), expected) << name;
      }
      ++accepted;
    } catch (const Error&) {
      ++rejected;
    }
  }
  EXPECT_GT(accepted, 500);  // the mutations reach both outcomes
  EXPECT_GT(rejected, 1000);
}

}  // namespace
}  // namespace weft::model
