#include <cmath>

#include "base/error.h"
#include "model/checkpoint.h"
#include "model/tensor_block.h"

namespace weft::model {

namespace {

/// A bijection of 64 bits with good avalanche (the finaliser of splitmix64).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class DummyWeights final : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {}

  bool contains(std::string_view /*name*/) const override { return true; }
  std::vector<std::string> names() const override { return {}; }

  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
            const device::TensorView& dst) override {
    const TensorBlock block = make_block(name, full_shape, slices, dst);
    uint64_t key = mix(seed_ + 0x9e3779b97f4a7c15ULL);
    for (const char c : name) key = mix(key ^ static_cast<unsigned char>(c)) + 0x9e3779b97f4a7c15ULL;
    const float center = name.ends_with("norm.weight") ? 1.0F : 0.0F;
    const int64_t count = block.shape.empty() ? 1 : block.shape.back();
    std::vector<float> values(static_cast<size_t>(count));
    for_each_row(block, dst, [&](int64_t index, void* out) {
      for (size_t i = 0; i < values.size(); ++i) {
        const uint64_t bits = mix(key + (static_cast<uint64_t>(index) + i) * 0x9e3779b97f4a7c15ULL);
        // The upper 24 bits as a number in [-1, 1); a uniform of that width has deviation 1 / sqrt(3).
        const float uniform = static_cast<float>(static_cast<int32_t>(bits >> 40) - (1 << 23)) / (1 << 23);
        values[i] = center + uniform * 0.034641016F;
      }
      convert_elements(name, DType::kF32, reinterpret_cast<const std::byte*>(values.data()), dst.dtype, out,
                       count);
    });
  }

 private:
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<WeightSource> open_dummy(uint64_t seed) { return std::make_unique<DummyWeights>(seed); }

}  // namespace weft::model
