#include "model/weight_map.h"

#include "base/error.h"
#include "base/math.h"

namespace weft::model {

namespace {
constexpr int64_t kAlignment = 64;
}

WeightId WeightMap::reserve(std::string name, DType dtype, std::vector<int64_t> shape) {
  int64_t num_bytes = static_cast<int64_t>(dtype_size(dtype));
  for (const int64_t extent : shape) num_bytes *= extent;
  tensors_.push_back({std::move(name), dtype, std::move(shape), num_bytes_, {}});
  num_bytes_ += round_up(num_bytes, kAlignment);
  return WeightId{static_cast<int>(tensors_.size()) - 1};
}

void WeightMap::fill(WeightId target, WeightSourceSlice source) {
  tensors_[static_cast<size_t>(target.index)].sources.push_back(std::move(source));
}

device::TensorView WeightMap::view(WeightId id) const {
  const auto& tensor = tensors_[static_cast<size_t>(id.index)];
  void* data = static_cast<char*>(memory_) + tensor.offset;
  switch (tensor.shape.size()) {
    case 1:
      return device::make_view(data, tensor.dtype, {tensor.shape[0]});
    case 2:
      return device::make_view(data, tensor.dtype, {tensor.shape[0], tensor.shape[1]});
    default:
      return device::make_view(data, tensor.dtype, {tensor.shape[0], tensor.shape[1], tensor.shape[2]});
  }
}

}  // namespace weft::model
