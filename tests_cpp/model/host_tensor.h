#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "device/tensor.h"

namespace weft::model {

/// Host memory with a view of up to four dimensions, for tests; filled with 0x5a.
class HostTensor {
 public:
  HostTensor(DType dtype, const std::vector<int64_t>& shape) {
    view_.dtype = dtype;
    view_.rank = static_cast<int>(shape.size());
    int64_t numel = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      view_.shape[d] = shape[d];
      view_.stride[d] = numel;
      numel *= shape[d];
    }
    memory_.assign(static_cast<size_t>(numel) * dtype_size(dtype), std::byte{0x5a});
    view_.data = memory_.data();
  }
  [[nodiscard]] const device::TensorView& view() const { return view_; }
  /// The block [begin, begin + shape) of the tensor.
  [[nodiscard]] device::TensorView part(const std::vector<int64_t>& begin,
                                        const std::vector<int64_t>& shape) {
    device::TensorView view = view_;
    int64_t offset = 0;
    for (size_t d = 0; d < shape.size(); ++d) {
      offset += begin[d] * view.stride[d];
      view.shape[d] = shape[d];
    }
    view.data = memory_.data() + static_cast<size_t>(offset) * dtype_size(view.dtype);
    return view;
  }
  /// The raw elements, in order.
  template <class T>
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> values(memory_.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), memory_.data(), memory_.size());
    return values;
  }

 private:
  std::vector<std::byte> memory_;
  device::TensorView view_;
};

}  // namespace weft::model
