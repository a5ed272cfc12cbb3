#include "comm/boundary.h"

#include <utility>

#include "ops/elementwise.h"
#include "ops/rms_norm.h"

namespace weft::comm {

using plan::LayerLayout;
using plan::Layout;
using plan::Postprocess;
using plan::PrepareAttn;
using plan::PrepareMlp;

Boundary::Boundary(BoundaryRows rows, BoundaryBuffers buffers, BoundaryStreams streams,
                   Communicator& attn_tp_inner, Communicator& attn_tp, Communicator& tp, int attn_dp_size,
                   float eps)
    : rows_(std::move(rows)),
      buffers_(buffers),
      streams_(streams),
      attn_tp_inner_(attn_tp_inner),
      attn_tp_(attn_tp),
      tp_(tp),
      attn_dp_size_(attn_dp_size),
      eps_(eps) {}

void Boundary::fork() const {
  if (streams_.comm == streams_.compute) return;
  streams_.compute->record(*streams_.fork);
  streams_.comm->wait(*streams_.fork);
}

void Boundary::join_record() const {
  if (streams_.comm != streams_.compute) streams_.comm->record(*streams_.join);
}

void Boundary::join_wait() const {
  if (streams_.comm != streams_.compute) streams_.compute->wait(*streams_.join);
}

void Boundary::add_norm(Stream& stream, const TensorView& h, const TensorView& residual, const TensorView& x,
                        const TensorView& norm) {
  if (has_residual_) {
    ops::add_rms_norm(stream, {.out = h, .residual = residual, .x = x, .weight = norm, .eps = eps_});
    return;
  }
  ops::rms_norm(stream, {.out = h, .x = x, .weight = norm, .residual = residual, .eps = eps_});
  has_residual_ = true;
}

TensorView Boundary::attn_input_rows(const LayerLayout& layer, const TensorView& view) const {
  return layer.prepare_attn == PrepareAttn::kTrivial ? view : slice(view);
}

void Boundary::norm_attn_input(const LayerLayout& layer, const TensorView& norm) {
  const auto own = [&](const TensorView& view) { return attn_input_rows(layer, view); };
  add_norm(*streams_.compute, own(buffers_.h), own(buffers_.residual), own(buffers_.x), norm);
}

void Boundary::gather_attn_input(const LayerLayout& layer, const TensorView& rows) {
  if (layer.prepare_attn == PrepareAttn::kTrivial) return;
  attn_tp_inner_.all_gather(*streams_.compute, rows, slice(rows));
}

void Boundary::start_prepare_mlp(const LayerLayout& layer, const TensorView& norm) {
  auto& b = buffers_;
  auto& comm = *streams_.comm;
  switch (layer.prepare_mlp) {
    case PrepareMlp::kSimple:
      break;
    case PrepareMlp::kScatterHiddenStatesAndResidual:
      attn_tp_inner_.reduce_scatter(*streams_.compute, slice(b.x), b.x);
      break;
    case PrepareMlp::kGatherHiddenStatesAndResidual: {
      const bool whole = attn_dp_size_ > 1 && attn_tp_.size() == 1;
      if (whole) add_norm(*streams_.compute, b.h, b.residual, b.x, norm);
      fork();
      if (attn_dp_size_ == 1) {
        if (layer.input == Layout::kScattered) attn_tp_.all_gather(comm, b.residual, slice(b.residual));
        attn_tp_.all_reduce(comm, b.x, b.x);
      } else if (whole) {
        tp_.all_gather_v(comm, b.gathered, b.h, rows_.rank_rows);
      } else {
        // The sum with the residual is gathered before the norm: each rank then has it for its own rows too.
        attn_tp_.reduce_scatter(comm, slice(b.x), b.x);
        ops::add(comm, {.out = slice(b.x), .a = slice(b.x), .b = slice(b.residual)});
        tp_.all_gather_v(comm, b.gathered, slice(b.x), rows_.rank_rows);
      }
      join_record();
      break;
    }
    case PrepareMlp::kGatherHiddenStates:
      fork();
      attn_tp_.reduce_scatter(comm, slice(b.x), b.x);
      add_norm(comm, slice(b.h), slice(b.residual), slice(b.x), norm);
      if (attn_dp_size_ == 1) {
        attn_tp_.all_gather(comm, b.h, slice(b.h));
      } else {
        tp_.all_gather_v(comm, b.gathered, slice(b.h), rows_.rank_rows);
      }
      join_record();
      break;
  }
}

void Boundary::finish_prepare_mlp(const LayerLayout& layer, const TensorView& norm) {
  auto& b = buffers_;
  auto& compute = *streams_.compute;
  switch (layer.prepare_mlp) {
    case PrepareMlp::kSimple:
      add_norm(compute, b.h, b.residual, b.x, norm);
      break;
    case PrepareMlp::kScatterHiddenStatesAndResidual:
      add_norm(compute, slice(b.h), slice(b.residual), slice(b.x), norm);
      break;
    case PrepareMlp::kGatherHiddenStatesAndResidual:
      join_wait();
      if (attn_dp_size_ == 1) {
        add_norm(compute, b.h, b.residual, b.x, norm);
      } else if (attn_tp_.size() > 1) {
        ops::cast(compute, {.out = b.residual, .x = b.gathered.rows(rows_.gathered_begin, rows_.rows)});
        ops::rms_norm(compute, {.out = b.gathered, .x = b.gathered, .weight = norm, .eps = eps_});
      }
      break;
    case PrepareMlp::kGatherHiddenStates:
      join_wait();
      break;
  }
}

TensorView Boundary::ffn_input(const LayerLayout& layer) const {
  if (layer.mlp == Layout::kScattered) return slice(buffers_.h);
  return attn_dp_size_ > 1 ? buffers_.gathered : buffers_.h;
}

TensorView Boundary::ffn_output(const LayerLayout& layer) const {
  if (layer.mlp == Layout::kScattered) return slice(buffers_.x);
  return attn_dp_size_ > 1 ? buffers_.gathered_out : buffers_.x;
}

void Boundary::start_postprocess(const LayerLayout& layer) {
  auto& b = buffers_;
  auto& comm = *streams_.comm;
  if (layer.mlp == Layout::kFull) {
    // The FFN left a partial sum over all ranks.
    if (tp_.size() == 1) return;
    const bool scattered = layer.output == Layout::kScattered;
    fork();
    if (attn_dp_size_ > 1) {
      tp_.reduce_scatter_v(comm, slice(b.x), b.gathered_out, rows_.rank_rows);
      if (!scattered && attn_tp_.size() > 1) attn_tp_.all_gather(comm, b.x, slice(b.x));
    } else if (scattered) {
      attn_tp_.reduce_scatter(comm, slice(b.x), b.x);
    } else {
      attn_tp_.all_reduce(comm, b.x, b.x);
    }
    join_record();
  } else if (layer.postprocess == Postprocess::kGather) {
    auto& compute = *streams_.compute;
    ops::add(compute, {.out = slice(b.x), .a = slice(b.x), .b = slice(b.residual)});
    attn_tp_inner_.all_gather(compute, b.x, slice(b.x));
    has_residual_ = false;
  }
}

void Boundary::finish_postprocess(const LayerLayout& layer) {
  if (layer.mlp == Layout::kFull && tp_.size() > 1) join_wait();
}

void Boundary::final_norm(const LayerLayout& last_layer, const TensorView& norm, const TensorView& out) {
  const auto part = [&](const TensorView& view) {
    return last_layer.output == Layout::kScattered ? slice(view) : view;
  };
  const auto x = part(buffers_.x);
  auto& compute = *streams_.compute;
  if (has_residual_) {
    ops::add_rms_norm(
        compute,
        {.out = part(out), .residual = part(buffers_.residual), .x = x, .weight = norm, .eps = eps_});
  } else {
    ops::rms_norm(compute, {.out = part(out), .x = x, .weight = norm, .eps = eps_});
  }
}

}  // namespace weft::comm
