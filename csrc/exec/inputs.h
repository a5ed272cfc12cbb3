#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/device.h"
#include "exec/forward.h"
#include "exec/input_image.h"
#include "exec/rank_worker.h"
#include "model/scratch.h"
#include "ops/common.h"
#include "plan/layout.h"

namespace weft::exec {

/// Capacities of the fixed input buffers, per DP rank.
struct InputSizes {
  int64_t max_tokens = 0;
  int64_t max_seqs = 0;
  int64_t max_pages = 0;  // of one sequence
  int64_t max_logit_rows = 0;
  int64_t max_logit_passes = 1;
  int64_t attn_dp_size = 1;
};

/// The rows that `rank` has of a micro-batch where it is SCATTERED. None if the attention-TP group does not
/// divide its rows: then no layout of the step scatters them.
plan::RowSlice own_rows(const plan::MicroBatchPlan& batch, const plan::ParallelConfig& parallel, int rank);

/// Input arrays of one step, in one block of memory, which ops and graphs read. Offsets are fixed, so a graph
/// captured once serves every step.
class InputLayout {
 public:
  struct MicroBatch {
    int64_t header = 0;  // i32: num_seqs, rows, own scattered rows, 0, then starts and counts of the DP ranks
    int64_t ids = 0, positions = 0, slots = 0, cu_q = 0, kv_len = 0, page_table = 0;
    int64_t order = 0;
  };
  static constexpr int64_t kNumSeqs = 0, kRows = 1, kScatteredRows = 2, kZero = 3, kSegments = 4;

  explicit InputLayout(const InputSizes& sizes);

  std::array<MicroBatch, 2> micro_batches;
  int64_t logit_index =
      0;  // i32 [max_logit_rows]: row of the final hidden states; -1: none, or another rank's
  int64_t logit_slot = 0;    // i32: request slot
  int64_t logit_wanted = 0;  // i32: SampleArgs::wanted
  int64_t logit_top = 0;     // i32: how many top log-probabilities
  int64_t logit_params = 0;  // SamplingRow
  int64_t logit_counts = 0;  // i32 [max_logit_passes]: real rows of each pass
  int64_t num_bytes = 0;
  InputSizes sizes;  // max_pages rounded up to whole blocks of InputImage
};

/// The device block, its image on the host, and two staging blocks that steps take turns with.
class InputBuffers {
 public:
  InputBuffers(device::Device& device, const InputLayout& layout, void* device_block);

  /// Enqueues the zeros that the device block holds at first.
  void clear(device::Stream& stream);
  /// Enqueues one op that brings the device block to what this rank's step needs, from staging `turn`. Throws
  /// Error, and changes nothing, if the input is not the planned one.
  void upload(device::Stream& stream, int turn, const plan::StepPlan& plan, const ExecConfig& config,
              int rank, const ForwardInput& input);

  /// i32 view into the device block.
  [[nodiscard]] device::TensorView i32(int64_t offset, int64_t count) const;
  [[nodiscard]] const int32_t* device_i32(int64_t offset) const {
    return reinterpret_cast<const int32_t*>(static_cast<const char*>(device_) + offset);
  }
  [[nodiscard]] const ops::SamplingRow* sampling_rows() const {
    return reinterpret_cast<const ops::SamplingRow*>(static_cast<const char*>(device_) +
                                                     layout_.logit_params);
  }
  [[nodiscard]] ops::SequenceBatch sequences(int micro_batch, int64_t max_seqs, int64_t page_size) const;
  [[nodiscard]] const InputLayout& layout() const { return layout_; }

 private:
  void check(const plan::StepPlan& plan, const ExecConfig& config, int rank, const ForwardInput& input) const;
  void put_micro_batch(int index, const plan::MicroBatchPlan& planned, const ExecConfig& config, int rank,
                       const MicroBatchInput& in);
  void put_logit_rows(const plan::StepPlan& plan, const ExecConfig& config, int rank,
                      const ForwardInput& input);

  InputLayout layout_;
  void* device_;
  InputImage image_;
  std::vector<uint64_t> order_;            // workspace
  std::array<device::Buffer, 2> staging_;  // changed blocks, then their indices
};

}  // namespace weft::exec
