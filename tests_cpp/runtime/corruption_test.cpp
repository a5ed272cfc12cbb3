#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/math.h"
#include "support/forwarding_communicator.h"
#include "support/generation.h"

// What a user would see of a part that lies. The demo model answers held-out word problems, greedily; an
// answer is right if it is the expected one token by token, worked line and end of sequence included. Then a
// row, a shard or a page of each step is not the one that was asked for, and the accuracy of every seed must
// fall by 20 points at least.
//
// Measured in release builds, each seed's 32 problems in flight together: 100 % unharmed in all layouts; with
// two rows swapped in each combine 25 to 35 %, with a dropped shard 0 to 3 %, with one page of two sequences
// of a micro-batch exchanged 9 to 16 %.
namespace weft::runtime {
namespace {

constexpr double kUnharmed = 0.95;
constexpr double kHarmed = kUnharmed - 0.20;

// Checked and sanitizer builds are many times slower: there one seed of few problems, which still runs every
// decorator below.
#if defined(WEFT_CHECKED) || defined(__SANITIZE_THREAD__)
constexpr int kSeeds = 1;
constexpr size_t kProblems = 8;
#else
constexpr int kSeeds = 4;
constexpr size_t kProblems = 32;
#endif

constexpr int32_t kEndOfSequence = 1;
constexpr int64_t kPageSize = 16;

struct Problem {
  std::vector<int32_t> prompt, answer;
};

/// Problems of one seed, from a file that tools/demo_problems.py wrote.
std::vector<Problem> read_problems(int seed) {
  std::ifstream file(WEFT_SOURCE_DIR "/tests_cpp/runtime/demo_problems.txt");
  std::vector<Problem> problems;
  for (std::string line; std::getline(file, line) && problems.size() < kProblems;) {
    std::istringstream fields(line);
    int of_seed = -1;
    if (!(fields >> of_seed) || of_seed != seed) continue;
    Problem problem;
    for (auto* ids : {&problem.prompt, &problem.answer}) {
      fields.ignore(line.size(), ';');
      for (int32_t id = 0; fields >> id;) ids->push_back(id);
      fields.clear();
    }
    problems.push_back(std::move(problem));
  }
  EXPECT_EQ(problems.size(), kProblems) << "the file of problems has too few of seed " << seed;
  return problems;
}

struct Layout {
  const char* name;
  int tp_size;
  int dp_size;
  bool dispatched;
};
void PrintTo(const Layout& layout, std::ostream* out) { *out << layout.name; }

// DP attention and expert dispatch: both kinds of group gather and scatter in the dense layer, the
// attention-TP group in all others.
constexpr Layout kDispatched{"Tp4Dp2Dispatched", 4, 2, true};
// Tensor parallel attention alone: every layer gathers and scatters between two ranks.
constexpr Layout kTwoRanks{"Tp2Dispatched", 2, 1, true};
// All FFNs work on rows gathered from all ranks.
constexpr Layout kGathered{"Tp4Dp2Gathered", 4, 2, false};

class DemoModel {
 public:
  explicit DemoModel(const Layout& layout, const RuntimeHooks& hooks = {})
      : dp_size_(layout.dp_size), runtime_(config(layout), hooks) {}

  /// The share of right answers of each seed.
  std::vector<double> accuracy() {
    std::vector<double> of_seeds;
    for (int seed = 0; seed < kSeeds; ++seed) {
      const auto problems = read_problems(seed);
      std::vector<Admission> requests(problems.size());
      for (size_t i = 0; i < problems.size(); ++i) {
        requests[i].rid = static_cast<int64_t>(i);
        requests[i].dp_rank = static_cast<int>(i) % dp_size_;
        requests[i].input_ids = problems[i].prompt;
        requests[i].max_new_tokens = static_cast<int64_t>(problems[i].answer.size());
        requests[i].temperature = 0.0F;
        requests[i].stop_token_ids = {kEndOfSequence};
      }
      const auto answers =
          test::generate(runtime_, std::move(requests), dp_size_, {.chunk = 128, .mixed = true});
      int right = 0;
      for (const auto& [rid, answer] : answers) {
        right += answer.tokens == problems[static_cast<size_t>(rid)].answer ? 1 : 0;
      }
      of_seeds.push_back(right / static_cast<double>(kProblems));
    }
    return of_seeds;
  }
  [[nodiscard]] Stats stats() const { return runtime_.stats(); }

 private:
  static RuntimeConfig config(const Layout& layout) {
    RuntimeConfig config;
    config.model_path = WEFT_SOURCE_DIR "/python/weft/demo_model";
    config.tp_size = layout.tp_size;
    config.dp_size = layout.dp_size;
    config.enable_dp_attention = layout.dp_size > 1;
    config.ep_size = layout.dispatched ? layout.tp_size : 1;
    config.moe_a2a_backend = layout.dispatched ? "deepep" : "none";
    config.enable_two_batch_overlap = true;
    config.graph_batch_sizes = {8, 16, 32};
    config.max_tokens_per_step = 256;
    config.max_running_requests = kProblems;
    config.max_total_tokens = kProblems * 128;
    config.context_length = 128;
    config.page_size = kPageSize;
    return config;
  }

  int dp_size_;
  Runtime runtime_;
};

void expect_harmed(const std::vector<double>& of_seeds) {
  for (const double accuracy : of_seeds) EXPECT_LE(accuracy, kHarmed);
}

// ---------------------------------------------------------------------------------------------------------
// Faults. Each counts in the op that does the harm, so that a replayed graph counts too.

using Count = std::atomic<int64_t>;

struct SwapArgs {
  device::TensorView rows;  // [2, hidden]
  Count* swapped;
};

void swap_rows(const SwapArgs& args, device::ExecContext&) {
  const auto item = static_cast<int64_t>(dtype_size(args.rows.dtype));
  auto* first = static_cast<std::byte*>(args.rows.data);
  std::swap_ranges(first, first + args.rows.shape[1] * item, first + args.rows.stride[0] * item);
  *args.swapped += 2;
}

/// Swaps the first two rows of what each combine brings back.
class SwappingDispatcher final : public comm::Dispatcher {
 public:
  SwappingDispatcher(std::unique_ptr<comm::Dispatcher> inner, Count& swapped)
      : inner_(std::move(inner)), swapped_(swapped) {}
  comm::ReceivedRows dispatch(device::Stream& stream, plan::DispatchMode mode, int64_t chunk,
                              const comm::SendRows& rows) override {
    return inner_->dispatch(stream, mode, chunk, rows);
  }
  void combine(device::Stream& stream, plan::DispatchMode mode, int64_t chunk, const comm::SendRows& rows,
               const device::TensorView& out) override {
    inner_->combine(stream, mode, chunk, rows, out);
    if (out.shape[0] < 2) return;
    const auto two = out.rows(0, 2);
    stream.launch("swap_rows", swap_rows, SwapArgs{two, &swapped_}, {device::write(two)});
  }
  [[nodiscard]] int64_t received_rows() const override { return inner_->received_rows(); }

 private:
  std::unique_ptr<comm::Dispatcher> inner_;
  Count& swapped_;
};

struct DropArgs {
  device::TensorView shard;
  Count* dropped;
};

void drop_shard(const DropArgs& args, device::ExecContext&) {
  std::memset(args.shard.data, 0, args.shard.span_bytes());
  *args.dropped += 1;
}

enum class Drop { kFromGathers, kFromScatters };

/// Leaves out what the last rank of the group brings to each all-gather, or to the sum of each
/// reduce-scatter.
class DroppingCommunicator final : public test::ForwardingCommunicator {
 public:
  DroppingCommunicator(std::unique_ptr<comm::Communicator> inner, Drop drop, Count& dropped)
      : ForwardingCommunicator(std::move(inner)), drop_(drop), dropped_(dropped) {}

  void all_gather(Stream& stream, const TensorView& out, const TensorView& in) override {
    inner_->all_gather(stream, out, in);
    after_gather(stream, out, in.shape[0]);
  }
  void all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                    std::span<const int64_t> rows) override {
    inner_->all_gather_v(stream, out, in, rows);
    after_gather(stream, out, rows.back());
  }
  void reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) override {
    before_scatter(stream, in);
    inner_->reduce_scatter(stream, out, in);
  }
  void reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                        std::span<const int64_t> rows) override {
    before_scatter(stream, in);
    inner_->reduce_scatter_v(stream, out, in, rows);
  }

 private:
  void after_gather(Stream& stream, const TensorView& out, int64_t last_rows) {
    if (drop_ == Drop::kFromGathers) drop(stream, out.rows(out.shape[0] - last_rows, last_rows));
  }
  void before_scatter(Stream& stream, const TensorView& in) {
    if (drop_ == Drop::kFromScatters && rank() == size() - 1) drop(stream, in);
  }
  void drop(Stream& stream, const TensorView& shard) {
    if (shard.numel() == 0) return;
    stream.launch("drop_shard", drop_shard, DropArgs{shard, &dropped_}, {device::write(shard)});
  }

  Drop drop_;
  Count& dropped_;
};

// ---------------------------------------------------------------------------------------------------------

class CorruptionTest : public testing::TestWithParam<Layout> {
 protected:
  static void expect_harmed_by(Drop drop) {
    Count dropped{0};
    RuntimeHooks hooks;
    hooks.wrap_communicator = [&](int, plan::Group, int, std::unique_ptr<comm::Communicator> inner) {
      return std::make_unique<DroppingCommunicator>(std::move(inner), drop, dropped);
    };
    expect_harmed(DemoModel(GetParam(), hooks).accuracy());
    EXPECT_GT(dropped, 0);
  }
};

TEST_P(CorruptionTest, UnharmedAnswersAreRight) {
  DemoModel model(GetParam());
  for (const double accuracy : model.accuracy()) EXPECT_GE(accuracy, kUnharmed);
  // On the paths that the faults below break.
  for (const exec::RankCounters& rank : model.stats().ranks) {
    EXPECT_GT(rank.collective_calls[static_cast<size_t>(Collective::kAllGather)], 0);
    EXPECT_GT(rank.collective_calls[static_cast<size_t>(Collective::kReduceScatter)], 0);
    EXPECT_EQ(rank.dispatched_rows > 0, GetParam().dispatched);
    EXPECT_GT(rank.tbo_steps, 0);
    EXPECT_GT(rank.graph_replays, 0);
  }
}

TEST_P(CorruptionTest, ADroppedShardInAllGatherShows) { expect_harmed_by(Drop::kFromGathers); }

TEST_P(CorruptionTest, ADroppedShardInReduceScatterShows) { expect_harmed_by(Drop::kFromScatters); }

INSTANTIATE_TEST_SUITE_P(Layouts, CorruptionTest, testing::Values(kDispatched, kTwoRanks, kGathered),
                         [](const auto& layout) { return std::string(layout.param.name); });

TEST(DispatchedCorruptionTest, TwoRowsSwappedInCombineShow) {
  Count swapped{0};
  RuntimeHooks hooks;
  hooks.wrap_dispatcher = [&](int, std::unique_ptr<comm::Dispatcher> inner) {
    return std::make_unique<SwappingDispatcher>(std::move(inner), swapped);
  };
  expect_harmed(DemoModel(kDispatched, hooks).accuracy());
  EXPECT_GT(swapped, 0);
}

TEST(DispatchedCorruptionTest, AnEditedPageTableShows) {
  int64_t edited = 0;
  RuntimeHooks hooks;
  hooks.edit_input = [&](int, exec::ForwardInput& input) {
    for (exec::MicroBatchInput& mb : input.micro_batches) {
      if (mb.num_seqs() < 2) continue;
      // The first pages of the first two sequences trade places.
      std::swap(mb.pages[0], mb.pages[static_cast<size_t>(ceil_div<int64_t>(mb.kv_len[0], kPageSize))]);
      edited += 2;
    }
  };
  expect_harmed(DemoModel(kDispatched, hooks).accuracy());
  EXPECT_GT(edited, 0);
}

}  // namespace
}  // namespace weft::runtime
