#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"

namespace weft::device {

using std::chrono::milliseconds;
constexpr milliseconds kLong{20000};  // for what must happen
constexpr milliseconds kShort{30};    // for what must not

/// What the conformance suite needs of a backend: a device, and ops whose order shows in their results. A new
/// backend writes one of these and instantiates the suite (see conformance_cpu.cpp).
class TestBackend {
 public:
  virtual ~TestBackend() = default;
  /// Why tests of this backend must be skipped on this machine; empty if they can run.
  [[nodiscard]] virtual std::string unavailable() const { return {}; }
  [[nodiscard]] virtual std::unique_ptr<Device> make_device(const std::string& name) const = 0;
  /// Ops of different streams run at the same time.
  [[nodiscard]] virtual bool concurrent() const = 0;
  /// Ops that were queued behind a failed one do not run.
  [[nodiscard]] virtual bool drops_queued_ops() const { return true; }
  /// data[i] = data[i] * factor + addend, i32 (wrapping), as op "affine".
  virtual void affine(Stream& stream, const TensorView& data, int32_t factor, int32_t addend) const = 0;
  /// out[i] = out[i] * 3 + in[i], i32 (wrapping), as op "mix".
  virtual void mix(Stream& stream, const TensorView& out, const TensorView& in) const = 0;
  /// An op "hold" that ends when the host sets *gate (i32, host buffer) to something but 0.
  virtual void hold(Stream& stream, const TensorView& gate) const = 0;
  /// An op "signal" that sets *flag (i32, host buffer) to 1 while the host looks.
  virtual void signal(Stream& stream, const TensorView& flag) const = 0;
  /// An op `name` (static storage) that fails with "boom".
  virtual void fail(Stream& stream, const char* name) const = 0;
};

/// An i32 in a host buffer, 0 at first, for hold and signal. The destructor opens it at the latest.
class Gate {
 public:
  explicit Gate(Device& device) : buffer_(device.allocate_host(sizeof(int32_t), "gate")) { set(0); }
  ~Gate() { open(); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void open() { set(1); }
  [[nodiscard]] bool is_open() const { return std::atomic_ref(*view().as<int32_t>()).load() != 0; }
  [[nodiscard]] TensorView view() const { return buffer_.view(DType::kI32, {1}); }

 private:
  void set(int32_t value) { std::atomic_ref(*view().as<int32_t>()).store(value); }
  Buffer buffer_;
};

/// A test over one backend, with one device.
class ConformanceTest : public ::testing::TestWithParam<const TestBackend*> {
 protected:
  ConformanceTest() : backend(*GetParam()) {}
  void SetUp() override {
    if (!backend.unavailable().empty()) GTEST_SKIP() << backend.unavailable();
    device = backend.make_device("dev:0");
  }

  /// An i32 buffer of n zeros.
  [[nodiscard]] Buffer zeros(int64_t n, const std::string& name);
  /// The first i32 of a buffer, read through the device once `stream` is idle.
  [[nodiscard]] int32_t first(Stream& stream, const Buffer& buffer);
  [[nodiscard]] static TensorView ints(const Buffer& buffer) {
    return buffer.view(DType::kI32, {static_cast<int64_t>(buffer.num_bytes() / sizeof(int32_t))});
  }

  const TestBackend& backend;
  std::unique_ptr<Device> device;
};

/// Runs `statement` and expects a weft::Error whose message holds each of the given texts.
template <class Statement>
void expect_error(Statement statement, const std::vector<std::string>& texts) {
  try {
    statement();
    ADD_FAILURE() << "no error";
  } catch (const std::exception& error) {
    for (const std::string& text : texts) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
          << "'" << text << "' is missing in: " << error.what();
    }
  }
}

}  // namespace weft::device
