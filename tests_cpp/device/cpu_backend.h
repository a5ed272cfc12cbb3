#pragma once

#include <memory>
#include <string>
#include <utility>

#include "device/backend.h"

namespace weft::device {

/// The CPU, with any options but the name.
class CpuBackend final : public TestBackend {
 public:
  explicit CpuBackend(CpuOptions options) : options_(std::move(options)) {}

  [[nodiscard]] std::unique_ptr<Device> make_device(const std::string& name) const override;
  [[nodiscard]] bool concurrent() const override { return options_.random_order == 0; }
  void affine(Stream& stream, const TensorView& data, int32_t factor, int32_t addend) const override;
  void mix(Stream& stream, const TensorView& out, const TensorView& in) const override;
  void hold(Stream& stream, const TensorView& gate) const override;
  void signal(Stream& stream, const TensorView& flag) const override;
  void fail(Stream& stream, const char* name) const override;

 private:
  CpuOptions options_;
};

}  // namespace weft::device
