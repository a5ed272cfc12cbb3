#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "support/ops_test.h"

namespace weft::test {

/// A CPU device and a stream, for running an op the way its callers do.
class StreamOps {
 public:
  explicit StreamOps(int num_threads = 2)
      : device_(device::make_cpu_device({.name = "cpu:test", .num_threads = num_threads})),
        stream_(device_->make_stream("compute")) {}

  [[nodiscard]] device::Stream& stream() { return *stream_; }

  /// A copy of `tensor`, gaps included, in a buffer of the device.
  [[nodiscard]] TensorView upload(const HostTensor& tensor) {
    buffers_.push_back(device_->allocate(tensor.bytes().size(), "tensor"));
    TensorView view = tensor.view();
    view.data = buffers_.back().data();
    if (!tensor.bytes().empty()) std::memcpy(view.data, tensor.bytes().data(), tensor.bytes().size());
    return view;
  }
  /// Waits for the stream, then reads back what upload() placed at `view`.
  [[nodiscard]] HostTensor download(const TensorView& view) {
    wait();
    using Index = HostTensor::Index;
    HostTensor result(view.dtype, Index(view.shape.begin(), view.shape.begin() + view.rank),
                      Index(view.stride.begin(), view.stride.begin() + view.rank));
    if (!result.bytes().empty()) std::memcpy(result.data(), view.data, result.bytes().size());
    return result;
  }
  /// Throws the first failure of an op.
  void wait() { stream_->wait_idle(std::chrono::seconds(60)); }

 private:
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<device::Buffer> buffers_;
};

}  // namespace weft::test
