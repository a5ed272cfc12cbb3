#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "plan/layout.h"

namespace weft::comm {

/// Rows of one micro-batch on one rank, padding included.
struct BoundaryRows {
  int64_t rows = 0;         // of the attention-TP group; a multiple of its size where a layout scatters them
  int64_t slice_begin = 0;  // own rows when SCATTERED: [slice_begin, slice_begin + slice_rows)
  int64_t slice_rows = 0;
  int64_t gathered_rows = 0;       // rows of the gathered buffer; 0 if DP ranks gather nothing
  int64_t gathered_begin = 0;      // first row of this DP rank there
  std::vector<int64_t> rank_rows;  // slice_rows of every rank; empty if DP ranks gather nothing
};

/// Where a micro-batch's hidden states are. Scattered rows stand in the rank's own slice.
struct BoundaryBuffers {
  TensorView x;             // [rows, hidden]: what a part left
  TensorView residual;      // [rows, hidden]
  TensorView h;             // [rows, hidden]: normed, what a part needs
  TensorView gathered;      // [gathered_rows, hidden]: normed rows of all DP ranks
  TensorView gathered_out;  // [gathered_rows, hidden]: what an FFN left for them
};

/// Collectives run on `comm`; if it is not `compute`, events join the two.
struct BoundaryStreams {
  Stream* compute = nullptr;
  Stream* comm = nullptr;
  device::Event* fork = nullptr;
  device::Event* join = nullptr;
};

/// Layout changes between parts, fused with the residual add and RMSNorm where they meet (semantics 5.3).
///
/// One micro-batch on one rank. Calls come in layer order; start and finish may have other micro-batches'
/// work between them. What moves whole layers' rows (gathers, and sums over all ranks) runs on the
/// communication stream with `attn_tp` and `tp`. Changes between SCATTERED and TP_ATTN_FULL stay on the
/// compute stream with `attn_tp_inner`: there they never queue behind the other micro-batch's dispatch. Under
/// sequence-parallel layernorm the sum, add, norm and gather into a FULL FFN are one chain of the
/// communication stream.
class Boundary {
 public:
  Boundary(BoundaryRows rows, BoundaryBuffers buffers, BoundaryStreams streams, Communicator& attn_tp_inner,
           Communicator& attn_tp, Communicator& tp, int attn_dp_size, float eps);

  /// x -> h: the rows of the layer's input.
  void norm_attn_input(const plan::LayerLayout& layer, const TensorView& norm);
  /// rows [rows, columns], h or what was made of it: the input's rows -> all, on every rank of the
  /// attention-TP group.
  void gather_attn_input(const plan::LayerLayout& layer, const TensorView& rows);
  /// x, a partial sum over attention TP -> ffn_input().
  void start_prepare_mlp(const plan::LayerLayout& layer, const TensorView& norm);
  void finish_prepare_mlp(const plan::LayerLayout& layer, const TensorView& norm);
  /// ffn_output() -> x in the layer's output layout.
  void start_postprocess(const plan::LayerLayout& layer);
  void finish_postprocess(const plan::LayerLayout& layer);
  /// out = norm(x + residual), after the last layer: of own rows alone where its output is SCATTERED.
  void final_norm(const plan::LayerLayout& last_layer, const TensorView& norm, const TensorView& out);

  /// The rows of view [rows, ...] that this rank has in the layer's input.
  [[nodiscard]] TensorView attn_input_rows(const plan::LayerLayout& layer, const TensorView& view) const;
  [[nodiscard]] TensorView ffn_input(const plan::LayerLayout& layer) const;
  [[nodiscard]] TensorView ffn_output(const plan::LayerLayout& layer) const;
  [[nodiscard]] const BoundaryRows& rows() const { return rows_; }

  /// Orders `comm` after what `compute` holds now, and back. Nothing happens when they are one stream.
  void fork() const;
  void join_record() const;
  void join_wait() const;
  [[nodiscard]] Stream& comm_stream() const { return *streams_.comm; }

 private:
  [[nodiscard]] TensorView slice(const TensorView& view) const {
    return view.rows(rows_.slice_begin, rows_.slice_rows);
  }
  void add_norm(Stream& stream, const TensorView& h, const TensorView& residual, const TensorView& x,
                const TensorView& norm);

  BoundaryRows rows_;
  BoundaryBuffers buffers_;
  BoundaryStreams streams_;
  Communicator &attn_tp_inner_, &attn_tp_, &tp_;
  int attn_dp_size_;
  float eps_;
  bool has_residual_ = false;
};

}  // namespace weft::comm
