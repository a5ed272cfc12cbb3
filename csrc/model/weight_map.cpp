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
  tensors_.push_back({std::move(name), dtype, std::move(shape), num_bytes_, {}, -1});
  num_bytes_ += round_up(num_bytes, kAlignment);
  return WeightId{static_cast<int>(tensors_.size()) - 1};
}

void WeightMap::fill(WeightId target, WeightSourceSlice source) {
  tensors_[static_cast<size_t>(target.index)].sources.push_back(std::move(source));
}

void WeightMap::pad(WeightId target, int64_t row_begin) {
  tensors_[static_cast<size_t>(target.index)].pad_begin = row_begin;
}

void WeightMap::load(WeightSource& source, WeightCoverage& coverage, const WeightStaging* staging) const {
  std::vector<WeightPart> staged;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const auto& tensor = tensors_[i];
    const auto whole = view(WeightId{static_cast<int>(i)});
    WeightDestination destination(source, coverage, tensor.name, whole);
    for (const auto& from : tensor.sources) {
      auto part = whole;
      if (from.group >= 0) {
        part = whole.rows(from.group, 1).reshape({whole.shape[1], whole.shape[2]});
      }
      const Slice rows = from.slices.empty() ? Slice{} : from.slices[0];
      const int64_t end = rows.end < 0 ? from.full_shape[0] : rows.end;
      part = part.rows(from.row_begin, end - rows.begin);
      if (staging == nullptr) {
        destination.read(from.name, from.full_shape, from.slices, part);
      } else {
        destination.expect(from.name, from.full_shape, from.slices, part);
        staged.push_back({from.name, from.full_shape, from.slices, part});
      }
    }
    if (tensor.pad_begin >= 0) {
      const auto padding = whole.rows(tensor.pad_begin, whole.shape[0] - tensor.pad_begin);
      if (staging == nullptr) {
        destination.zero(padding);
      } else {
        destination.expect_zeros(padding);
        staged.push_back({.to = padding});
      }
    }
    destination.finish();
  }
  if (staging != nullptr) load_staged(source, staged, *staging);
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
