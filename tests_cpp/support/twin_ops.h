#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "support/ops_test.h"

/// Runs an op on a CUDA device and on the CPU with the same inputs. The CPU's result is the reference.
namespace weft::test {

/// One of the two devices, while the op's arguments are made.
class Side {
 public:
  explicit Side(std::unique_ptr<device::Device> device)
      : device_(std::move(device)), stream_(device_->make_stream("compute")) {}

  [[nodiscard]] device::Stream& stream() { return *stream_; }

  /// A copy of `tensor`, gaps included, in a buffer of the device.
  [[nodiscard]] TensorView in(const HostTensor& tensor) {
    const size_t num_bytes = tensor.bytes().size();
    buffers_.push_back(device_->allocate(num_bytes, "tensor"));
    TensorView view = tensor.view();
    view.data = buffers_.back().data();
    if (num_bytes != 0) {
      staging_.push_back(device_->allocate_host(num_bytes, "staging"));
      std::memcpy(staging_.back().data(), tensor.bytes().data(), num_bytes);
      stream_->copy(view.data, staging_.back().data(), num_bytes);
    }
    return view;
  }
  /// The same for what the op writes; its content is what it holds before.
  [[nodiscard]] TensorView out(const HostTensor& tensor) {
    outs_.push_back(in(tensor));
    return outs_.back();
  }
  /// Values in device memory.
  template <class T>
  [[nodiscard]] const T* array(const std::vector<T>& values) {
    HostTensor bytes(DType::kU8, {static_cast<int64_t>(values.size() * sizeof(T))});
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), values.size() * sizeof(T));
    return static_cast<const T*>(in(bytes).data);
  }

  /// Waits, then reads what the op left in out(0), out(1), ..
  [[nodiscard]] std::vector<HostTensor> results() {
    std::vector<HostTensor> read;
    for (const TensorView& view : outs_) {
      using Index = HostTensor::Index;
      HostTensor result(view.dtype, Index(view.shape.begin(), view.shape.begin() + view.rank),
                        Index(view.stride.begin(), view.stride.begin() + view.rank));
      const size_t num_bytes = result.bytes().size();
      if (num_bytes != 0) {
        const auto host = device_->allocate_host(num_bytes, "result");
        stream_->copy(host.data(), view.data, num_bytes);
        stream_->wait_idle(std::chrono::seconds(60));
        std::memcpy(result.data(), host.data(), num_bytes);
      }
      read.push_back(result);
    }
    stream_->wait_idle(std::chrono::seconds(60));
    return read;
  }

 private:
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<device::Buffer> buffers_, staging_;
  std::vector<TensorView> outs_;
};

using Enqueue = std::function<void(Side&)>;

/// What the op leaves on the CPU.
inline std::vector<HostTensor> on_cpu(const Enqueue& enqueue) {
  Side side(device::make_cpu_device({.name = "cpu:test", .num_threads = 2}));
  enqueue(side);
  return side.results();
}

#if WEFT_CUDA
/// What it leaves on the GPU.
inline std::vector<HostTensor> on_cuda(const Enqueue& enqueue) {
  Side side(device::make_cuda_device({.name = "cuda:test"}));
  enqueue(side);
  return side.results();
}

/// The failure of the op on the GPU; "" if there is none.
inline std::string cuda_failure(const Enqueue& enqueue) {
  Side side(device::make_cuda_device({.name = "cuda:test"}));
  enqueue(side);
  try {
    side.stream().wait_idle(std::chrono::seconds(60));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

/// A test that is skipped where there is no GPU.
class CudaOpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!device::cuda_unavailable_reason().empty()) GTEST_SKIP() << device::cuda_unavailable_reason();
  }
};
#endif

/// Elements as `near` wants them.
inline std::vector<double> values_of(const HostTensor& tensor) {
  std::vector<double> values;
  for (int64_t i = 0; i < tensor.numel(); ++i) values.push_back(tensor.get(i));
  return values;
}

#if WEFT_CUDA
/// The op's outputs on the GPU are those on the CPU: within the bounds, and bytes that are no element are
/// left alone. An element that the CPU leaves as it was must be left so.
inline void expect_twins(const Enqueue& enqueue, double relative, double absolute) {
  const std::vector<HostTensor> expected = on_cpu(enqueue);
  const std::vector<HostTensor> actual = on_cuda(enqueue);
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(near(actual[i], values_of(expected[i]), relative, absolute)) << "output " << i;
  }
}
inline void expect_same_bits(const Enqueue& enqueue) {
  const std::vector<HostTensor> expected = on_cpu(enqueue);
  const std::vector<HostTensor> actual = on_cuda(enqueue);
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(bit_equal(actual[i], expected[i])) << "output " << i;
}
#endif

}  // namespace weft::test
