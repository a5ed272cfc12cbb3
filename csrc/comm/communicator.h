#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/collective.h"
#include "device/device.h"

namespace weft::comm {

using device::Stream;
using device::TensorView;

/// A barrier that a running op enters with its peers: what dispatch and combine kernels synchronise with.
/// Trivially copyable, so it may stand in an op's Args; valid as long as its Communicator lives.
struct PeerBarrier {
  void* state = nullptr;
  int32_t rank = 0;
  /// Blocks the op until every rank of the group has entered, at most the group's deadline. All writes of the
  /// ranks before are then visible. Throws Error naming the missing rank and `op`; throws at once after
  /// abort.
  void (*wait)(void* state, int32_t rank, std::string_view op, int64_t num_bytes) = nullptr;
};

/// One rank's end of a group of ranks. Every rank of the group enqueues the same calls in the same order;
/// each call is one op on the given stream, asynchronous and capturable. Sums are taken in f32, in rank
/// order, and rounded once, so every rank gets the same bits.
///
/// Tensors are contiguous and lie in buffers of the stream's device; `in` and `out` are apart where nothing
/// else is said. What does not fit throws before anything is enqueued.
///
/// A group has one Communicator for each stream that it is used on (channel), since calls of one Communicator
/// are matched in order. Ranks that disagree on op, dtype or count get an Error naming both calls. A rank
/// that does not come within the deadline, or an abort, ends the wait of all others with an Error naming the
/// rank and the op.
class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// "tp", "attn_tp", ...: the name in errors, the ledger and traces.
  [[nodiscard]] virtual const std::string& group() const = 0;

  /// out = sum over ranks of in. Same shape; out may be in. f32, bf16, f16, i32, i64.
  virtual void all_reduce(Stream& stream, const TensorView& out, const TensorView& in) = 0;
  /// out [rows / size, ...] = rank's slice of the sum of in [rows, ...]. rows % size == 0. out may be the
  /// rank's own slice of in.
  virtual void reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) = 0;
  /// The same with rows[r] rows for rank r; the rows sum to in's.
  virtual void reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                                std::span<const int64_t> rows) = 0;
  /// out [rows * size, ...] = the ranks' in [rows, ...], in rank order. in may be the rank's own slice of
  /// out.
  virtual void all_gather(Stream& stream, const TensorView& out, const TensorView& in) = 0;
  virtual void all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                            std::span<const int64_t> rows) = 0;
  /// Slice r of in goes to rank r, slice s of out comes from rank s; rows % size == 0. out must not be in.
  virtual void all_to_all(Stream& stream, const TensorView& out, const TensorView& in) = 0;
  virtual void broadcast(Stream& stream, const TensorView& data, int root) = 0;
  virtual void barrier(Stream& stream) = 0;

  /// Host call of all ranks, in the same order: the pointers that the ranks passed, by rank. On this backend
  /// a peer's pointer may be read and written by ops between two PeerBarrier waits.
  [[nodiscard]] virtual std::vector<void*> exchange_pointers(void* mine) = 0;
  [[nodiscard]] virtual PeerBarrier peer_barrier() = 0;
};

}  // namespace weft::comm
