#include "runtime/runtime.h"

#include <utility>

#include "base/error.h"
#include "comm/local/local_world.h"
#include "model/model.h"
#include "model/weight_coverage.h"
#include "runtime/cores.h"
#include "runtime/model_worker.h"

namespace weft::runtime {
namespace {

std::vector<RankMemoryItem> make_ledger(const exec::ExecConfig& config, const model::ModelConfig& model) {
  std::vector<RankMemoryItem> ledger;
  for (int rank = 0; rank < config.plan.parallel.tp_size; ++rank) {
    for (exec::MemoryItem& item : exec::memory_ledger(config, model, rank)) {
      ledger.push_back({rank, std::move(item.name), item.num_bytes});
    }
  }
  return ledger;
}

std::shared_ptr<model::WeightSource> open_weights(const RuntimeConfig& config) {
  if (config.load_format == "dummy") return model::open_dummy(config.seed);
  WEFT_CHECK(config.load_format == "auto" || config.load_format == "safetensors",
             "load_format='{}' is unknown; use one of: auto, safetensors, dummy", config.load_format);
  return model::open_checkpoint(config.model_path);
}

// What the rank threads share. They own it together, so that one which does not end keeps what it uses.
struct Ranks {
  exec::ExecConfig config;
  model::ModelConfig model;
  RuntimeHooks hooks;
  int num_cores = 1;
  std::shared_ptr<model::WeightSource> weights;
  model::WeightCoverage coverage;
  std::unique_ptr<comm::LocalWorld> world;

  [[nodiscard]] std::unique_ptr<device::Device> make_device(int rank) const {
#if WEFT_CUDA
    if (config.backend == device::Backend::kCuda && !hooks.make_device) {
      return device::make_cuda_device({.name = fmt::format("cuda:{}", rank), .ordinal = rank});
    }
#endif
    device::CpuOptions options{.name = fmt::format("cpu:{}", rank),
                               .num_threads = cores_of_rank(num_cores, config.plan.parallel.tp_size, rank)};
    return hooks.make_device ? hooks.make_device(rank, std::move(options))
                             : device::make_cpu_device(std::move(options));
  }

  [[nodiscard]] std::unique_ptr<comm::Communicator> make_communicator(int rank, plan::Group group,
                                                                      int channel) const {
    const plan::ParallelConfig& parallel = config.plan.parallel;
    const int size = group == plan::Group::kTp ? parallel.tp_size : parallel.attn_tp_size();
    std::vector<int> members;
    for (int r = rank / size * size; static_cast<int>(members.size()) < size; ++r) members.push_back(r);
    auto communicator =
        world->make_communicator(rank, std::string(plan::group_name(group)), members, channel);
    if (!hooks.wrap_communicator) return communicator;
    return hooks.wrap_communicator(rank, group, channel, std::move(communicator));
  }

  [[nodiscard]] std::unique_ptr<Worker> make_worker(int rank, std::function<void(const std::string&)> fail) {
    auto device = make_device(rank);
    device->on_failure(std::move(fail));
    exec::RankPeers peers;
    peers.communicator = [this, rank](plan::Group group, int channel) {
      return make_communicator(rank, group, channel);
    };
    if (hooks.wrap_dispatcher) {
      peers.wrap_dispatcher = [this, rank](std::unique_ptr<comm::Dispatcher> dispatcher) {
        return hooks.wrap_dispatcher(rank, std::move(dispatcher));
      };
    }
    return std::make_unique<ModelWorker>(rank, config, model, std::move(device), peers, *weights, coverage,
                                         cores_of_rank(num_cores, config.plan.parallel.tp_size, rank));
  }
};

}  // namespace

PipelineConfig pipeline_config(const RuntimeConfig& config, const exec::ExecConfig& exec_config,
                               const model::ModelConfig& model) {
  PipelineConfig p;
  p.plan = exec_config.plan;
  p.limits = {.max_requests = exec_config.max_seqs,
              .max_tokens = exec_config.max_tokens,
              .max_context = exec_config.max_context,
              .page_size = exec_config.page_size,
              .num_pages = exec_config.num_pages,
              .max_top_logprobs = exec_config.max_top_logprobs,
              .vocab_size = model.vocab_size};
  p.split_threshold = config.tbo_token_distribution_threshold;
  p.list_unused_pages = exec_config.poison;
  p.timeout = exec_config.timeout;
  return p;
}

std::vector<RankMemoryItem> memory_ledger(const RuntimeConfig& config) {
  const model::ModelConfig model = model::load_config(config.model_path);
  return make_ledger(resolve(config, model), model);
}

Runtime::Runtime(const RuntimeConfig& config, RuntimeHooks hooks) {
  auto ranks = std::make_shared<Ranks>();
  ranks->model = hooks.model ? *hooks.model : model::load_config(config.model_path);
  ranks->config = resolve(config, ranks->model);
  ledger_ = make_ledger(ranks->config, ranks->model);
  ranks->num_cores = config.num_threads > 0 ? config.num_threads : usable_cores();
  ranks->weights = hooks.weights ? hooks.weights : open_weights(config);
  ranks->world =
      std::make_unique<comm::LocalWorld>(ranks->config.plan.parallel.tp_size, ranks->config.timeout);
  ranks->hooks = std::move(hooks);
  vocab_size_ = ranks->model.vocab_size;
  num_pages_ = ranks->config.num_pages;

  auto steps = pipeline_config(config, ranks->config, ranks->model);
  steps.edit_input = ranks->hooks.edit_input;
  pipeline_ = std::make_unique<Pipeline>(
      std::move(steps),
      [ranks](int rank, std::function<void(const std::string&)> fail) {
        return ranks->make_worker(rank, std::move(fail));
      },
      [ranks](const std::string& reason) { ranks->world->abort(reason); });
  const std::vector<std::string> ignored = model::ignored_tensors(ranks->model);
  ranks->coverage.finish(*ranks->weights, ignored);
}

Runtime::~Runtime() = default;

uint64_t Runtime::submit(StepBatch batch) { return pipeline_->submit(std::move(batch)); }
StepResult Runtime::wait(uint64_t ticket) { return pipeline_->wait(ticket); }
Stats Runtime::stats() const { return pipeline_->stats(); }
void Runtime::trace_next_step() { pipeline_->trace_next_step(); }
std::vector<TimelineSpan> Runtime::timeline() const { return pipeline_->timeline(); }
void Runtime::close() { pipeline_->close(); }

}  // namespace weft::runtime
