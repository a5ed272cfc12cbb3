#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string_view>

#include "base/error.h"
#include "device/tensor.h"

namespace weft::model {

/// Intermediate values that parts keep between two of their ops. One set a micro-batch; layers share it.
enum class ScratchId : uint8_t {
  kQkv,
  kQuery,
  kLatents,
  kQueryAbsorbed,
  kAttnLatent,
  kAttnOut,
  kGateUp,
  kAct,
  kRouterLogits,
  kTopkIds,
  kTopkWeights,
  kCopies,
  kExpertGateUp,
  kExpertAct,
  kExpertOut,
  kExpertOffsets,
  kExpertCounts,
  kCopySource,
  kCopyPosition,
  kSharedOut,
  kCount,
};
std::string_view scratch_name(ScratchId id);

/// Allocates `num_bytes` under a name; a ledger passes one that only counts and returns null.
using Allocate = std::function<void*(std::string_view name, int64_t num_bytes)>;

/// First parts state the largest size they need of each id, then memory is allocated once, then views are
/// cut.
class Scratch {
 public:
  void need(ScratchId id, int64_t num_bytes) {
    auto& size = bytes_[static_cast<size_t>(id)];
    size = std::max(size, num_bytes);
  }
  void allocate(const Allocate& allocate);
  [[nodiscard]] device::TensorView view(ScratchId id, DType dtype,
                                        std::initializer_list<int64_t> shape) const;

 private:
  static constexpr auto kNumIds = static_cast<size_t>(ScratchId::kCount);
  std::array<int64_t, kNumIds> bytes_{};
  std::array<void*, kNumIds> memory_{};
};

}  // namespace weft::model
