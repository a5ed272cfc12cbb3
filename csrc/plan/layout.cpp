#include "plan/layout.h"

#include <algorithm>

#include "base/error.h"
#include "base/math.h"

namespace weft::plan {
namespace {

constexpr int kMaxRanks = 1 << 16;  // more than any group has

// Token axes along which the rows of a layout are sharded; an axis of size 1 shards nothing.
struct Axes {
  bool attn_dp = false;
  bool attn_tp = false;
  bool operator==(const Axes&) const = default;
};

Axes axes_of(Layout layout, const ParallelConfig& parallel) {
  const bool has_dp = parallel.attn_dp_size() > 1;
  const bool has_tp = parallel.attn_tp_size() > 1;
  switch (layout) {
    case Layout::kScattered:
      return {has_dp, has_tp};
    case Layout::kTpAttnFull:
      return {has_dp, false};
    case Layout::kFull:
      return {false, false};
  }
  return {};
}

bool same(Layout a, Layout b, const ParallelConfig& parallel) {
  return axes_of(a, parallel) == axes_of(b, parallel);
}

PrepareMlp prepare_mlp_of(const LayerLayout& layer, const ParallelConfig& parallel) {
  if (layer.mlp == Layout::kFull && layer.middle_residual == Layout::kScattered) {
    return PrepareMlp::kGatherHiddenStates;
  }
  if (parallel.attn_tp_size() == 1 && same(layer.attn, layer.mlp, parallel) &&
      same(layer.input, layer.middle_residual, parallel)) {
    return PrepareMlp::kSimple;
  }
  return layer.mlp == Layout::kFull ? PrepareMlp::kGatherHiddenStatesAndResidual
                                    : PrepareMlp::kScatterHiddenStatesAndResidual;
}

Postprocess postprocess_of(const LayerLayout& layer, const ParallelConfig& parallel) {
  if (same(layer.mlp, layer.output, parallel)) return Postprocess::kTrivial;
  return layer.mlp == Layout::kFull ? Postprocess::kScatterHiddenStates : Postprocess::kGather;
}

}  // namespace

std::string_view layout_name(Layout layout) {
  switch (layout) {
    case Layout::kScattered:
      return "SCATTERED";
    case Layout::kTpAttnFull:
      return "TP_ATTN_FULL";
    case Layout::kFull:
      return "FULL";
  }
  return "?";
}

std::string_view prepare_attn_name(PrepareAttn op) {
  return op == PrepareAttn::kTrivial ? "trivial" : "scattered_to_tp_attn_full";
}

std::string_view prepare_mlp_name(PrepareMlp op) {
  switch (op) {
    case PrepareMlp::kSimple:
      return "simple";
    case PrepareMlp::kGatherHiddenStatesAndResidual:
      return "gather_hidden_states_and_residual";
    case PrepareMlp::kScatterHiddenStatesAndResidual:
      return "scatter_hidden_states_and_residual";
    case PrepareMlp::kGatherHiddenStates:
      return "gather_hidden_states";
  }
  return "?";
}

std::string_view postprocess_name(Postprocess op) {
  switch (op) {
    case Postprocess::kTrivial:
      return "trivial";
    case Postprocess::kScatterHiddenStates:
      return "scatter_hidden_states";
    case Postprocess::kGather:
      return "gather";
  }
  return "?";
}

std::vector<LayerLayout> layer_layouts(const std::vector<bool>& sparse_pattern,
                                       const ParallelConfig& parallel, bool layernorm_sp) {
  parallel.validate();
  WEFT_CHECK(!layernorm_sp || parallel.enable_layernorm_sp,
             "layer_layouts: layernorm_sp needs --enable-layernorm-sp in the parallel configuration");
  const bool dispatched = parallel.a2a_backend != A2aBackend::kNone;
  std::vector<LayerLayout> layers(sparse_pattern.size());
  // Where rows are between parts that need no more of them: in a sequence-parallel step on one rank each.
  const Layout between = layernorm_sp ? Layout::kScattered : Layout::kTpAttnFull;
  Layout input = between;
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerLayout& layer = layers[i];
    const bool is_last = i + 1 == layers.size();
    layer.sparse = sparse_pattern[i];
    layer.input = input;
    layer.attn = Layout::kTpAttnFull;
    const bool scattered = layer.sparse ? dispatched : parallel.dense_is_scattered();
    layer.mlp = scattered ? Layout::kScattered : Layout::kFull;
    layer.middle_residual = scattered ? Layout::kScattered : between;
    // The last dense layer hands over to overlapped MoE layers with full rows, as the splitter of SGLang
    // wants.
    const bool hand_over = !is_last && !layer.sparse && sparse_pattern[i + 1] &&
                           parallel.dense_is_scattered() && parallel.enable_two_batch_overlap;
    layer.output = scattered && !is_last && !hand_over ? Layout::kScattered : between;

    layer.prepare_attn =
        same(layer.input, layer.attn, parallel) ? PrepareAttn::kTrivial : PrepareAttn::kScatteredToTpAttnFull;
    layer.prepare_mlp = prepare_mlp_of(layer, parallel);
    layer.postprocess = postprocess_of(layer, parallel);
    input = layer.output;
  }
  return layers;
}

RowSlice scattered_rows(int64_t num_tokens, int64_t padded_rows, int num_ranks, int rank) {
  WEFT_CHECK(num_ranks >= 1 && rank >= 0 && rank < num_ranks && num_tokens >= 0 &&
                 padded_rows >= num_tokens && padded_rows % num_ranks == 0,
             "scattered_rows: {} tokens in {} rows over rank {} of {}; the rows hold the tokens and are a "
             "multiple of the ranks",
             num_tokens, padded_rows, rank, num_ranks);
  const int64_t size = padded_rows / num_ranks;
  const int64_t begin = rank * size;
  return {.begin = begin, .end = begin + size, .real = std::clamp<int64_t>(num_tokens - begin, 0, size)};
}

std::vector<RowSlice> sequence_parallel_rows(int64_t num_tokens, int num_ranks) {
  WEFT_CHECK(num_tokens >= 0 && num_tokens <= INT32_MAX && num_ranks >= 1 && num_ranks <= kMaxRanks,
             "sequence_parallel_rows: num_tokens={} over {} ranks; give 0..{} tokens over 1..{} ranks",
             num_tokens, num_ranks, INT32_MAX, kMaxRanks);
  std::vector<RowSlice> slices;
  slices.reserve(static_cast<size_t>(num_ranks));
  for (int rank = 0; rank < num_ranks; ++rank) {
    slices.push_back(scattered_rows(num_tokens, round_up<int64_t>(num_tokens, num_ranks), num_ranks, rank));
  }
  return slices;
}

}  // namespace weft::plan
