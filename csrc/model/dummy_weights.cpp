#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

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

/// Numbers that rows are cut from. Large enough for rows of one tensor to start at places of their own, small
/// enough for a core's cache.
constexpr int64_t kPoolSize = int64_t{1} << 18;

class DummyWeights final : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {
    std::vector<float> values(kPoolSize);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint64_t bits = mix(seed + i * 0x9e3779b97f4a7c15ULL);
      // The upper 24 bits as a number in [-1, 1); a uniform of that width has deviation 1 / sqrt(3).
      const float uniform = static_cast<float>(static_cast<int32_t>(bits >> 40) - (1 << 23)) / (1 << 23);
      values[i] = uniform * 0.034641016F;
    }
    for (const float center : {0.0F, 1.0F}) {
      for (auto& value : values) value += center;
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        auto& pool = pools_[center != 0][dtype];
        pool.resize(values.size() * dtype_size(dtype));
        convert_elements("dummy", DType::kF32, reinterpret_cast<const std::byte*>(values.data()), dtype,
                         pool.data(), kPoolSize);
      }
    }
  }

  bool contains(std::string_view /*name*/) const override { return true; }
  std::vector<std::string> names() const override { return {}; }

  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
            const device::TensorView& dst) override {
    const TensorBlock block = make_block(name, full_shape, slices, dst);
    uint64_t key = mix(seed_ + 0x9e3779b97f4a7c15ULL);
    for (const char c : name) key = mix(key ^ static_cast<unsigned char>(c)) + 0x9e3779b97f4a7c15ULL;
    const auto& pools = pools_[name.ends_with("norm.weight")];
    const auto pool = pools.find(dst.dtype);
    WEFT_CHECK(pool != pools.end(), "tensor {}: there are no dummy weights of type {}", name,
               dtype_name(dst.dtype));
    const auto element = static_cast<int64_t>(dtype_size(dst.dtype));
    const int64_t row_length = full_shape.empty() ? 1 : full_shape.back();
    const int64_t count = block.shape.empty() ? 1 : block.shape.back();
    // A row of the whole tensor is a run of the pool, around its end, that starts at a place of the row's
    // own.
    for_each_row(block, dst, [&](int64_t index, void* out) {
      const uint64_t start = mix(key + static_cast<uint64_t>(index / row_length) * 0x9e3779b97f4a7c15ULL);
      auto at = (static_cast<int64_t>(start % kPoolSize) + index % row_length) % kPoolSize;
      auto* to = static_cast<std::byte*>(out);
      for (int64_t left = count; left > 0; at = 0) {
        const int64_t run = std::min(left, kPoolSize - at);
        std::memcpy(to, pool->second.data() + at * element, static_cast<size_t>(run * element));
        to += run * element;
        left -= run;
      }
    });
  }

 private:
  uint64_t seed_;
  std::array<std::map<DType, std::vector<std::byte>>, 2> pools_;  // around 0, and around 1
};

}  // namespace

std::unique_ptr<WeightSource> open_dummy(uint64_t seed) { return std::make_unique<DummyWeights>(seed); }

}  // namespace weft::model
