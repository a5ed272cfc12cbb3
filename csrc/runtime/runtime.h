#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/dispatch.h"
#include "device/device.h"
#include "exec/rank_worker.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "plan/trace.h"
#include "runtime/config.h"
#include "runtime/pipeline.h"
#include "runtime/step.h"

namespace weft::runtime {

/// What tests put in the place of the real thing; all optional. Called on the rank's thread, but for
/// edit_input.
struct RuntimeHooks {
  std::optional<model::ModelConfig> model;       // instead of model_path's config.json
  std::shared_ptr<model::WeightSource> weights;  // instead of what load_format says
  std::function<std::unique_ptr<device::Device>(int rank, device::CpuOptions)> make_device;
  std::function<std::unique_ptr<comm::Communicator>(int rank, plan::Group group, int channel,
                                                    std::unique_ptr<comm::Communicator>)>
      wrap_communicator;
  std::function<std::unique_ptr<comm::Dispatcher>(int rank, std::unique_ptr<comm::Dispatcher>)>
      wrap_dispatcher;
  std::function<void(int dp_rank, exec::ForwardInput& input)> edit_input;  // of each step, in submit()
};

/// How steps run under a configuration and the sizes that resolve() gave it.
[[nodiscard]] PipelineConfig pipeline_config(const RuntimeConfig& config, const exec::ExecConfig& exec_config,
                                             const model::ModelConfig& model);

/// A line of the memory ledger.
struct RankMemoryItem {
  int rank = 0;
  std::string name;
  int64_t num_bytes = 0;
};
/// What every rank will allocate; reads config.json, but no weight.
[[nodiscard]] std::vector<RankMemoryItem> memory_ledger(const RuntimeConfig& config);

/// A model on N rank threads of this process. Thread-safe.
class Runtime {
 public:
  /// Checks the configuration, starts all ranks and reads the weights. Throws Error: what cannot work, before
  /// a weight is read; or the first rank's failure, when the others have ended.
  explicit Runtime(const RuntimeConfig& config, RuntimeHooks hooks = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  /// See Pipeline.
  uint64_t submit(StepBatch batch);
  StepResult wait(uint64_t ticket);
  [[nodiscard]] Stats stats() const;
  void trace_next_step();
  [[nodiscard]] std::vector<TimelineSpan> timeline() const;
  /// Ends all ranks within 2 s, steps in flight included. Idempotent; from any thread.
  void close();

  [[nodiscard]] const std::vector<RankMemoryItem>& memory_ledger() const { return ledger_; }
  [[nodiscard]] int64_t vocab_size() const { return vocab_size_; }
  [[nodiscard]] int64_t num_pages() const { return num_pages_; }  // of one DP rank

 private:
  int64_t vocab_size_ = 0;
  int64_t num_pages_ = 0;
  std::vector<RankMemoryItem> ledger_;
  std::unique_ptr<Pipeline> pipeline_;
};

}  // namespace weft::runtime
