/// Decode steps of a model of zeros on one device, for bench/gpu_step.py: `bench_step CONFIG_FOLDER DEVICE
/// STEPS PAGE_SIZE BATCH:KV...` captures a graph a batch size, checks each output, then prints one JSON
/// object a load.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/math.h"
#include "comm/local/local_world.h"
#include "exec/rank_worker.h"
#include "model/config.h"
#include "model/weight_coverage.h"
#include "runtime/config.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

struct Load {
  int64_t batch = 0;
  int64_t kv = 0;  // tokens of a sequence before the first step
};

/// Every weight is zero: logits are equal, so a greedy sample is token 0 whatever the kernels' rounding.
class Zeros final : public model::WeightSource {
 public:
  [[nodiscard]] bool contains(std::string_view /*name*/) const override { return true; }
  void read(std::string_view /*name*/, std::span<const int64_t> /*full_shape*/,
            std::span<const model::Slice> /*slices*/, const device::TensorView& dst) override {
    const size_t row =
        static_cast<size_t>(dst.shape[static_cast<size_t>(dst.rank) - 1]) * dtype_size(dst.dtype);
    const int64_t rows = dst.rank == 1 ? 1 : dst.numel() / dst.shape[static_cast<size_t>(dst.rank) - 1];
    const int64_t stride = dst.rank == 1 ? 0 : dst.stride[static_cast<size_t>(dst.rank) - 2];
    for (int64_t r = 0; r < rows; ++r)
      std::memset(dst.as<char>() + static_cast<size_t>(r * stride) * dtype_size(dst.dtype), 0, row);
  }
  [[nodiscard]] std::vector<std::string> names() const override { return {}; }
};

/// One rank with a graph for each batch size of `loads`.
struct Rank {
  Rank(const std::string& folder, const std::string& backend, int64_t page_size, int64_t steps,
       const std::vector<Load>& loads)
      : model(model::load_config(folder)) {
    runtime::RuntimeConfig c;
    c.device = backend;
    c.dtype = "bfloat16";
    c.page_size = page_size;
    for (const Load& load : loads) {
      c.graph_batch_sizes.push_back(load.batch);
      c.max_running_requests = std::max(c.max_running_requests, load.batch);
      c.context_length = std::max(c.context_length, load.kv + steps);
      c.max_total_tokens = std::max(c.max_total_tokens, load.batch * round_up(load.kv + steps, page_size));
    }
    std::sort(c.graph_batch_sizes.begin(), c.graph_batch_sizes.end());
    c.graph_batch_sizes.erase(std::unique(c.graph_batch_sizes.begin(), c.graph_batch_sizes.end()),
                              c.graph_batch_sizes.end());
    c.max_tokens_per_step = c.max_running_requests;
    config = runtime::resolve(c, model);
    device = make_device(backend);
    exec::RankPeers peers;
    peers.communicator = [this](plan::Group group, int channel) {
      return world.make_communicator(0, std::string(plan::group_name(group)), {0}, channel);
    };
    worker = std::make_unique<exec::RankWorker>(0, config, model, *device, peers);
    Zeros zeros;
    model::WeightCoverage coverage;
    worker->load(zeros, coverage);
    worker->capture_graphs();
  }

  static std::unique_ptr<device::Device> make_device(const std::string& backend) {
#if WEFT_CUDA
    if (backend == "cuda") return device::make_cuda_device({});
#endif
    WEFT_CHECK(backend == "cpu", "device '{}' is unknown; use cpu, or cuda in a build for it", backend);
    return device::make_cpu_device({});
  }

  model::ModelConfig model;
  exec::ExecConfig config;
  std::unique_ptr<device::Device> device;
  comm::LocalWorld world{1, std::chrono::seconds(60)};
  std::unique_ptr<exec::RankWorker> worker;
};

/// Step `step` of a load: each sequence decodes the token that the step before sampled.
exec::ForwardInput make_input(const exec::ExecConfig& config, const Load& load, int64_t step) {
  exec::ForwardInput input;
  auto& batch = input.micro_batches[0];
  const int64_t length = load.kv + step + 1;
  const int64_t pages = config.num_pages / load.batch;
  const auto i32 = [](int64_t x) { return static_cast<int32_t>(x); };
  batch.cu_q.push_back(0);
  for (int64_t s = 0; s < load.batch; ++s) {
    const int64_t first_page = s * pages;
    batch.ids.push_back(i32(-(s + 1)));
    batch.positions.push_back(i32(length - 1));
    batch.kv_slots.push_back(i32((first_page + (length - 1) / config.page_size) * config.page_size +
                                 (length - 1) % config.page_size));
    batch.cu_q.push_back(i32(s + 1));
    batch.kv_len.push_back(i32(length));
    for (int64_t p = 0; p < ceil_div(length, config.page_size); ++p)
      batch.pages.push_back(i32(first_page + p));
    exec::LogitRow row;
    row.row = row.slot = i32(s);
    row.sampling.temperature = 0.0F;
    row.sampling.position = length;
    input.logit_rows.push_back(row);
  }
  return input;
}

plan::StepPlan make_plan(const exec::ExecConfig& config, const Load& load, int64_t step) {
  plan::RankState state;
  state.step_id = static_cast<uint64_t>(step);
  state.config_hash = config.plan.hash();
  state.mode = plan::ForwardMode::kDecode;
  state.num_tokens = state.num_seqs = state.num_logit_rows = load.batch;
  state.split_tokens[0] = load.batch;
  return plan::make_step_plan({state}, config.plan);
}

/// Runs all steps with two in flight, as the runtime does. Returns microseconds a step of the wall clock.
double run(Rank& rank, const Load& load, int64_t steps) {
  struct Step {
    plan::StepPlan plan;
    exec::ForwardInput input;
  };
  std::deque<Step> in_flight;
  const auto collect = [&] {
    const exec::StepDone done = rank.worker->collect();
    for (const int32_t token : done.output.tokens)
      WEFT_CHECK(token == 0, "a model of zeros sampled token {} at batch {}", token, load.batch);
    in_flight.pop_front();
  };
  const auto start = Clock::now();
  for (int64_t i = 0; i < steps; ++i) {
    // Made now, so that they are as warm in the caches as what the scheduler has just made.
    Step step{make_plan(rank.config, load, i), make_input(rank.config, load, i)};
    if (in_flight.size() == 2) collect();
    in_flight.push_back(std::move(step));
    rank.worker->enqueue(in_flight.back().plan, in_flight.back().input);
  }
  while (!in_flight.empty()) collect();
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / static_cast<double>(steps);
}

void report(Rank& rank, const Load& load, int64_t steps) {
  run(rank, load, std::min<int64_t>(steps, 10));
  const exec::RankCounters before = rank.worker->counters();
  const double step_us = run(rank, load, steps);
  const exec::RankCounters after = rank.worker->counters();
  WEFT_CHECK(after.graph_replays - before.graph_replays == steps, "{} of {} steps replayed a graph",
             after.graph_replays - before.graph_replays, steps);
  const double n = static_cast<double>(steps);
  std::string stages;
  for (size_t g = 0; g < exec::kNumStageGroups; ++g) {
    stages += fmt::format(R"("{}": {:.2f}, )", exec::stage_group_name(static_cast<exec::StageGroup>(g)),
                          (after.stages.us[g] - before.stages.us[g]) / n);
  }
  const int64_t between = after.stages.num_between - before.stages.num_between;
  std::cout
      << fmt::format(
             R"({{"batch": {}, "kv": {}, "step_us": {:.2f}, {}"between_us": {:.2f}, "host_us": {:.2f}}})",
             load.batch, load.kv, step_us, stages,
             (after.stages.between_us - before.stages.between_us) /
                 static_cast<double>(std::max<int64_t>(1, between)),
             (after.replay_host_us - before.replay_host_us) / n)
      << std::endl;
}

void main_of(const std::vector<std::string>& args) {
  WEFT_CHECK(args.size() >= 5, "bench_step CONFIG_FOLDER DEVICE STEPS PAGE_SIZE BATCH:KV...");
  const int64_t steps = std::stoll(args[2]);
  std::vector<Load> loads;
  for (size_t i = 4; i < args.size(); ++i) {
    const size_t colon = args[i].find(':');
    WEFT_CHECK(colon != std::string::npos, "'{}' is no BATCH:KV", args[i]);
    loads.push_back({std::stoll(args[i].substr(0, colon)), std::stoll(args[i].substr(colon + 1))});
  }
  Rank rank(args[0], args[1], std::stoll(args[3]), steps, loads);
  const exec::RankCounters counters = rank.worker->counters();
  std::cout << fmt::format(R"({{"graphs": {}, "capture_us": {:.0f}, "graph_bytes": {}}})",
                           counters.graph_captures, counters.graph_capture_us, counters.graph_bytes)
            << std::endl;
  for (const Load& load : loads) report(rank, load, steps);
  rank.worker->drain();
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  try {
    weft::main_of({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "bench_step: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
