#include "exec/inputs.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <vector>

#include "device/device.h"

namespace weft::exec {
namespace {

/// The first micro-batch of a rank: prompts, then sequences with a row each; kv_len: of all of them.
ForwardInput make_input(const std::vector<int32_t>& kv_len, int32_t num_prefill_seqs) {
  ForwardInput input;
  MicroBatchInput& batch = input.micro_batches[0];
  batch.kv_len = kv_len;
  batch.num_prefill_seqs = num_prefill_seqs;
  batch.cu_q.assign(1, 0);
  for (size_t s = 0; s < kv_len.size(); ++s) {
    const int32_t q_len = static_cast<int32_t>(s) < num_prefill_seqs ? kv_len[s] : 1;
    for (int32_t i = 0; i < q_len; ++i) {
      batch.ids.push_back(3);
      batch.positions.push_back(kv_len[s] - q_len + i);
      batch.kv_slots.push_back(0);
    }
    batch.cu_q.push_back(static_cast<int32_t>(batch.ids.size()));
    batch.pages.insert(batch.pages.end(), static_cast<size_t>((kv_len[s] + 3) / 4), 0);
  }
  return input;
}

class InputBuffersTest : public ::testing::Test {
 protected:
  InputBuffersTest() { buffers_.clear(*stream_); }

  /// SequenceBatch::order after a step, as far as there are sequences.
  std::vector<int32_t> order_after(const std::vector<int32_t>& kv_len, int32_t num_prefill_seqs) {
    const ForwardInput input = make_input(kv_len, num_prefill_seqs);
    const int64_t rows = input.micro_batches[0].num_tokens();
    plan::StepPlan plan;
    plan.micro_batches = {{.num_tokens = {rows}, .rows = {rows}, .start = {0}}};
    plan.logit_rows = {0};
    ExecConfig config;
    config.page_size = 4;
    buffers_.upload(*stream_, turn_, plan, config, 0, input);
    turn_ ^= 1;
    stream_->wait_idle(std::chrono::seconds(10));
    const int32_t* order = buffers_.sequences(0, 8, 4).order;
    return {order, order + kv_len.size()};
  }

 private:
  std::unique_ptr<device::Device> device_ = device::make_cpu_device({.name = "cpu:test", .num_threads = 1});
  std::unique_ptr<device::Stream> stream_ = device_->make_stream("compute");
  InputLayout layout_{{.max_tokens = 64, .max_seqs = 8, .max_pages = 16, .max_logit_rows = 4}};
  device::Buffer block_ = device_->allocate(static_cast<size_t>(layout_.num_bytes), "inputs");
  InputBuffers buffers_{*device_, layout_, block_.data()};
  int turn_ = 0;
};

TEST_F(InputBuffersTest, TheOrderOfSequencesIsThatOfFallingLengthBehindThePrompts) {
  EXPECT_EQ(order_after({5, 40, 7, 40}, 0), (std::vector<int32_t>{1, 3, 2, 0}));
  EXPECT_EQ(order_after({6, 41, 8, 41}, 0), (std::vector<int32_t>{1, 3, 2, 0}));
  EXPECT_EQ(order_after({2, 9, 5, 40, 7, 41}, 2), (std::vector<int32_t>{0, 1, 5, 3, 4, 2}));
  EXPECT_EQ(order_after({9, 2}, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(order_after({1}, 0), (std::vector<int32_t>{0}));
  EXPECT_TRUE(order_after({}, 0).empty());
}

}  // namespace
}  // namespace weft::exec
