#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/collective.h"
#include "bindings/bindings.h"
#include "model/config.h"
#include "plan/forward_mode.h"
#include "plan/step_plan.h"
#include "runtime/runtime.h"

namespace weft::bindings {
namespace {

namespace py = pybind11;
using namespace pybind11::literals;
using runtime::Admission;
using runtime::Runtime;
using runtime::RuntimeConfig;
using runtime::StepBatch;
using runtime::StepResult;

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

using Top = std::vector<std::pair<int32_t, float>>;
Top to_pairs(const std::vector<runtime::TokenLogprob>& top) {
  Top pairs;
  for (const auto& entry : top) pairs.emplace_back(entry.token, entry.logprob);
  return pairs;
}

std::vector<std::tuple<int64_t, float, Top>> output_logprobs(const StepResult& result) {
  std::vector<std::tuple<int64_t, float, Top>> rows;
  for (const auto& row : result.output_logprobs) rows.emplace_back(row.rid, row.logprob, to_pairs(row.top));
  return rows;
}

std::vector<std::tuple<int64_t, int64_t, std::vector<float>, std::vector<Top>>> input_logprobs(
    const StepResult& result) {
  std::vector<std::tuple<int64_t, int64_t, std::vector<float>, std::vector<Top>>> rows;
  for (const auto& row : result.input_logprobs) {
    std::vector<Top> tops;
    for (const auto& top : row.top) tops.push_back(to_pairs(top));
    rows.emplace_back(row.rid, row.first, row.logprobs, std::move(tops));
  }
  return rows;
}

std::vector<std::tuple<int, std::string, int64_t>> to_tuples(
    const std::vector<runtime::RankMemoryItem>& ledger) {
  std::vector<std::tuple<int, std::string, int64_t>> rows;
  for (const auto& item : ledger) rows.emplace_back(item.rank, item.name, item.num_bytes);
  return rows;
}

// {name of i: counts[i]} of all i that have a name.
template <class Enum, class Counts>
py::dict by_name(const Counts& counts, std::string_view (*name)(Enum)) {
  py::dict dict;
  for (size_t i = 0; i < counts.size(); ++i) {
    const std::string key(name(static_cast<Enum>(i)));
    if (key != "?") dict[py::str(key)] = counts[i];
  }
  return dict;
}

// kNone counts nothing: a step that replays has no reason not to.
std::string_view reason_name(plan::GraphMiss miss) {
  return miss == plan::GraphMiss::kNone ? "?" : plan::graph_miss_name(miss);
}

py::dict to_dict(const exec::RankCounters& c) {
  std::array<int64_t, exec::kNumStageGroups> stage_us{};
  std::transform(c.stages.us.begin(), c.stages.us.end(), stage_us.begin(),
                 [](double us) { return std::llround(us); });
  const py::dict calls = by_name(c.collective_calls, collective_name);
  const py::dict bytes = by_name(c.collective_bytes, collective_name);
  py::dict collectives;
  for (const auto& [op, count] : calls) collectives[op] = py::dict("calls"_a = count, "bytes"_a = bytes[op]);
  return py::dict("steps"_a = by_name(c.steps_by_mode, plan::forward_mode_name), "tbo_steps"_a = c.tbo_steps,
                  "tbo_steps_by_mode"_a = by_name(c.tbo_steps_by_mode, plan::forward_mode_name),
                  "tbo_unlike_mode_steps"_a = c.tbo_unlike_mode_steps,
                  "layernorm_sp_steps"_a = c.layernorm_sp_steps, "graph_replays"_a = c.graph_replays,
                  "graph_captures"_a = c.graph_captures,
                  "graph_capture_us"_a = std::llround(c.graph_capture_us), "graph_bytes"_a = c.graph_bytes,
                  "replay_host_us"_a = std::llround(c.replay_host_us),
                  "stage_us"_a = by_name(stage_us, exec::stage_group_name),
                  "between_steps"_a =
                      py::dict("count"_a = c.stages.num_between, "us"_a = std::llround(c.stages.between_us)),
                  "graph_misses"_a = by_name(c.graph_misses, reason_name),
                  "dispatch_steps"_a = by_name(c.dispatch_steps, plan::dispatch_mode_name),
                  "dispatched_rows"_a = c.dispatched_rows, "real_tokens"_a = c.real_tokens,
                  "padded_tokens"_a = c.padded_tokens, "multi_chunk_steps"_a = c.multi_chunk_steps,
                  "collectives"_a = collectives);
}

py::dict to_dict(const runtime::Stats& stats) {
  py::list ranks;
  for (const auto& counters : stats.ranks) ranks.append(to_dict(counters));
  return py::dict(
      "ranks"_a = ranks,
      "requests"_a = py::dict("admitted"_a = stats.requests.admitted, "finished"_a = stats.requests.finished,
                              "released"_a = stats.requests.released,
                              "discarded_rows"_a = stats.requests.discarded_rows),
      "pages"_a = py::dict("total"_a = stats.pages_total, "used"_a = stats.pages_used));
}

RuntimeConfig make_config(std::string model_path, std::string load_format, std::string dtype,
                          std::string device, int tp_size, int dp_size, bool enable_dp_attention, int ep_size,
                          std::string moe_a2a_backend, std::string deepep_mode,
                          std::optional<int> moe_dense_tp_size, bool enable_dp_lm_head,
                          bool enable_two_batch_overlap, bool enable_layernorm_sp,
                          double tbo_token_distribution_threshold, std::string tbo_policy,
                          std::string tbo_gate, std::optional<plan::TboCostTable> tbo_cost_table,
                          std::vector<int64_t> graph_batch_sizes, bool graph_padding,
                          int64_t max_tokens_per_step, int64_t max_running_requests, int64_t context_length,
                          int64_t page_size, int64_t max_total_tokens, int64_t max_top_logprobs,
                          int64_t dispatch_chunk_rows, double timeout_s, int num_threads, bool poison,
                          uint64_t seed) {
  return {.model_path = std::move(model_path),
          .load_format = std::move(load_format),
          .dtype = std::move(dtype),
          .device = std::move(device),
          .tp_size = tp_size,
          .dp_size = dp_size,
          .enable_dp_attention = enable_dp_attention,
          .ep_size = ep_size,
          .moe_a2a_backend = std::move(moe_a2a_backend),
          .deepep_mode = std::move(deepep_mode),
          .moe_dense_tp_size = moe_dense_tp_size,
          .enable_dp_lm_head = enable_dp_lm_head,
          .enable_two_batch_overlap = enable_two_batch_overlap,
          .enable_layernorm_sp = enable_layernorm_sp,
          .tbo_token_distribution_threshold = tbo_token_distribution_threshold,
          .tbo_policy = std::move(tbo_policy),
          .tbo_gate = std::move(tbo_gate),
          .tbo_cost_table = tbo_cost_table ? *std::move(tbo_cost_table) : plan::TboCostTable{},
          .graph_batch_sizes = std::move(graph_batch_sizes),
          .graph_padding = graph_padding,
          .max_tokens_per_step = max_tokens_per_step,
          .max_running_requests = max_running_requests,
          .context_length = context_length,
          .page_size = page_size,
          .max_total_tokens = max_total_tokens,
          .max_top_logprobs = max_top_logprobs,
          .dispatch_chunk_rows = dispatch_chunk_rows,
          .timeout_s = timeout_s,
          .num_threads = num_threads,
          .poison = poison,
          .seed = seed};
}

Admission make_admission(int64_t rid, int dp_rank, std::vector<int32_t> input_ids, int64_t max_new_tokens,
                         float temperature, float top_p, int32_t top_k, float min_p, uint64_t seed,
                         std::vector<int32_t> stop_token_ids, int64_t logprob_start, bool return_logprob,
                         int32_t top_logprobs_num) {
  return {.rid = rid,
          .dp_rank = dp_rank,
          .input_ids = std::move(input_ids),
          .max_new_tokens = max_new_tokens,
          .temperature = temperature,
          .top_p = top_p,
          .top_k = top_k,
          .min_p = min_p,
          .seed = seed,
          .stop_token_ids = std::move(stop_token_ids),
          .logprob_start = logprob_start,
          .return_logprob = return_logprob,
          .top_logprobs_num = top_logprobs_num};
}

void bind_config(py::module_& m) {
  const RuntimeConfig d;
  py::class_<RuntimeConfig>(m, "RuntimeConfig")
      .def(py::init(&make_config), py::kw_only(), "model_path"_a, "load_format"_a = d.load_format,
           "dtype"_a = d.dtype, "device"_a = d.device, "tp_size"_a = d.tp_size, "dp_size"_a = d.dp_size,
           "enable_dp_attention"_a = d.enable_dp_attention, "ep_size"_a = d.ep_size,
           "moe_a2a_backend"_a = d.moe_a2a_backend, "deepep_mode"_a = d.deepep_mode,
           "moe_dense_tp_size"_a = d.moe_dense_tp_size, "enable_dp_lm_head"_a = d.enable_dp_lm_head,
           "enable_two_batch_overlap"_a = d.enable_two_batch_overlap,
           "enable_layernorm_sp"_a = d.enable_layernorm_sp,
           "tbo_token_distribution_threshold"_a = d.tbo_token_distribution_threshold,
           "tbo_policy"_a = d.tbo_policy, "tbo_gate"_a = d.tbo_gate, "tbo_cost_table"_a = py::none(),
           "graph_batch_sizes"_a = py::tuple(), "graph_padding"_a = d.graph_padding,
           "max_tokens_per_step"_a = d.max_tokens_per_step, "max_running_requests"_a = d.max_running_requests,
           "context_length"_a = d.context_length, "page_size"_a = d.page_size,
           "max_total_tokens"_a = d.max_total_tokens, "max_top_logprobs"_a = d.max_top_logprobs,
           "dispatch_chunk_rows"_a = d.dispatch_chunk_rows, "timeout_s"_a = d.timeout_s,
           "num_threads"_a = d.num_threads, "poison"_a = d.poison, "seed"_a = d.seed);
}

void bind_step(py::module_& m) {
  const Admission d;
  py::class_<Admission>(m, "Admission")
      .def(py::init(&make_admission), py::kw_only(), "rid"_a, "dp_rank"_a, "input_ids"_a, "max_new_tokens"_a,
           "temperature"_a = d.temperature, "top_p"_a = d.top_p, "top_k"_a = d.top_k, "min_p"_a = d.min_p,
           "seed"_a = d.seed, "stop_token_ids"_a = py::tuple(), "logprob_start"_a = d.logprob_start,
           "return_logprob"_a = d.return_logprob, "top_logprobs_num"_a = d.top_logprobs_num);
  py::class_<StepBatch>(m, "StepBatch")
      .def(py::init([](std::vector<Admission> admissions, std::vector<std::pair<int64_t, int64_t>> prefill,
                       std::vector<bool> decode, std::vector<int64_t> release) {
             return StepBatch{std::move(admissions), std::move(prefill), std::move(decode),
                              std::move(release)};
           }),
           py::kw_only(), "admissions"_a = py::tuple(), "prefill"_a = py::tuple(), "decode"_a = py::tuple(),
           "release"_a = py::tuple());
  py::class_<StepResult>(m, "StepResult")
      .def_property_readonly("rids", [](const StepResult& r) { return to_array(r.rids); })
      .def_property_readonly("tokens", [](const StepResult& r) { return to_array(r.tokens); })
      .def_property_readonly("finished",
                             [](const StepResult& r) {
                               return py::array_t<uint8_t>(
                                   static_cast<py::ssize_t>(r.finished.size()),
                                   reinterpret_cast<const uint8_t*>(r.finished.data()));
                             })
      .def_property_readonly("output_logprobs", &output_logprobs)
      .def_property_readonly("input_logprobs", &input_logprobs);
}

}  // namespace

void bind_runtime(py::module_& m) {
  bind_config(m);
  bind_step(m);
  using Released = py::call_guard<py::gil_scoped_release>;
  py::class_<Runtime>(m, "Runtime")
      .def(py::init<const RuntimeConfig&>(), "config"_a, Released())
      .def("memory_ledger", [](const Runtime& r) { return to_tuples(r.memory_ledger()); })
      .def("submit", &Runtime::submit, "batch"_a, Released())
      .def("wait", &Runtime::wait, "ticket"_a, Released())
      .def("stats", [](const Runtime& r) { return to_dict(r.stats()); })
      .def("trace_next_step", &Runtime::trace_next_step)
      .def("timeline",
           [](const Runtime& r) {
             std::vector<std::tuple<int, std::string, std::string, double, double, int>> rows;
             for (const auto& s : r.timeline()) {
               rows.emplace_back(s.rank, s.stream, s.name, s.start_us, s.end_us, s.micro_batch);
             }
             return rows;
           })
      .def("close", &Runtime::close, Released())
      .def_property_readonly("vocab_size", &Runtime::vocab_size)
      .def_property_readonly("num_pages", &Runtime::num_pages);
  m.def(
      "memory_ledger", [](const RuntimeConfig& config) { return to_tuples(runtime::memory_ledger(config)); },
      "config"_a);
  m.def(
      "sparse_layers",
      [](const std::string& model_path) { return model::load_config(model_path).sparse_layers; },
      "model_path"_a);
}

}  // namespace weft::bindings
