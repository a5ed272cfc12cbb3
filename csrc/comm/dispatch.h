#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "plan/parallel.h"

namespace weft::comm {

/// Sizes of a rank's dispatch buffers. Rows are one source rank's, in one expert chunk.
struct DispatchConfig {
  int64_t hidden = 0;
  int64_t top_k = 0;
  int64_t num_local_experts = 0;  // experts e * num_local_experts ... of rank e
  int64_t normal_rows = 0;        // C of normal dispatch
  int64_t low_latency_rows = 0;   // C of low-latency dispatch
  DType dtype{};
};

/// A rank's own rows, each once on this rank. Rows without experts (padding) have ids -1.
struct SendRows {
  TensorView x;        // [rows, hidden]
  TensorView ids;      // i32 [rows, top_k], global expert ids
  TensorView weights;  // f32 [rows, top_k]
};

/// Rows that this rank's experts work on in one chunk.
struct ReceivedRows {
  TensorView x;        // [capacity, hidden]
  TensorView ids;      // i32 [capacity, top_k], local expert ids; -1: an expert of another rank, or no row
  TensorView weights;  // f32 [capacity, top_k]
  TensorView out;      // [capacity, hidden]: where the experts' weighted sums go, for combine
  const int32_t* num_rows = nullptr;  // device [1]: rows that are there (normal); null: ids say (low latency)
  bool masked = false;                // low latency: experts run on a fixed shape
};

/// One rank's end of expert dispatch for one micro-batch: sends a row once to each rank that has one of its
/// experts, and brings back one sum of each.
///
/// Chunk c covers the own rows [c * C, (c + 1) * C). normal packs what arrives in order of (source rank,
/// row); low_latency gives source s the rows [s * C, (s + 1) * C). Counts stay in device memory. Every rank
/// calls dispatch(c), then combine(c), on one stream and in the same order; buffers hold one chunk.
class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  virtual ReceivedRows dispatch(Stream& stream, plan::DispatchMode mode, int64_t chunk,
                                const SendRows& rows) = 0;
  /// out[row] = sum over ranks, in rank order and f32, of what their experts left for it; rows of the chunk
  /// with no expert become zeros.
  virtual void combine(Stream& stream, plan::DispatchMode mode, int64_t chunk, const SendRows& rows,
                       const TensorView& out) = 0;
  /// Rows that arrived since the start. Any thread.
  [[nodiscard]] virtual int64_t received_rows() const = 0;
};

/// Bytes of one rank's buffers: what must keep its contents between calls, and rows that need not.
struct DispatchBytes {
  int64_t control = 0;
  int64_t rows = 0;
};
DispatchBytes dispatch_bytes(const DispatchConfig& config, int world_size);

/// A dispatcher over memory that peers can address, synchronised by `communicator`'s PeerBarrier. Collective:
/// every rank of the group makes its own, in the same order. `control`, `rows`: dispatch_bytes() of device
/// memory, aligned to 64.
std::unique_ptr<Dispatcher> make_dispatcher(const DispatchConfig& config, Communicator& communicator,
                                            void* control, void* rows);

}  // namespace weft::comm
