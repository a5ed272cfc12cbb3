#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/device.h"
#include "model/checkpoint.h"
#include "model/weight_coverage.h"
#include "model/weight_staging.h"

namespace weft::model {

/// A tensor of a rank's weights: an index into its WeightMap.
struct WeightId {
  int index = -1;
  [[nodiscard]] bool defined() const { return index >= 0; }
};

/// A checkpoint tensor, or a slice of one, that fills a block of rows of a rank's tensor.
struct WeightSourceSlice {
  std::string name = {};                 // in the checkpoint
  std::vector<int64_t> full_shape = {};  // there
  std::vector<Slice> slices = {};        // this rank's part, one a dimension; missing: whole
  int64_t group = -1;                    // of a tensor [groups, rows, columns]; -1: the tensor has no groups
  int64_t row_begin = 0;                 // first row that is filled
};

/// Where a rank's weights stand in one device buffer, and what of the checkpoint fills them. Built from the
/// configuration alone, before a weight is read.
class WeightMap {
 public:
  /// Reserves a tensor of 1 to 3 dimensions. Every element must be filled by a source or padded, once.
  WeightId reserve(std::string name, DType dtype, std::vector<int64_t> shape);
  /// Rows [row_begin, row_begin + rows of the slice) of `target` come from `source`.
  void fill(WeightId target, WeightSourceSlice source);
  /// Rows [row_begin, end) of `target`, a tensor without groups, are zeros.
  void pad(WeightId target, int64_t row_begin);

  [[nodiscard]] int64_t num_bytes() const { return num_bytes_; }
  /// Sets the memory, at least num_bytes(), aligned to 64; it must outlive the views.
  void bind(void* memory) { memory_ = memory; }
  [[nodiscard]] device::TensorView view(WeightId id) const;
  /// Reads every source slice into its place: through `staging`, or at once if that is null and the host can
  /// write the memory. Throws Error if a source lacks a tensor or has it in another shape, or if an element
  /// is filled twice or not at all.
  void load(WeightSource& source, WeightCoverage& coverage, const WeightStaging* staging = nullptr) const;

 private:
  struct Tensor {
    std::string name;
    DType dtype{};
    std::vector<int64_t> shape;
    int64_t offset = 0;
    std::vector<WeightSourceSlice> sources;
    int64_t pad_begin = -1;  // first row of zeros; -1: none
  };
  std::vector<Tensor> tensors_;
  int64_t num_bytes_ = 0;
  void* memory_ = nullptr;
};

}  // namespace weft::model
