#pragma once

#include <memory>
#include <string>

#include "device/backend.h"

namespace weft::device {

/// The first GPU. Made on machines without one too, where nothing of it may be used.
class CudaBackend final : public TestBackend {
 public:
  [[nodiscard]] std::string unavailable() const override { return cuda_unavailable_reason(); }
  [[nodiscard]] std::unique_ptr<Device> make_device(const std::string& name) const override;
  [[nodiscard]] bool concurrent() const override { return true; }
  [[nodiscard]] bool drops_queued_ops() const override { return false; }
  void affine(Stream& stream, const TensorView& data, int32_t factor, int32_t addend) const override;
  void mix(Stream& stream, const TensorView& out, const TensorView& in) const override;
  void hold(Stream& stream, const TensorView& gate) const override;
  void signal(Stream& stream, const TensorView& flag) const override;
  void fail(Stream& stream, const char* name) const override;
};

}  // namespace weft::device
