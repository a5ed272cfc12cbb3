#pragma once

#include <cstdint>

#include "device/device.h"

namespace weft::ops {

using device::Stream;
using device::TensorView;

/// Which rows of a padded tensor hold real tokens, read from device memory when the op runs.
///
/// Row r is valid iff start[i] <= r < start[i] + count[i] for some segment i. After a gather there is one
/// segment for each source rank. num_segments == 0 means that every row is valid.
struct ValidRows {
  const int32_t* start = nullptr;  // device, [num_segments], rows
  const int32_t* count = nullptr;  // device, [num_segments], rows
  int32_t num_segments = 0;
};

/// The sequences of a step, in device memory, filled before the step and fixed in place for graphs.
///
/// Sequence s owns the query rows [cu_q[s], cu_q[s + 1]); its keys are the kv_len[s] first tokens of the
/// pages page_table[s, :], query rows included: row j of s stands at position kv_len[s] - q_len + j.
struct SequenceBatch {
  const int32_t* cu_q = nullptr;        // [max_seqs + 1], rows
  const int32_t* kv_len = nullptr;      // [max_seqs], tokens
  const int32_t* page_table = nullptr;  // [max_seqs, page_table_stride], page ids
  const int32_t* num_seqs = nullptr;    // [1]
  /// [max_seqs], or null: from the first sequence behind the prompts to num_seqs, these in some order. A
  /// device that cannot have all under way at once begins with the first. Changes no result.
  const int32_t* order = nullptr;
  int32_t max_seqs = 0;
  int32_t page_table_stride = 0;
  int32_t page_size = 1;
};

}  // namespace weft::ops
