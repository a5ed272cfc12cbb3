#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/json.h"

namespace weft::model {

namespace {

std::optional<DType> parse_dtype(std::string_view name) {
  if (name == "F32") return DType::kF32;
  if (name == "BF16") return DType::kBF16;
  if (name == "F16") return DType::kF16;
  if (name == "F8_E4M3") return DType::kF8E4M3;
  if (name == "I32") return DType::kI32;
  if (name == "I64") return DType::kI64;
  if (name == "U8") return DType::kU8;
  return std::nullopt;
}

/// The byte range of a tensor in the data section.
struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  const std::string* name = nullptr;
};

class HeaderReader {
 public:
  HeaderReader(std::string_view file, std::span<const std::byte> data) : file_(file), data_(data) {}

  SafeTensorMap read(const json::Object& header) {
    SafeTensorMap tensors;
    for (size_t i = 0; i < header.size(); ++i) {
      const std::string& name = header.names()[i];
      if (name == "__metadata__") continue;
      tensors.emplace(name, read_tensor(name, header.values()[i]));
    }
    check_extents();
    return tensors;
  }

 private:
  [[noreturn]] void fail(std::string_view tensor, const std::string& reason) const {
    WEFT_THROW("{}: tensor {}: {}", file_, json::excerpt(tensor), reason);
  }

  const json::Value& member(const std::string& name, const json::Object& entry, std::string_view key) const {
    const json::Value* value = entry.find(key);
    if (value == nullptr) fail(name, fmt::format("{} is missing", key));
    return *value;
  }

  uint64_t non_negative(const std::string& name, std::string_view key, const json::Value& value) const {
    const int64_t* x = value.if_int();
    if (x == nullptr || *x < 0) fail(name, fmt::format("{} holds {}", key, value.describe()));
    return static_cast<uint64_t>(*x);
  }

  SafeTensor read_tensor(const std::string& name, const json::Value& value) {
    const json::Object* entry = value.if_object();
    if (entry == nullptr) fail(name, fmt::format("expected an object, found {}", value.describe()));
    if (entry->size() != 3) fail(name, "expected dtype, shape and data_offsets, and nothing else");
    SafeTensor tensor;

    const json::Value& dtype = member(name, *entry, "dtype");
    const std::string* dtype_text = dtype.if_string();
    if (dtype_text == nullptr) fail(name, fmt::format("dtype is {}", dtype.describe()));
    const std::optional<DType> known = parse_dtype(*dtype_text);
    if (!known) {
      fail(name, fmt::format("dtype {} is not supported; weft reads F32, BF16, F16, F8_E4M3, I32, I64 and U8",
                             json::excerpt(*dtype_text)));
    }
    tensor.dtype = *known;

    const json::Value& shape = member(name, *entry, "shape");
    const json::Array* dims = shape.if_array();
    if (dims == nullptr) fail(name, fmt::format("shape is {}", shape.describe()));
    if (dims->size() > kMaxSafetensorsRank) {
      fail(name,
           fmt::format("{} dimensions are more than the limit of {}", dims->size(), kMaxSafetensorsRank));
    }
    // Overflow counts even if a later dimension is 0: no honest writer makes such a shape.
    uint64_t num_bytes = dtype_size(tensor.dtype);
    uint64_t nonzero_bytes = num_bytes;
    for (const json::Value& dim : *dims) {
      const uint64_t extent = non_negative(name, "shape", dim);
      tensor.shape.push_back(static_cast<int64_t>(extent));
      if (__builtin_mul_overflow(nonzero_bytes, std::max<uint64_t>(extent, 1), &nonzero_bytes) ||
          nonzero_bytes > static_cast<uint64_t>(INT64_MAX)) {
        fail(name, "the shape's product overflows");
      }
      num_bytes *= extent;
    }

    const json::Value& offsets = member(name, *entry, "data_offsets");
    const json::Array* pair = offsets.if_array();
    if (pair == nullptr || pair->size() != 2) {
      fail(name, fmt::format("data_offsets is {}, expected two numbers", offsets.describe()));
    }
    const uint64_t begin = non_negative(name, "data_offsets", (*pair)[0]);
    const uint64_t end = non_negative(name, "data_offsets", (*pair)[1]);
    if (begin > end) fail(name, fmt::format("data_offsets [{}, {}] run backwards", begin, end));
    if (end - begin != num_bytes) {
      fail(name, fmt::format("data_offsets [{}, {}] span {} bytes, but dtype and shape need {}", begin, end,
                             end - begin, num_bytes));
    }
    if (end > data_.size()) {
      fail(name, fmt::format("data ends at byte {} of {}: the file is truncated; download it again", end,
                             data_.size()));
    }
    tensor.data = data_.subspan(begin, num_bytes);
    extents_.push_back({begin, end, &name});
    return tensor;
  }

  /// The format allows neither overlaps nor bytes that belong to no tensor.
  void check_extents() {
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    uint64_t end = 0;
    const std::string* last = nullptr;
    for (const Extent& extent : extents_) {
      if (extent.begin < end) {
        fail(*extent.name, fmt::format("data overlaps that of {}", json::excerpt(*last)));
      }
      if (extent.begin > end) {
        fail(*extent.name, fmt::format("{} bytes before its data belong to no tensor", extent.begin - end));
      }
      end = extent.end;
      last = extent.name;
    }
    if (end != data_.size()) {
      WEFT_THROW("{}: {} bytes after the last tensor belong to none", file_, data_.size() - end);
    }
  }

  std::string_view file_;
  std::span<const std::byte> data_;
  std::vector<Extent> extents_;
};

}  // namespace

SafeTensorMap parse_safetensors(std::span<const std::byte> bytes, std::string_view file) {
  WEFT_CHECK(bytes.size() >= 8, "{}: {} bytes are too few for a safetensors file", file, bytes.size());
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < 8; ++i) header_bytes |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  WEFT_CHECK(header_bytes <= kMaxSafetensorsHeader,
             "{}: a header of {} bytes passes the format's limit of {}; is this a safetensors file?", file,
             header_bytes, kMaxSafetensorsHeader);
  WEFT_CHECK(header_bytes <= bytes.size() - 8,
             "{}: the header needs {} bytes, the file has {} after its length: it is truncated", file,
             header_bytes, bytes.size() - 8);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  WEFT_CHECK(text.starts_with('{'), "{}: the header does not begin with '{{'", file);
  const json::Value header =
      json::parse(text, {.source = file, .max_bytes = kMaxSafetensorsHeader, .max_depth = 8});
  return HeaderReader(file, bytes.subspan(8 + header_bytes)).read(*header.if_object());
}

void SafetensorsFile::Unmap::operator()(const std::byte* data) const {
  munmap(const_cast<std::byte*>(data), num_bytes);
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: a pipe in the file's place must not hang the load.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  WEFT_CHECK(fd >= 0, "cannot open {}: {}", path, std::strerror(errno));
  struct stat info {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const auto num_bytes = static_cast<size_t>(regular ? info.st_size : 0);
  void* data = num_bytes == 0 ? MAP_FAILED : mmap(nullptr, num_bytes, PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);
  WEFT_CHECK(regular, "{} is not a regular file", path);
  WEFT_CHECK(num_bytes != 0, "{} is empty", path);
  WEFT_CHECK(data != MAP_FAILED, "cannot map {}: {}", path, std::strerror(error));
  mapping_ = {static_cast<const std::byte*>(data), Unmap{num_bytes}};
  tensors_ = parse_safetensors({mapping_.get(), num_bytes}, path);
}

const SafeTensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace weft::model
