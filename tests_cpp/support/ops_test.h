#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"
#include "ops/cpu/isa.h"

/// What the tests of CPU ops share: a context, tensors with poisoned gaps, and comparisons that name an
/// index.
namespace weft::test {

using device::TensorView;

/// Runs an op at once, on `num_threads` real threads (so that thread checkers see them).
class InlineContext : public device::ExecContext {
 public:
  explicit InlineContext(int num_threads = 1) : num_threads_(num_threads) {}

  [[nodiscard]] int num_threads() const override { return num_threads_; }

  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) override {
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
    const auto work = [&] {
      try {
        for (int64_t begin = next.fetch_add(grain); begin < n; begin = next.fetch_add(grain)) {
          body(begin, std::min(n, begin + grain));
        }
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < num_threads_; ++i) others.emplace_back(work);
    work();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  int num_threads_;
};

/// The instruction sets that this machine can run.
inline std::vector<ops::cpu::Isa> available_isas() {
  using ops::cpu::Isa;
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa <= ops::cpu::best_isa()) isas.push_back(isa);
  }
  return isas;
}

/// A tensor in host memory of exactly its span, so that an address checker sees one byte too far. All bytes
/// start as 0xff (NaN in every float type, -1 in every integer), gaps of strided tensors included.
class HostTensor {
 public:
  using Index = std::vector<int64_t>;

  /// Contiguous if `stride` is empty; both outermost first, in elements.
  HostTensor(DType dtype, const Index& shape, const Index& stride = {}) {
    view_.dtype = dtype;
    view_.rank = static_cast<int>(shape.size());
    int64_t dense = 1;
    for (int d = view_.rank - 1; d >= 0; --d) {
      view_.shape[d] = shape[d];
      view_.stride[d] = stride.empty() ? dense : stride[d];
      dense *= shape[d];
    }
    bytes_.assign(view_.span_bytes(), std::byte{0xff});
    view_.data = bytes_.data();
  }
  HostTensor(const HostTensor& other) : view_(other.view_), bytes_(other.bytes_) {
    view_.data = bytes_.data();
  }
  HostTensor& operator=(const HostTensor&) = delete;

  [[nodiscard]] const TensorView& view() const { return view_; }
  [[nodiscard]] void* data() { return bytes_.data(); }
  [[nodiscard]] int64_t numel() const { return view_.numel(); }
  [[nodiscard]] int64_t shape(int d) const { return view_.shape[d]; }

  /// Element `flat` in row-major order of the shape, whatever the strides.
  [[nodiscard]] double get(int64_t flat) const {
    const std::byte* p = bytes_.data() + offset(flat);
    switch (view_.dtype) {
      case DType::kF32:
        return static_cast<double>(load<float>(p));
      case DType::kBF16:
        return static_cast<double>(to_f32(load<bf16>(p)));
      case DType::kF16:
        return static_cast<double>(to_f32(load<f16>(p)));
      case DType::kI32:
        return load<int32_t>(p);
      case DType::kI64:
        return static_cast<double>(load<int64_t>(p));
      default:
        return static_cast<double>(load<uint8_t>(p));
    }
  }
  [[nodiscard]] double at(const Index& index) const { return get(flat_index(index)); }

  void set(int64_t flat, double value) {
    std::byte* p = bytes_.data() + offset(flat);
    switch (view_.dtype) {
      case DType::kF32:
        return store(p, static_cast<float>(value));
      case DType::kBF16:
        return store(p, to_bf16(static_cast<float>(value)));
      case DType::kF16:
        return store(p, to_f16(static_cast<float>(value)));
      case DType::kI32:
        return store(p, static_cast<int32_t>(value));
      case DType::kI64:
        return store(p, static_cast<int64_t>(value));
      default:
        return store(p, static_cast<uint8_t>(value));
    }
  }
  void set(const Index& index, double value) { set(flat_index(index), value); }

  /// Normal numbers of mean 0, rounded to the dtype.
  HostTensor& fill_normal(uint64_t seed, double deviation = 1.0) {
    std::mt19937_64 generator(seed);
    std::normal_distribution<double> normal(0.0, deviation);
    for (int64_t i = 0; i < numel(); ++i) set(i, normal(generator));
    return *this;
  }
  /// Whole numbers in [low, high].
  HostTensor& fill_integers(uint64_t seed, int64_t low, int64_t high) {
    std::mt19937_64 generator(seed);
    std::uniform_int_distribution<int64_t> uniform(low, high);
    for (int64_t i = 0; i < numel(); ++i) set(i, static_cast<double>(uniform(generator)));
    return *this;
  }
  HostTensor& fill(double value) {
    for (int64_t i = 0; i < numel(); ++i) set(i, value);
    return *this;
  }
  HostTensor& fill_from(const std::vector<double>& values) {
    for (int64_t i = 0; i < numel(); ++i) set(i, values.at(i));
    return *this;
  }
  /// Every byte 0xff again.
  void poison() { std::fill(bytes_.begin(), bytes_.end(), std::byte{0xff}); }

  /// Raw storage, gaps included: what must not change bit for bit.
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

  /// Bits of element `flat`.
  [[nodiscard]] uint64_t bits(int64_t flat) const {
    uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + offset(flat), dtype_size(view_.dtype));
    return value;
  }

  /// "[3, 64]" of a row-major position.
  [[nodiscard]] std::string describe_index(int64_t flat) const {
    std::string text;
    for (int d = view_.rank - 1; d >= 0; --d) {
      text = std::to_string(flat % view_.shape[d]) + (text.empty() ? "" : ", ") + text;
      flat /= view_.shape[d];
    }
    return "[" + text + "]";
  }

  /// True for a byte that belongs to no element.
  [[nodiscard]] std::vector<bool> gap_bytes() const {
    std::vector<bool> gap(bytes_.size(), true);
    for (int64_t i = 0; i < numel(); ++i) {
      for (size_t b = 0; b < dtype_size(view_.dtype); ++b) gap[offset(i) + b] = false;
    }
    return gap;
  }

 private:
  template <class T>
  static T load(const std::byte* p) {
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
  }
  template <class T>
  static void store(std::byte* p, T value) {
    std::memcpy(p, &value, sizeof(T));
  }
  [[nodiscard]] int64_t flat_index(const Index& index) const {
    int64_t flat = 0;
    for (int d = 0; d < view_.rank; ++d) flat = flat * view_.shape[d] + index.at(d);
    return flat;
  }
  [[nodiscard]] size_t offset(int64_t flat) const {
    int64_t element = 0;
    for (int d = view_.rank - 1; d >= 0; --d) {
      element += flat % view_.shape[d] * view_.stride[d];
      flat /= view_.shape[d];
    }
    return static_cast<size_t>(element) * dtype_size(view_.dtype);
  }

  TensorView view_;
  std::vector<std::byte> bytes_;
};

/// Its elements in order, which are whole numbers.
inline std::vector<int64_t> integers(const HostTensor& tensor) {
  std::vector<int64_t> result;
  for (int64_t i = 0; i < tensor.numel(); ++i) result.push_back(static_cast<int64_t>(tensor.get(i)));
  return result;
}

/// Relative rounding error of one conversion to `dtype`.
inline double unit_roundoff(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
}

/// |actual - expected| <= absolute + relative * |expected| for every element (row-major order), and no gap of
/// `actual` written. NaN equals NaN. Prints the first wrong index and both values.
inline ::testing::AssertionResult near(const HostTensor& actual, const std::vector<double>& expected,
                                       double relative, double absolute) {
  if (expected.size() != static_cast<size_t>(actual.numel())) {
    return ::testing::AssertionFailure() << actual.numel() << " values, expected " << expected.size();
  }
  int64_t wrong = 0;
  int64_t first = -1;
  for (int64_t i = 0; i < actual.numel(); ++i) {
    const double a = actual.get(i);
    const double e = expected[i];
    const bool same = a == e || (std::isnan(a) && std::isnan(e));
    if (same || std::abs(a - e) <= absolute + relative * std::abs(e)) continue;
    if (wrong++ == 0) first = i;
  }
  if (wrong > 0) {
    return ::testing::AssertionFailure()
           << wrong << " of " << actual.numel() << " values of " << actual.view().describe()
           << " differ, first at " << actual.describe_index(first) << ": " << actual.get(first)
           << ", expected " << expected[first];
  }
  const std::vector<bool> gap = actual.gap_bytes();
  for (size_t b = 0; b < gap.size(); ++b) {
    if (gap[b] && actual.bytes()[b] != std::byte{0xff}) {
      return ::testing::AssertionFailure() << "byte " << b << " between the rows was written";
    }
  }
  return ::testing::AssertionSuccess();
}

/// The same bits, gaps included.
inline ::testing::AssertionResult bit_equal(const HostTensor& a, const HostTensor& b) {
  if (a.bytes() == b.bytes()) return ::testing::AssertionSuccess();
  for (int64_t i = 0; i < std::min(a.numel(), b.numel()); ++i) {
    if (a.bits(i) != b.bits(i)) {
      return ::testing::AssertionFailure() << a.view().describe() << " differs first at "
                                           << a.describe_index(i) << ": " << a.get(i) << " and " << b.get(i);
    }
  }
  return ::testing::AssertionFailure() << "shapes or gaps differ";
}

}  // namespace weft::test
