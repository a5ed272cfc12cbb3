#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace weft::model {

/// One tensor of a file: row-major, little-endian, host memory that the file owns; perhaps unaligned.
struct SafeTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // at most kMaxSafetensorsRank; empty for a scalar; zeros are legal
  std::span<const std::byte> data;
};

using SafeTensorMap = std::map<std::string, SafeTensor, std::less<>>;

constexpr size_t kMaxSafetensorsRank = 8;
constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes, the format's own limit

/// Reads the layout of a safetensors file from its bytes, which may be hostile: an 8-byte length, a JSON
/// header (name -> dtype, shape, data_offsets; "__metadata__" is skipped), data. The tensors must fill the
/// data exactly, without overlap or hole. Views point into `bytes`. Throws Error that begins with `file` and
/// names the tensor: malformed header, unknown dtype, shape and size that disagree, overlap, hole, truncated
/// data.
[[nodiscard]] SafeTensorMap parse_safetensors(std::span<const std::byte> bytes, std::string_view file);

/// A safetensors file, mapped read-only. Immutable, so any thread may read. The file must not shrink while it
/// is mapped: the system would kill the process.
class SafetensorsFile {
 public:
  /// Maps and checks the file; reads the header alone. Throws Error with the path.
  explicit SafetensorsFile(const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const SafeTensorMap& tensors() const { return tensors_; }
  /// Null if the file has no such tensor.
  [[nodiscard]] const SafeTensor* find(std::string_view name) const;

 private:
  struct Unmap {
    size_t num_bytes;
    void operator()(const std::byte* data) const;
  };
  std::string path_;
  std::unique_ptr<const std::byte, Unmap> mapping_;
  SafeTensorMap tensors_;
};

}  // namespace weft::model
