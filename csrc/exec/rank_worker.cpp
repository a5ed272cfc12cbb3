#include "exec/rank_worker.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "exec/forward_pass.h"
#include "exec/graph_runner.h"
#include "exec/rank_buffers.h"
#include "model/rope_table.h"
#include "ops/copy_words.h"

namespace weft::exec {
namespace {

// Copies of this size run at the link's full rate.
constexpr int64_t kStagingBlockBytes = int64_t{8} << 20;

/// Throws unless what the rank enqueued is what the plan predicted.
void check_trace(const std::vector<plan::CollectiveRecord>& expected,
                 const std::vector<plan::CollectiveRecord>& actual, int rank, uint64_t step_id) {
  const size_t n = std::max(expected.size(), actual.size());
  for (size_t i = 0; i < n; ++i) {
    if (i < expected.size() && i < actual.size() && expected[i] == actual[i]) continue;
    WEFT_THROW("step {}: rank {} left the plan at collective {}: planned {}, ran {}", step_id, rank, i,
               i < expected.size() ? expected[i].describe() : "nothing",
               i < actual.size() ? actual[i].describe() : "nothing");
  }
}

}  // namespace

plan::ModelShape model_shape(const ExecConfig& config, const model::ModelConfig& model) {
  plan::ModelShape shape;
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) shape.sparse_pattern.push_back(model.is_sparse(i));
  shape.hidden = model.hidden_size;
  shape.vocab = model.vocab_size;
  shape.dtype = config.dtype;
  shape.latent_width = model.is_mla() ? model.mla->latent_width() : 0;
  shape.has_shared_experts = model.moe.n_shared_experts > 0;
  return shape;
}

/// Allocates named device memory and keeps it.
class RankMemory {
 public:
  explicit RankMemory(device::Device& device) : device_(device) {}
  void* allocate(std::string_view name, int64_t num_bytes) {
    buffers_.push_back(device_.allocate(static_cast<size_t>(num_bytes), name));
    return buffers_.back().data();
  }
  [[nodiscard]] const std::vector<device::Buffer>& buffers() const { return buffers_; }

 private:
  device::Device& device_;
  std::vector<device::Buffer> buffers_;
};

class RankWorker::Impl {
 public:
  Impl(int rank, ExecConfig config, const model::ModelConfig& model_config, device::Device& device,
       const RankPeers& peers)
      : rank_(rank),
        config_(std::move(config)),
        model_config_(with_dtype(model_config, config_.dtype)),
        shape_(model_shape(config_, model_config_)),
        sizes_(config_, model_config_),
        memory_(device),
        model_(model::make_model(model_config_, config_.plan.parallel, rank, weights_)),
        buffers_(
            config_, model_config_, model_, sizes_,
            [this](std::string_view name, int64_t num_bytes) { return memory_.allocate(name, num_bytes); }),
        weight_memory_(memory_.allocate("weights", weights_.num_bytes())),
        inputs_(device, InputLayout(sizes_.inputs), buffers_.inputs),
        marks_(buffers_.stamps.as<uint64_t>()) {
    weights_.bind(weight_memory_);
    compute_ = device.make_stream("compute");
    if (config_.plan.parallel.enable_two_batch_overlap) comm_stream_ = device.make_stream("comm");
    connect(device, peers);
    const int64_t rows = sizes_.logit_rows;
    const int64_t max_top = buffers_.top_ids.shape[1];
    for (auto& turn : turns_) {
      turn.done = device.make_event();
      turn.output = device.allocate_host(static_cast<size_t>(rows * (2 + 2 * max_top) * 4), "output_staging");
      turn.stamps = device.allocate_host(buffers_.stamps.span_bytes() + sizeof(uint64_t), "stamp_staging");
    }
    fill_rope_table(device);
    compute_->fill(buffers_.last_tokens.data, 0, buffers_.last_tokens.span_bytes());
    compute_->fill(buffers_.stamps.data, 0, buffers_.stamps.span_bytes());
    inputs_.clear(*compute_);
    compute_->wait_idle(config_.timeout);
    pass_.emplace(config_, model_config_, model_, weights_, sizes_, buffers_, inputs_, comm_, ledger_, marks_,
                  rank_);
  }

  void load(model::WeightSource& source, model::WeightCoverage& coverage, int num_threads) {
    device::Device& device = compute_->device();
    if (device.host_can_write()) {
      weights_.load(source, coverage);
      return;
    }
    const int64_t needed = ceil_div(weights_.num_bytes(), kStagingBlockBytes) + 1;
    const int64_t num_blocks = std::min<int64_t>(2 * std::max(1, num_threads), round_up<int64_t>(needed, 2));
    const auto host =
        device.allocate_host(static_cast<size_t>(num_blocks * kStagingBlockBytes), "weight_staging");
    model::WeightStaging staging;
    staging.block_bytes = kStagingBlockBytes;
    std::vector<std::unique_ptr<device::Event>> sent;
    for (int64_t block = 0; block < num_blocks; ++block) {
      staging.blocks.push_back(static_cast<std::byte*>(host.data()) + block * kStagingBlockBytes);
      sent.push_back(device.make_event());
    }
    staging.send = [&](size_t block, void* to, int64_t num_bytes) {
      compute_->copy(to, staging.blocks[block], static_cast<size_t>(num_bytes));
      compute_->record(*sent[block]);
    };
    staging.wait = [&](size_t block) { sent[block]->wait_idle(config_.timeout); };
    weights_.load(source, coverage, &staging);
  }

  void capture_graphs() {
    const auto& buckets = config_.plan.graph_buckets;
    for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {
      plan::RankState state;
      state.config_hash = config_.plan.hash();
      state.mode = plan::ForwardMode::kDecode;
      state.num_tokens = state.num_seqs = state.num_logit_rows = *bucket;
      state.split_tokens[0] = (*bucket + 1) / 2;
      state.split_tokens[1] = *bucket / 2;
      const std::vector<plan::RankState> states(static_cast<size_t>(config_.plan.parallel.attn_dp_size()),
                                                state);
      const plan::StepPlan plan = plan::make_step_plan(states, config_.plan);
      const int64_t rows = plan.graph_bucket[dp_rank()];
      if (rows == 0) continue;
      static_cast<void>(graphs_.capture(*compute_, graph_key(plan, rows), [&] { return capture(plan); }));
    }
    compute_->wait_idle(config_.timeout);
  }

  void enqueue(const plan::StepPlan& plan, const ForwardInput& input) {
    WEFT_CHECK(pending_.size() < turns_.size(),
               "rank {}: {} steps are uncollected already; collect one first", rank_, pending_.size());
    const auto start = std::chrono::steady_clock::now();
    const size_t index = next_turn_;
    Turn& turn = turns_[index];
    turn.in_time = !pending_.empty();
    if (config_.poison) poison(input);
    inputs_.upload(*compute_, static_cast<int>(index), plan, config_, rank_, input);
    const int64_t bucket = plan.graph_bucket[dp_rank()];
    if (bucket > 0) {
      const auto& captured =
          graphs_.replay(*compute_, graph_key(plan, bucket), [&] { return capture(plan); });
      turn.trace_hash = captured.trace_hash;
      turn.groups = captured.step.groups;
      count_collectives(captured.step.records);
    } else {
      ForwardPass::Host host;
      for (size_t m = 0; m < plan.micro_batches.size(); ++m) {
        const auto& in = input.micro_batches[m];
        host.num_seqs[m] = in.num_seqs();
        host.num_prefill_seqs[m] = in.num_prefill_seqs;
        host.num_prefill_kv_tokens[m] =
            std::accumulate(in.kv_len.begin(), in.kv_len.begin() + in.num_prefill_seqs, int64_t{0});
        host.num_prefill_rows[m] = in.num_seqs() == 0 ? 0 : in.cu_q[static_cast<size_t>(in.num_prefill_seqs)];
      }
      EnqueuedStep step = run_checked(plan, host);
      turn.trace_hash = plan::shared_trace_hash(step.records);
      turn.groups = std::move(step.groups);
      count_collectives(step.records);
    }
    download(turn, input);
    count(plan);
    if (bucket > 0) {
      ++counters_.graph_replays;
      counters_.replay_host_us +=
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    }
    pending_.push_back(index);
    next_turn_ = (next_turn_ + 1) % turns_.size();
  }

  StepDone collect() {
    WEFT_CHECK(!pending_.empty(), "rank {}: no step to collect", rank_);
    Turn& turn = turns_[pending_.front()];
    pending_.pop_front();
    turn.done->wait_idle(config_.timeout);
    const auto* stamps = static_cast<const uint64_t*>(turn.stamps.data());
    counters_.stages.add(turn.groups, stamps + 1, stamps[0], turn.in_time);
    StepDone done;
    done.trace_hash = turn.trace_hash;
    if (config_.plan.parallel.attn_tp_rank(rank_) != 0) return done;
    const auto* base = static_cast<const int32_t*>(turn.output.data());
    const int64_t rows = turn.rows;
    const int64_t max_top = turn.with_top ? buffers_.top_ids.shape[1] : 0;
    done.output.tokens.assign(base, base + rows);
    const auto* logprobs = reinterpret_cast<const float*>(base + sizes_.logit_rows);
    if (turn.with_logprobs) {
      done.output.logprobs.assign(logprobs, logprobs + rows);
    } else {
      done.output.logprobs.assign(static_cast<size_t>(rows), 0.0F);
    }
    const auto* ids = base + 2 * sizes_.logit_rows;
    done.output.top_ids.assign(ids, ids + rows * max_top);
    const auto* tops = reinterpret_cast<const float*>(ids + sizes_.logit_rows * buffers_.top_ids.shape[1]);
    done.output.top_logprobs.assign(tops, tops + rows * max_top);
    done.output.max_top = static_cast<int32_t>(max_top);
    return done;
  }

  void drain() noexcept {
    // A failed device lets go of who waits at once, while an op of another stream may still read a peer's
    // memory. The end of a stream waits for its thread.
    comm_stream_.reset();
    compute_.reset();
  }

  [[nodiscard]] RankCounters counters() const {
    auto counters = counters_;
    counters.graph_captures = static_cast<int64_t>(graphs_.num_graphs());
    counters.graph_capture_us = graphs_.capture_us();
    counters.graph_bytes = graphs_.num_bytes();
    for (const auto& dispatcher : comm_.dispatchers) {
      if (dispatcher != nullptr) counters.dispatched_rows += dispatcher->received_rows();
    }
    return counters;
  }

 private:
  struct Turn {
    std::unique_ptr<device::Event> done;
    device::Buffer output;           // tokens, logprobs, top ids, top logprobs
    device::Buffer stamps;           // u64: when the logits were done, then RankBuffers::stamps
    std::vector<StageGroup> groups;  // of `stamps`
    bool in_time = false;            // enqueued before the step before it was collected
    int64_t rows = 0;
    bool with_logprobs = false;
    bool with_top = false;
    uint64_t trace_hash = 0;
  };

  static model::ModelConfig with_dtype(model::ModelConfig config, DType dtype) {
    config.dtype = dtype;
    return config;
  }

  [[nodiscard]] size_t dp_rank() const {
    return static_cast<size_t>(config_.plan.parallel.attn_dp_rank(rank_));
  }

  void connect(device::Device& device, const RankPeers& peers) {
    comm_.compute = compute_.get();
    comm_.comm = comm_stream_.get();
    const size_t num_channels = comm_stream_ != nullptr ? 2 : 1;
    const auto make = [&](plan::Group group, int channel) {
      return std::make_unique<LedgerCommunicator>(peers.communicator(group, channel), group, ledger_);
    };
    for (size_t c = 0; c < num_channels; ++c) {
      comm_.fork[c] = device.make_event();
      comm_.join[c] = device.make_event();
      comm_.tp[c] = make(plan::Group::kTp, static_cast<int>(c));
      comm_.attn_tp[c] = make(plan::Group::kAttnTp, static_cast<int>(c));
      if (!sizes_.dispatched) continue;
      const auto& mb = buffers_.micro_batches[c];
      comm_.dispatch_group[c] = make(plan::Group::kTp, static_cast<int>(2 + c));
      comm_.dispatchers[c] = comm::make_dispatcher(sizes_.dispatch, *comm_.dispatch_group[c],
                                                   mb.dispatch_control, mb.dispatch_rows);
      if (peers.wrap_dispatcher)
        comm_.dispatchers[c] = peers.wrap_dispatcher(std::move(comm_.dispatchers[c]));
    }
  }

  void fill_rope_table(device::Device& device) {
    const auto table = buffers_.cos_sin;
    const auto host = device.allocate_host(table.span_bytes(), "rope_staging");
    model::fill_rope_table(model_config_.rope, host.view(DType::kF32, {table.shape[0], table.shape[1]}));
    compute_->copy(table.data, host.data(), table.span_bytes());
    compute_->wait_idle(config_.timeout);
  }

  [[nodiscard]] static GraphKey graph_key(const plan::StepPlan& plan, int64_t bucket) {
    return {bucket, plan.tbo, plan.dispatch, plan.micro_batches[0].expert_chunks};
  }

  EnqueuedStep capture(const plan::StepPlan& plan) {
    ForwardPass::Host host;
    for (size_t m = 0; m < plan.micro_batches.size(); ++m) {
      host.num_seqs[m] = std::min(plan.micro_batches[m].rows[dp_rank()], config_.max_seqs);
    }
    return run_checked(plan, host);
  }

  /// Enqueues the stages and proves that their collectives are the planned ones.
  EnqueuedStep run_checked(const plan::StepPlan& plan, const ForwardPass::Host& host) {
    ledger_.clear();
    pass_->run(plan, host);
    auto records = ledger_.take();
    check_trace(plan::step_trace(plan, config_.plan, shape_, rank_), records, rank_, plan.step_id);
    return {.records = std::move(records), .groups = marks_.groups()};
  }

  void download(Turn& turn, const ForwardInput& input) {
    turn.rows = static_cast<int64_t>(input.logit_rows.size());
    turn.with_top = std::any_of(input.logit_rows.begin(), input.logit_rows.end(),
                                [](const LogitRow& row) { return row.num_top > 0; });
    turn.with_logprobs = std::any_of(input.logit_rows.begin(), input.logit_rows.end(),
                                     [](const LogitRow& row) { return row.want_logprob; });
    // Ranks that hand out no tokens still tell their times.
    const int64_t rows = config_.plan.parallel.attn_tp_rank(rank_) == 0 ? turn.rows : 0;
    auto* base = static_cast<int32_t*>(turn.output.data());
    const int64_t max_top = buffers_.top_ids.shape[1];
    const int64_t tops = turn.with_top ? rows * max_top : 0;
    auto* ids = base + 2 * sizes_.logit_rows;
    auto* stamps = static_cast<uint64_t*>(turn.stamps.data());
    compute_->stamp_next(stamps);
    ops::copy_words(
        *compute_,
        {.copies = {{{base, buffers_.tokens.data, rows},
                     {base + sizes_.logit_rows, buffers_.logprobs.data, turn.with_logprobs ? rows : 0},
                     {ids, buffers_.top_ids.data, tops},
                     {ids + sizes_.logit_rows * max_top, buffers_.top_logprobs.data, tops},
                     {stamps + 1, buffers_.stamps.data, 2 * static_cast<int64_t>(turn.groups.size())}}}});
    compute_->record(*turn.done);
  }

  /// NaN wherever this step must not look: work buffers, pages without an owner, the tails of last pages.
  void poison(const ForwardInput& input) {
    for (const auto& buffer : memory_.buffers()) {
      if (buffer.name().rfind("work/", 0) == 0) compute_->fill(buffer.data(), 0xff, buffer.num_bytes());
    }
    const auto fill_slots = [&](int64_t first, int64_t count) {
      for (const auto& layer : buffers_.kv) {
        for (const auto& cache : {layer.k, layer.v, layer.latent}) {
          if (!cache.defined() || count == 0) continue;
          const auto slots = cache.rows(first, count);
          compute_->fill(slots.data, 0xff, slots.span_bytes());
        }
      }
    };
    for (const int32_t page : input.unused_pages) fill_slots(page * config_.page_size, config_.page_size);
    for (const auto& mb : input.micro_batches) {
      const int32_t* pages = mb.pages.data();
      for (const int32_t length : mb.kv_len) {
        const int64_t count = ceil_div<int64_t>(length, config_.page_size);
        const int64_t used = length - (count - 1) * config_.page_size;
        fill_slots(pages[count - 1] * config_.page_size + used, config_.page_size - used);
        pages += count;
      }
    }
  }

  void count_collectives(const std::vector<plan::CollectiveRecord>& records) {
    for (const auto& record : records) {
      const auto op = static_cast<size_t>(record.op);
      ++counters_.collective_calls[op];
      counters_.collective_bytes[op] += record.count * static_cast<int64_t>(dtype_size(record.dtype));
    }
  }

  void count(const plan::StepPlan& plan) {
    const auto mode = static_cast<size_t>(plan.modes[dp_rank()]);
    ++counters_.steps_by_mode[mode];
    ++counters_.dispatch_steps[static_cast<size_t>(plan.dispatch)];
    if (plan.graph_bucket[dp_rank()] == 0) {
      ++counters_.graph_misses[static_cast<size_t>(plan.graph_miss[dp_rank()])];
    }
    if (plan.layernorm_sp) ++counters_.layernorm_sp_steps;
    if (plan.tbo) {
      ++counters_.tbo_steps;
      ++counters_.tbo_steps_by_mode[mode];
      const auto has_rows = [](plan::ForwardMode m) { return !plan::has_no_rows(m); };
      const auto first = std::find_if(plan.modes.begin(), plan.modes.end(), has_rows);
      const bool unlike = std::any_of(first, plan.modes.end(),
                                      [&](plan::ForwardMode m) { return has_rows(m) && m != *first; });
      if (unlike) ++counters_.tbo_unlike_mode_steps;
    }
    int64_t chunks = 1;
    for (const auto& mb : plan.micro_batches) {
      counters_.real_tokens += mb.num_tokens[dp_rank()];
      counters_.padded_tokens += mb.rows[dp_rank()] - mb.num_tokens[dp_rank()];
      chunks = std::max(chunks, mb.expert_chunks);
    }
    if (chunks > 1) ++counters_.multi_chunk_steps;
  }

  // In order of need: graphs go before streams, streams before memory.
  int rank_;
  ExecConfig config_;
  model::ModelConfig model_config_;
  plan::ModelShape shape_;
  RankSizes sizes_;
  RankMemory memory_;
  model::WeightMap weights_;
  model::Model model_;
  RankBuffers buffers_;
  void* weight_memory_;
  InputBuffers inputs_;
  StageMarks marks_;
  Ledger ledger_;
  std::unique_ptr<device::Stream> compute_, comm_stream_;
  RankComm comm_;
  std::array<Turn, 2> turns_;
  std::deque<size_t> pending_;
  size_t next_turn_ = 0;
  RankCounters counters_;
  std::optional<ForwardPass> pass_;
  GraphRunner graphs_;
};

std::vector<MemoryItem> memory_ledger(const ExecConfig& config, const model::ModelConfig& model_config,
                                      int rank) {
  auto typed = model_config;
  typed.dtype = config.dtype;
  model::WeightMap weights;
  const auto model = model::make_model(typed, config.plan.parallel, rank, weights);
  std::vector<MemoryItem> items;
  items.push_back({"weights", weights.num_bytes()});
  const RankBuffers counted(config, typed, model, RankSizes(config, typed),
                            [&](std::string_view name, int64_t num_bytes) -> void* {
                              items.push_back({std::string(name), num_bytes});
                              return nullptr;
                            });
  return items;
}

RankWorker::RankWorker(int rank, ExecConfig config, const model::ModelConfig& model, device::Device& device,
                       const RankPeers& peers)
    : impl_(std::make_unique<Impl>(rank, std::move(config), model, device, peers)) {}

RankWorker::~RankWorker() = default;

void RankWorker::load(model::WeightSource& source, model::WeightCoverage& coverage, int num_threads) {
  impl_->load(source, coverage, num_threads);
}

void RankWorker::capture_graphs() { impl_->capture_graphs(); }

void RankWorker::enqueue(const plan::StepPlan& plan, const ForwardInput& input) {
  impl_->enqueue(plan, input);
}

StepDone RankWorker::collect() { return impl_->collect(); }

void RankWorker::drain() noexcept { impl_->drain(); }

RankCounters RankWorker::counters() const { return impl_->counters(); }

}  // namespace weft::exec
