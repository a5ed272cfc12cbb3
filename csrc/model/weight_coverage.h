#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"
#include "model/checkpoint.h"

namespace weft::model {

/// What all ranks together read of a source, to prove at the end that no weight was left out. Thread-safe.
class WeightCoverage {
 public:
  /// Notes that a rank reads `slices` of tensor `name`.
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices);

  /// Throws Error unless every element of every tensor of `source` was read by some rank. Names that match
  /// one of `ignore` ('*' stands for any characters, as in "model.layers.61.*") may be left out, wholly or in
  /// part. The message lists the extra tensors, or the first element that nobody read.
  void finish(const WeightSource& source, std::span<const std::string> ignore) const;

 private:
  struct Reads {
    std::vector<int64_t> full_shape;
    std::vector<std::vector<Slice>> blocks;  // distinct, ends resolved; one slice a dimension
  };
  mutable std::mutex mutex_;
  std::map<std::string, Reads, std::less<>> reads_;
};

/// True if `name` matches `pattern`, where '*' stands for any characters.
[[nodiscard]] bool matches_pattern(std::string_view name, std::string_view pattern);

/// One tensor of a rank while it is filled: proves that each of its elements is written exactly once.
class WeightDestination {
 public:
  /// `name` stands in messages; `whole` is contiguous, and host memory for read() and zero().
  WeightDestination(WeightSource& source, WeightCoverage& coverage, std::string name,
                    const device::TensorView& whole);

  /// source.read() into `part`, a view inside `whole`.
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
            const device::TensorView& part);
  /// Sets a part that no checkpoint tensor fills (padding) to zeros.
  void zero(const device::TensorView& part);
  /// The same two for parts that somebody else fills.
  void expect(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
              const device::TensorView& part);
  void expect_zeros(const device::TensorView& part) { note("zeros", part); }
  /// Throws Error if an element was written twice or not at all, with its index and the tensors' names.
  void finish();

 private:
  struct Range {
    int64_t begin = 0;  // elements of `whole`
    int64_t end = 0;
    size_t writer = 0;  // index in writers_
  };
  void note(std::string writer, const device::TensorView& part);
  [[nodiscard]] std::string describe_element(int64_t element) const;

  WeightSource& source_;
  WeightCoverage& coverage_;
  std::string name_;
  device::TensorView whole_;
  int64_t numel_ = 1;
  std::vector<std::string> writers_;
  std::vector<Range> ranges_;
};

}  // namespace weft::model
