#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "plan/graph_buckets.h"
#include "plan/layout.h"
#include "plan/padding.h"
#include "plan/splitter.h"
#include "plan/stages.h"
#include "plan/step_plan.h"

namespace py = pybind11;
using namespace py::literals;  // NOLINT(google-build-using-namespace): "name"_a

namespace weft::bindings {
namespace {

using namespace plan;  // NOLINT(google-build-using-namespace): all of this file is about it
using Lengths = std::vector<int64_t>;

std::vector<std::string> miss_names(const std::vector<GraphMiss>& misses) {
  std::vector<std::string> names;
  for (const GraphMiss miss : misses) names.emplace_back(graph_miss_name(miss));
  return names;
}

void bind_forward_mode(py::module_& m) {
  py::native_enum<ForwardMode>(m, "ForwardMode", "enum.IntEnum")
      .value("EXTEND", ForwardMode::kExtend)
      .value("DECODE", ForwardMode::kDecode)
      .value("MIXED", ForwardMode::kMixed)
      .value("IDLE", ForwardMode::kIdle)
      .value("TARGET_VERIFY", ForwardMode::kTargetVerify)
      .value("PREBUILT", ForwardMode::kPrebuilt)
      .finalize();
  m.def("is_prefill", &is_prefill, "forward_mode"_a);
}

void bind_splitter(py::module_& m) {
  py::class_<SplitChild>(m, "SplitChild")
      .def_property_readonly("seq_range",
                             [](const SplitChild& c) { return std::pair(c.seq_begin, c.seq_end); })
      .def_property_readonly("token_range",
                             [](const SplitChild& c) { return std::pair(c.token_begin, c.token_end); })
      .def_readonly("num_tokens", &SplitChild::num_tokens)
      .def_readonly("num_token_non_padded", &SplitChild::num_token_non_padded)
      .def_readonly("padded_len", &SplitChild::padded_len)
      .def_readonly("extend_lens", &SplitChild::extend_lens)
      .def_readonly("prefix_lens", &SplitChild::prefix_lens)
      .def_readonly("extend_start_loc", &SplitChild::extend_start_loc)
      .def_readonly("seq_lens", &SplitChild::seq_lens)
      .def_readonly("mix_decode_bs", &SplitChild::mix_decode_bs)
      .def_property_readonly("mask_range",
                             [](const SplitChild& c) { return std::pair(c.mask_begin, c.mask_end); });
  py::class_<Split>(m, "Split")
      .def_readonly("seq_index", &Split::seq_index)
      .def_readonly("token_index", &Split::token_index)
      .def_readonly("two_chunk", &Split::two_chunk)
      .def_readonly("children", &Split::children);

  m.def(
      "compute_split_seq_index",
      [](ForwardMode mode, int64_t num_tokens, const Lengths& extend_lens, int64_t width, double threshold) {
        SplitInput input;
        input.mode = mode;
        input.num_tokens = num_tokens;
        input.extend_lens = extend_lens;
        input.token_num_per_seq = width;
        input.threshold = threshold;
        return compute_split_seq_index(input);
      },
      "forward_mode"_a, "num_tokens"_a, "extend_lens"_a, "token_num_per_seq"_a, "threshold"_a);
  m.def(
      "compute_split_token_index",
      [](int64_t split_seq_index, ForwardMode mode, const Lengths& extend_lens, int64_t width,
         double threshold) {
        SplitInput input;
        input.mode = mode;
        input.extend_lens = extend_lens;
        input.token_num_per_seq = width;
        input.threshold = threshold;
        return compute_split_token_index(split_seq_index, input);
      },
      "split_seq_index"_a, "forward_mode"_a, "extend_lens"_a, "token_num_per_seq"_a, "threshold"_a);
  m.def(
      "is_two_chunk", [](const Lengths& lens, double threshold) { return is_two_chunk(lens, threshold); },
      "extend_lens"_a, "threshold"_a);
  m.def(
      "split",
      [](ForwardMode mode, int64_t num_tokens, const Lengths& extend_lens, const Lengths& prefix_lens,
         const Lengths& seq_lens, int64_t width, double threshold, int attn_tp_size, int64_t mix_decode_bs,
         std::optional<int64_t> num_token_non_padded,
         int num_micro_batches) -> std::variant<Split, std::string> {
        WEFT_CHECK(!num_token_non_padded || *num_token_non_padded >= 0,
                   "split: num_token_non_padded={} must be at least 0, or None if all rows are real",
                   *num_token_non_padded);
        std::string why;
        std::optional<Split> result = split({.mode = mode,
                                             .num_tokens = num_tokens,
                                             .extend_lens = extend_lens,
                                             .prefix_lens = prefix_lens,
                                             .seq_lens = seq_lens,
                                             .token_num_per_seq = width,
                                             .threshold = threshold,
                                             .attn_tp_size = attn_tp_size,
                                             .mix_decode_bs = mix_decode_bs,
                                             .num_token_non_padded = num_token_non_padded.value_or(-1),
                                             .num_micro_batches = num_micro_batches},
                                            &why);
        if (result) return *std::move(result);
        return why;
      },
      "forward_mode"_a, "num_tokens"_a, "extend_lens"_a, "prefix_lens"_a, "seq_lens"_a, "token_num_per_seq"_a,
      "threshold"_a, "attn_tp_size"_a, "mix_decode_bs"_a, "num_token_non_padded"_a, "num_micro_batches"_a);
  m.def("replay_split", &replay_split, "bucket"_a, "num_tokens"_a);
}

void bind_layouts_and_stages(py::module_& m) {
  py::class_<LayerLayout>(m, "LayerLayout")
      .def_readonly("sparse", &LayerLayout::sparse)
      .def_property_readonly("input", [](const LayerLayout& l) { return layout_name(l.input); })
      .def_property_readonly("attn", [](const LayerLayout& l) { return layout_name(l.attn); })
      .def_property_readonly("mlp", [](const LayerLayout& l) { return layout_name(l.mlp); })
      .def_property_readonly("middle_residual",
                             [](const LayerLayout& l) { return layout_name(l.middle_residual); })
      .def_property_readonly("output", [](const LayerLayout& l) { return layout_name(l.output); })
      .def_property_readonly("prepare_attn",
                             [](const LayerLayout& l) { return prepare_attn_name(l.prepare_attn); })
      .def_property_readonly("prepare_mlp",
                             [](const LayerLayout& l) { return prepare_mlp_name(l.prepare_mlp); })
      .def_property_readonly("postprocess",
                             [](const LayerLayout& l) { return postprocess_name(l.postprocess); });
  m.def("layer_layouts", &layer_layouts, "sparse_pattern"_a, "parallel"_a, "layernorm_sp"_a = false);
  m.def(
      "sequence_parallel_rows",
      [](int64_t num_tokens, int tp_size) {
        std::vector<std::tuple<int64_t, int64_t, int64_t>> slices;
        for (const RowSlice& slice : sequence_parallel_rows(num_tokens, tp_size)) {
          slices.emplace_back(slice.begin, slice.end, slice.real);
        }
        return slices;
      },
      "num_tokens"_a, "tp_size"_a);
  m.def(
      "stages",
      [](const std::vector<LayerLayout>& layouts, ForwardMode schedule, std::string_view dispatch,
         bool shared) {
        const StagePlan plan = make_stage_plan(layouts, schedule, parse_dispatch_mode(dispatch), shared);
        std::vector<std::vector<std::pair<int, std::string_view>>> stages;
        for (const Stage& stage : plan.stages) {
          auto& ops = stages.emplace_back();
          for (const StageOp& op : stage) ops.emplace_back(op.layer, layer_op_name(op.op));
        }
        return std::pair(std::move(stages), plan.delta_stages);
      },
      "layouts"_a, "schedule"_a, "dispatch"_a, "has_shared_experts"_a);
  m.def("stage_order", &stage_order, "num_stages"_a, "delta_stages"_a, "num_micro_batches"_a);
}

void bind_padding_and_buckets(py::module_& m) {
  py::class_<DpPadding>(m, "DpPadding")
      .def_property_readonly("mode", [](const DpPadding& p) { return padding_mode_name(p.mode); })
      .def_readonly("aligned", &DpPadding::aligned)
      .def_readonly("padded", &DpPadding::padded)
      .def_readonly("start", &DpPadding::start)
      .def_readonly("buffer_len", &DpPadding::buffer_len);
  m.def(
      "dp_padding",
      [](const Lengths& counts, int attn_tp_size, int attn_dp_size, bool is_extend_in_batch) {
        return dp_padding(counts, attn_tp_size, attn_dp_size, is_extend_in_batch);
      },
      "global_num_tokens"_a, "attn_tp_size"_a, "attn_dp_size"_a, "is_extend_in_batch"_a);
  m.def("capture_batch_sizes", &capture_batch_sizes, "max_bs"_a, "speculative"_a, "disable_padding"_a);
  m.def("cpu_capture_batch_sizes", &cpu_capture_batch_sizes, "max_bs"_a);
  m.def(
      "filter_capture_sizes",
      [](const Lengths& sizes, int64_t pool_size, bool two_batch_overlap, bool gathered_buffer,
         int attn_tp_size, int64_t tokens_per_req) {
        return filter_capture_sizes(sizes, {.pool_size = pool_size,
                                            .two_batch_overlap = two_batch_overlap,
                                            .gathered_buffer = gathered_buffer,
                                            .attn_tp_size = attn_tp_size,
                                            .tokens_per_req = tokens_per_req});
      },
      "sizes"_a, "pool_size"_a, "two_batch_overlap"_a, "gathered_buffer"_a, "attn_tp_size"_a,
      "tokens_per_req"_a);
  m.def(
      "bucket_of", [](const Lengths& buckets, int64_t size) { return bucket_of(buckets, size); }, "buckets"_a,
      "size"_a);
}

ParallelConfig make_parallel(int tp_size, int dp_size, bool enable_dp_attention, int ep_size,
                             std::string_view moe_a2a_backend, std::string_view deepep_mode,
                             std::optional<int> moe_dense_tp_size, bool enable_dp_lm_head,
                             bool enable_two_batch_overlap, bool enable_layernorm_sp) {
  ParallelConfig parallel;
  parallel.tp_size = tp_size;
  parallel.dp_size = dp_size;
  parallel.enable_dp_attention = enable_dp_attention;
  parallel.ep_size = ep_size;
  parallel.a2a_backend = parse_a2a_backend(moe_a2a_backend);
  parallel.deepep_mode = parse_deepep_mode(deepep_mode);
  parallel.moe_dense_tp_size = moe_dense_tp_size.value_or(0);
  parallel.enable_dp_lm_head = enable_dp_lm_head;
  parallel.enable_two_batch_overlap = enable_two_batch_overlap;
  parallel.enable_layernorm_sp = enable_layernorm_sp;
  parallel.validate();
  return parallel;
}

TboCostTable make_cost_table(Lengths tokens, std::vector<double> compute_us, std::vector<double> dispatch_us,
                             std::vector<double> combine_us) {
  TboCostTable table{std::move(tokens), std::move(compute_us), std::move(dispatch_us), std::move(combine_us)};
  WEFT_CHECK(!table.empty(), "cost table: 0 points; give at least one");
  table.validate();
  return table;
}

PlanConfig make_config(const ParallelConfig& parallel, std::string_view tbo_policy, std::string_view tbo_gate,
                       const std::optional<TboCostTable>& tbo_cost_table, Lengths graph_buckets,
                       bool graph_padding, int64_t tokens_per_req, int64_t normal_chunk_rows,
                       int64_t low_latency_rows, int64_t logit_chunk_rows) {
  PlanConfig config;
  config.parallel = parallel;
  config.tbo_policy = parse_tbo_policy(tbo_policy);
  config.tbo_gate = parse_tbo_gate(tbo_gate);
  if (tbo_cost_table) config.tbo_cost_table = *tbo_cost_table;
  config.graph_buckets = std::move(graph_buckets);
  config.graph_padding = graph_padding;
  config.tokens_per_req = tokens_per_req;
  config.normal_chunk_rows = normal_chunk_rows;
  config.low_latency_rows = low_latency_rows;
  config.logit_chunk_rows = logit_chunk_rows;
  config.validate();
  return config;
}

// Sequences of a batch of which the caller gave rows alone: decode and verify have fixed widths.
int64_t default_num_seqs(ForwardMode mode, int64_t num_tokens, int64_t tokens_per_req) {
  if (is_prefill(mode)) return std::min<int64_t>(num_tokens, 1);
  return tokens_per_req > 0 ? num_tokens / tokens_per_req : num_tokens;
}

RankState make_state(ForwardMode mode, int64_t num_tokens, std::optional<int64_t> num_seqs,
                     int64_t tokens_per_req, int64_t num_logit_rows,
                     std::optional<std::pair<int64_t, int64_t>> split_tokens, bool can_graph,
                     uint64_t step_id, uint64_t config_hash, uint64_t trace_hash) {
  RankState state;
  state.step_id = step_id;
  state.config_hash = config_hash;
  state.trace_hash = trace_hash;
  state.mode = mode;
  state.can_graph = can_graph ? 1 : 0;
  state.can_split = split_tokens ? 1 : 0;
  state.num_tokens = num_tokens;
  state.num_seqs = num_seqs.value_or(default_num_seqs(mode, num_tokens, tokens_per_req));
  state.tokens_per_req = tokens_per_req;
  state.num_logit_rows = num_logit_rows;
  if (split_tokens) {
    state.split_tokens[0] = split_tokens->first;
    state.split_tokens[1] = split_tokens->second;
  }
  return state;
}

void bind_step_plan(py::module_& m) {
  py::class_<ParallelConfig>(m, "ParallelConfig")
      .def(py::init(&make_parallel), py::kw_only(), "tp_size"_a = 1, "dp_size"_a = 1,
           "enable_dp_attention"_a = false, "ep_size"_a = 1, "moe_a2a_backend"_a = "none",
           "deepep_mode"_a = "auto", "moe_dense_tp_size"_a = py::none(), "enable_dp_lm_head"_a = false,
           "enable_two_batch_overlap"_a = false, "enable_layernorm_sp"_a = false)
      .def_readonly("tp_size", &ParallelConfig::tp_size)
      .def_property_readonly("attn_tp_size", &ParallelConfig::attn_tp_size)
      .def_property_readonly("attn_dp_size", &ParallelConfig::attn_dp_size)
      .def("attn_tp_rank", &ParallelConfig::attn_tp_rank, "rank"_a)
      .def("attn_dp_rank", &ParallelConfig::attn_dp_rank, "rank"_a)
      .def_property_readonly("require_mlp_tp_gather", &ParallelConfig::require_mlp_tp_gather)
      .def_property_readonly("require_attn_tp_gather", &ParallelConfig::require_attn_tp_gather)
      .def_property_readonly("require_gathered_buffer", &ParallelConfig::require_gathered_buffer)
      .def_property_readonly("require_mlp_sync", &ParallelConfig::require_mlp_sync);
  py::class_<TboCostTable>(m, "TboCostTable")
      .def(py::init(&make_cost_table), py::kw_only(), "tokens"_a, "compute_us"_a, "dispatch_us"_a,
           "combine_us"_a)
      .def_readonly("tokens", &TboCostTable::tokens)
      .def_readonly("compute_us", &TboCostTable::compute_us)
      .def_readonly("dispatch_us", &TboCostTable::dispatch_us)
      .def_readonly("combine_us", &TboCostTable::combine_us)
      .def("whole_us", &TboCostTable::whole_us, "rows"_a)
      .def("split_us", &TboCostTable::split_us, "first_rows"_a, "second_rows"_a);
  py::class_<PlanConfig>(m, "PlanConfig")
      .def(py::init(&make_config), "parallel"_a, py::kw_only(), "tbo_policy"_a = "any", "tbo_gate"_a = "auto",
           "tbo_cost_table"_a = py::none(), "graph_buckets"_a = Lengths{}, "graph_padding"_a = true,
           "tokens_per_req"_a = 1, "normal_chunk_rows"_a = 1024, "low_latency_rows"_a = 128,
           "logit_chunk_rows"_a = 1024)
      .def_readonly("parallel", &PlanConfig::parallel)
      .def("hash", &PlanConfig::hash);
  py::class_<RankState>(m, "RankState")
      .def(py::init(&make_state), "forward_mode"_a = ForwardMode::kIdle, "num_tokens"_a = 0, py::kw_only(),
           "num_seqs"_a = py::none(), "tokens_per_req"_a = 1, "num_logit_rows"_a = 0,
           "split_tokens"_a = py::none(), "can_graph"_a = true, "step_id"_a = 0, "config_hash"_a = 0,
           "trace_hash"_a = 0)
      .def_readonly("forward_mode", &RankState::mode)
      .def_readonly("num_tokens", &RankState::num_tokens);
  py::class_<MicroBatchPlan>(m, "MicroBatchPlan")
      .def_readonly("num_tokens", &MicroBatchPlan::num_tokens)
      .def_readonly("rows", &MicroBatchPlan::rows)
      .def_property_readonly("padding", [](const MicroBatchPlan& b) { return padding_mode_name(b.padding); })
      .def_readonly("start", &MicroBatchPlan::start)
      .def_readonly("gathered_rows", &MicroBatchPlan::gathered_rows)
      .def_readonly("expert_chunks", &MicroBatchPlan::expert_chunks);
  py::class_<StepPlan>(m, "StepPlan")
      .def_readonly("step_id", &StepPlan::step_id)
      .def_readonly("run", &StepPlan::run)
      .def_readonly("is_extend_in_batch", &StepPlan::is_extend_in_batch)
      .def_readonly("modes", &StepPlan::modes)
      .def_readonly("schedule", &StepPlan::schedule)
      .def_property_readonly("dispatch", [](const StepPlan& p) { return dispatch_mode_name(p.dispatch); })
      .def_readonly("layernorm_sp", &StepPlan::layernorm_sp)
      .def_readonly("tbo", &StepPlan::tbo)
      .def_readonly("no_tbo_reason", &StepPlan::no_tbo_reason)
      .def_readonly("micro_batches", &StepPlan::micro_batches)
      .def_readonly("graph_bucket", &StepPlan::graph_bucket)
      .def_property_readonly("graph_miss", [](const StepPlan& p) { return miss_names(p.graph_miss); })
      .def_readonly("logit_rows", &StepPlan::logit_rows)
      .def_readonly("logit_chunks", &StepPlan::logit_chunks)
      .def("hash", &StepPlan::hash);
  m.def("make_step_plan", &make_step_plan, "rank_states"_a, "config"_a);
}

}  // namespace

void bind_plan(py::module_& m) {
  bind_forward_mode(m);
  bind_splitter(m);
  bind_layouts_and_stages(m);
  bind_padding_and_buckets(m);
  bind_step_plan(m);
}

}  // namespace weft::bindings
