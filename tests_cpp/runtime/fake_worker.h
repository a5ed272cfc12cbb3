#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/math.h"
#include "runtime/worker.h"

namespace weft::runtime {

/// The model of the fake ranks: the next token is a hash of all tokens before it.
struct FakeModel {
  int32_t vocab = 97;

  [[nodiscard]] static uint64_t hash(const std::vector<int32_t>& tokens) {
    uint64_t h = 1469598103934665603ULL;
    for (const int32_t t : tokens) h = (h ^ static_cast<uint64_t>(t + 1)) * 1099511628211ULL;
    return h ^ (h >> 29);
  }
  [[nodiscard]] int32_t next(const std::vector<int32_t>& tokens) const {
    return static_cast<int32_t>(hash(tokens) % static_cast<uint64_t>(vocab));
  }
  /// Of token `id` after `tokens`.
  [[nodiscard]] static float logprob(const std::vector<int32_t>& tokens, int32_t id) {
    return -static_cast<float>((hash(tokens) + static_cast<uint64_t>(id) * 7919U) % 1000U) / 100.0F;
  }
};

/// What a test wants of the fake ranks; outlives them.
struct FakeWorld {
  FakeModel model;
  int num_ranks = 1;
  int attn_tp_size = 1;
  int64_t page_size = 1;
  int64_t num_pages = 0;
  int64_t num_slots = 0;
  int32_t max_top = 0;
  std::chrono::microseconds work{0};
  // Called before each call of a rank; may throw.
  std::function<void(int rank, const std::string& call, int64_t count)> on_call;
  std::atomic<bool> aborted{false};
  std::atomic<int> num_alive{0};
  std::mutex mutex;
  std::string abort_reason;
  int num_aborts = 0;
  std::vector<std::string> log;  // "enqueue 0 3": rank 0, step 3

  void abort(const std::string& reason) {
    const std::lock_guard lock(mutex);
    ++num_aborts;
    if (abort_reason.empty()) abort_reason = reason;
    aborted = true;
  }
};

/// A rank without a model: it keeps tokens where K and V would stand, and throws whatever breaks a promise of
/// exec::ForwardInput: a gap in the positions, a page that was overwritten, a row without its cache.
class FakeWorker : public Worker {
 public:
  FakeWorker(int rank, FakeWorld& world)
      : rank_(rank),
        world_(world),
        cache_(static_cast<size_t>(world.page_size * world.num_pages), {-1, -1}),
        last_token_(static_cast<size_t>(world.num_slots), -1) {
    ++world_.num_alive;
  }
  ~FakeWorker() override {
    check_drained();
    --world_.num_alive;
  }

  void enqueue(const plan::StepPlan& plan, const exec::ForwardInput& input) override {
    call("enqueue", static_cast<int64_t>(plan.step_id));
    WEFT_CHECK(queue_.size() < 2, "three steps are uncollected");
    queue_.push_back({&plan, &input});
  }

  exec::ForwardOutput collect() override {
    WEFT_CHECK(!queue_.empty(), "nothing to collect");
    const auto [plan, input] = queue_.front();
    call("collect", static_cast<int64_t>(plan->step_id));
    if (world_.work.count() > 0) std::this_thread::sleep_for(world_.work);
    exec::ForwardOutput output = run(*plan, *input);
    queue_.pop_front();
    counters_.steps_by_mode[static_cast<size_t>(plan->modes[dp_rank()])] += 1;
    counters_.tbo_steps += plan->tbo ? 1 : 0;
    return rank_ % world_.attn_tp_size == 0 ? std::move(output) : exec::ForwardOutput{};
  }

  void drain() noexcept override {
    queue_.clear();
    drained_ = true;
  }
  [[nodiscard]] exec::RankCounters counters() const override { return counters_; }
  void start_trace() override {
    WEFT_CHECK(queue_.empty(), "a traced step does not run alone");
    tracing_ = true;
  }
  [[nodiscard]] std::vector<device::OpSpan> take_trace() override {
    WEFT_CHECK(std::exchange(tracing_, false) && queue_.empty(), "no step was traced alone");
    return {
        {.stream = "compute", .name = "late", .tag = 1, .start_us = 107.0 + rank_, .end_us = 109.0 + rank_},
        {.stream = "compute", .name = "early", .tag = 0, .start_us = 104.0 + rank_, .end_us = 106.0 + rank_}};
  }

 private:
  struct Uncollected {
    const plan::StepPlan* plan;
    const exec::ForwardInput* input;
  };
  struct Cached {
    int32_t position, token;
  };

  void check_drained() const noexcept {
    if (!drained_) std::terminate();  // destroyed while it may still run
  }
  [[nodiscard]] size_t dp_rank() const { return static_cast<size_t>(rank_ / world_.attn_tp_size); }

  void call(const std::string& name, int64_t count) {
    {
      const std::lock_guard lock(world_.mutex);
      world_.log.push_back(fmt::format("{} {} {}", name, rank_, count));
    }
    if (world_.on_call) world_.on_call(rank_, name, count);
    WEFT_CHECK(!world_.aborted, "{} was aborted", name);
  }

  exec::ForwardOutput run(const plan::StepPlan& plan, const exec::ForwardInput& input) {
    std::array<std::vector<std::vector<int32_t>>, 2> contexts;  // by micro-batch and row: tokens up to it
    for (size_t m = 0; m < 2; ++m) {
      const int64_t planned = m < plan.micro_batches.size() ? plan.micro_batches[m].num_tokens[dp_rank()] : 0;
      WEFT_CHECK(input.micro_batches[m].num_tokens() == planned,
                 "micro-batch {} has {} tokens, the plan says {}", m, input.micro_batches[m].num_tokens(),
                 planned);
      contexts[m] = run_micro_batch(input.micro_batches[m]);
    }
    exec::ForwardOutput output;
    output.max_top = world_.max_top;
    int last_row = -1;
    for (const exec::LogitRow& row : input.logit_rows) {
      const int at = row.micro_batch * 1000000 + row.row;
      WEFT_CHECK(at > last_row, "logit rows are out of order");
      last_row = at;
      add_output(row, contexts.at(static_cast<size_t>(row.micro_batch)).at(static_cast<size_t>(row.row)),
                 output);
    }
    return output;
  }

  void add_output(const exec::LogitRow& row, const std::vector<int32_t>& context,
                  exec::ForwardOutput& output) {
    const int32_t token = row.slot >= 0 ? world_.model.next(context) : -1;
    const int32_t wanted = row.target >= 0 ? row.target : token;
    WEFT_CHECK(row.slot < 0 || row.sampling.position == static_cast<int64_t>(context.size()),
               "a token is sampled for position {}, not {}", row.sampling.position, context.size());
    output.tokens.push_back(token);
    output.logprobs.push_back(row.want_logprob ? FakeModel::logprob(context, wanted) : 0.0F);
    for (int32_t i = 0; i < world_.max_top; ++i) {
      output.top_ids.push_back(i < row.num_top ? i : -1);
      output.top_logprobs.push_back(i < row.num_top ? FakeModel::logprob(context, i) : 0.0F);
    }
    if (row.slot >= 0) last_token_.at(static_cast<size_t>(row.slot)) = token;
  }

  std::vector<std::vector<int32_t>> run_micro_batch(const exec::MicroBatchInput& in) {
    WEFT_CHECK(in.cu_q.size() == in.kv_len.size() + 1 && in.cu_q[0] == 0, "cu_q does not fit kv_len");
    write_cache(in);
    std::vector<std::vector<int32_t>> contexts;
    size_t page_begin = 0;
    for (size_t s = 0; s < in.kv_len.size(); ++s) {
      const std::vector<int32_t> tokens = read_sequence(in, s, page_begin);
      page_begin += static_cast<size_t>(ceil_div<int64_t>(in.kv_len[s], world_.page_size));
      WEFT_CHECK(in.cu_q[s + 1] > in.cu_q[s], "sequence {} has no rows", s);
      for (int32_t row = in.cu_q[s]; row < in.cu_q[s + 1]; ++row) {
        const int32_t position = in.positions[static_cast<size_t>(row)];
        WEFT_CHECK(position == in.kv_len[s] - (in.cu_q[s + 1] - row), "row {} has position {}", row,
                   position);
        contexts.emplace_back(tokens.begin(), tokens.begin() + position + 1);
      }
    }
    WEFT_CHECK(page_begin == in.pages.size(), "{} pages for {} needed", in.pages.size(), page_begin);
    WEFT_CHECK(contexts.size() == in.ids.size(), "{} rows in {} sequences", in.ids.size(), in.kv_len.size());
    return contexts;
  }

  void write_cache(const exec::MicroBatchInput& in) {
    std::set<int32_t> written;
    for (size_t t = 0; t < in.ids.size(); ++t) {
      const int32_t id = in.ids[t] >= 0 ? in.ids[t] : last_token_.at(static_cast<size_t>(-in.ids[t] - 1));
      WEFT_CHECK(id >= 0, "row {} takes the last token of a slot that has none", t);
      WEFT_CHECK(written.insert(in.kv_slots[t]).second, "two rows write KV slot {}", in.kv_slots[t]);
      cache_.at(static_cast<size_t>(in.kv_slots[t])) = {in.positions[t], id};
    }
  }

  [[nodiscard]] std::vector<int32_t> read_sequence(const exec::MicroBatchInput& in, size_t seq,
                                                   size_t page_begin) const {
    std::vector<int32_t> tokens;
    for (int32_t p = 0; p < in.kv_len[seq]; ++p) {
      const int64_t page = in.pages.at(page_begin + static_cast<size_t>(p / world_.page_size));
      const Cached& cached = cache_.at(static_cast<size_t>(page * world_.page_size + p % world_.page_size));
      WEFT_CHECK(cached.position == p, "position {} of a sequence is not in its page {}", p, page);
      tokens.push_back(cached.token);
    }
    return tokens;
  }

  int rank_;
  FakeWorld& world_;
  std::vector<Cached> cache_;
  std::vector<int32_t> last_token_;
  std::deque<Uncollected> queue_;
  bool drained_ = false;
  bool tracing_ = false;
  exec::RankCounters counters_;
};

}  // namespace weft::runtime
