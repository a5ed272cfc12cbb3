#include "model/rope_table.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace weft::model {

namespace {

constexpr double kPi = 3.14159265358979323846;

/// theta^(2i / dim) in f32, from a correctly rounded power.
std::vector<float> pair_periods(const RopeConfig& rope) {
  std::vector<float> periods(static_cast<size_t>(rope.rope_dim / 2));
  for (size_t i = 0; i < periods.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rope_dim);
    periods[i] =
        static_cast<float>(std::pow(static_cast<float>(rope.rope_theta), static_cast<double>(exponent)));
  }
  return periods;
}

/// Yarn: low pairs keep their frequency, high ones are slowed by `factor`, with a ramp between.
std::vector<float> yarn_inv_freq(const RopeConfig& rope) {
  const auto dim = static_cast<double>(rope.rope_dim);
  const auto correction_dim = [&](double rotations) {
    const double positions = static_cast<double>(rope.original_max_position_embeddings);
    return dim * std::log(positions / (rotations * 2.0 * kPi)) / (2.0 * std::log(rope.rope_theta));
  };
  double low = correction_dim(rope.beta_fast);
  double high = correction_dim(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;  // as transformers does, against a division by zero

  std::vector<float> inv_freq = pair_periods(rope);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F, 1.0F);
    const float keep = 1.0F - ramp;
    const float extrapolated = 1.0F / inv_freq[i];
    const float interpolated = 1.0F / (static_cast<float>(rope.factor) * inv_freq[i]);
    inv_freq[i] = interpolated * (1.0F - keep) + extrapolated * keep;
  }
  return inv_freq;
}

/// Llama 3: long wavelengths are slowed by `factor`, short ones kept, those between mixed.
float llama3_inv_freq(const RopeConfig& rope, float inv_freq) {
  const auto positions = static_cast<float>(rope.original_max_position_embeddings);
  const auto factor = static_cast<float>(rope.factor);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const float wavelength = static_cast<float>(2.0 * kPi) / inv_freq;
  if (wavelength > static_cast<float>(context / rope.low_freq_factor)) return inv_freq / factor;
  if (wavelength < static_cast<float>(context / rope.high_freq_factor)) return inv_freq;
  const float smooth =
      (positions / wavelength - low) / static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0F - smooth) * inv_freq / factor + smooth * inv_freq;
}

}  // namespace

std::vector<float> rope_inv_freq(const RopeConfig& rope) {
  if (rope.type == RopeType::kYarn) return yarn_inv_freq(rope);
  std::vector<float> inv_freq = pair_periods(rope);
  for (float& x : inv_freq) {
    x = 1.0F / x;
    if (rope.type == RopeType::kLinear) x /= static_cast<float>(rope.factor);
    if (rope.type == RopeType::kLlama3) x = llama3_inv_freq(rope, x);
  }
  return inv_freq;
}

void fill_rope_table(const RopeConfig& rope, const device::TensorView& cos_sin) {
  WEFT_CHECK(cos_sin.rank == 2 && cos_sin.dtype == DType::kF32 && cos_sin.shape[1] == rope.rope_dim &&
                 cos_sin.stride[1] == 1,
             "rope table: expected f32[positions, {}], found {} with {} dimensions and {} columns",
             rope.rope_dim, dtype_name(cos_sin.dtype), cos_sin.rank, cos_sin.shape[1]);
  const std::vector<float> inv_freq = rope_inv_freq(rope);
  const auto scale = static_cast<float>(rope.attention_factor);
  for (int64_t p = 0; p < cos_sin.shape[0]; ++p) {
    float* row = cos_sin.as<float>() + p * cos_sin.stride[0];
    for (size_t i = 0; i < inv_freq.size(); ++i) {
      const double angle = static_cast<float>(p) * inv_freq[i];
      row[i] = static_cast<float>(std::cos(angle)) * scale;
      row[inv_freq.size() + i] = static_cast<float>(std::sin(angle)) * scale;
    }
  }
}

}  // namespace weft::model
