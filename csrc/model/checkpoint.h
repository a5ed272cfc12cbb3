#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace weft::model {

/// A range of one dimension; end -1 means to its end.
struct Slice {
  int64_t begin = 0;
  int64_t end = -1;
};

/// Named tensors to read weights from; thread-safe, shared by all ranks.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  [[nodiscard]] virtual bool contains(std::string_view name) const = 0;
  /// Copies tensor `name`, whose shape must equal full_shape, restricted to `slices` (one a dimension;
  /// missing: whole), into dst (host memory, the sliced shape; rows may be strided, the innermost stride is
  /// 1), converted to dst's dtype: among f32, bf16 and f16, rounding to nearest even; any other dtype only to
  /// itself. Only the slice's bytes are touched. Throws Error with the tensor's name: missing, another shape,
  /// slice out of range, no such conversion, a value that f16 cannot hold.
  virtual void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
                    const device::TensorView& dst) = 0;
  /// Every tensor that there is, sorted; empty if the source makes them up.
  [[nodiscard]] virtual std::vector<std::string> names() const = 0;
};

/// The checkpoint in `folder`: model.safetensors, or the shards that model.safetensors.index.json lists
/// (plain file names inside the folder). Shards are mapped when first read. Throws Error with the path:
/// nothing to read, an index that is malformed, names other folders or lacks its shards.
[[nodiscard]] std::unique_ptr<WeightSource> open_checkpoint(const std::string& folder);

/// Made-up weights (`--load-format dummy`): every name exists in every shape. An element's value depends on
/// seed, name and its index in the whole tensor alone, so all layouts see one model. Uniform with deviation
/// 0.02; names that end in "norm.weight" are 1 plus that. Numbers recur, so that memory is filled as fast as
/// it is copied: 2^18 of them, from a place of its own for each row. f32, bf16 and f16.
[[nodiscard]] std::unique_ptr<WeightSource> open_dummy(uint64_t seed);

}  // namespace weft::model
