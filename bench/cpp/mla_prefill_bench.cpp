// How fast is multi-head latent attention of a prompt on a GPU, expansion of keys and values included?
//
//   cmake -DWEFT_BUILD_BENCH=ON .. && ninja bench_mla_prefill && ./bench_mla_prefill [PEAK_TFLOPS]
//
// DeepSeek's heads (128 columns, 64 rotated, values of 128; latents of 512), bf16, one prompt behind a
// prefix. Compares with the kernel for any shape in the same run, then times a graph of several runs. Floor:
// 2 x 320 x heads x (keys that rows see) + 2 x 512 x 256 x heads x keys operations at PEAK_TFLOPS (790: an
// H100 or H200).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "device/device.h"
#include "gpu_bench.h"
#include "ops/attention.h"

namespace weft {
namespace {

using bench::as_double;
using bench::kDeadline;
using device::TensorView;

constexpr int64_t kLatent = 512;
constexpr int64_t kPageSize = 16;

struct Case {
  int64_t rows, prefix, heads;
};

/// Normal numbers times `scale`, cut to bf16.
std::vector<uint16_t> values(int64_t count, unsigned seed, float scale) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<uint16_t> out(static_cast<size_t>(count));
  for (uint16_t& x : out) {
    const float value = normal(rng);
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    x = static_cast<uint16_t>(bits >> 16);
  }
  return out;
}

class Bench {
 public:
  Bench(device::Device& device, const Case& c)
      : device_(device), case_(c), stream_(device.make_stream("compute")) {
    const int64_t keys = c.prefix + c.rows;
    const int64_t pages = (keys + kPageSize - 1) / kPageSize;
    std::vector<int32_t> page_table(static_cast<size_t>(pages));
    std::iota(page_table.begin(), page_table.end(), 0);
    std::shuffle(page_table.begin(), page_table.end(), std::mt19937(1));
    const auto q = upload(values(c.rows * c.heads * 192, 2, 1.0F), {c.rows, c.heads, 192}, DType::kBF16);
    args_.q_nope = q.columns(0, 128);
    args_.q_rope = q.columns(128, 64);
    args_.out = upload(values(c.rows * c.heads * 128, 3, 1.0F), {c.rows, c.heads, 128}, DType::kBF16);
    args_.cache = upload(values(pages * kPageSize * (kLatent + 64), 4, 1.0F),
                         {pages * kPageSize, kLatent + 64}, DType::kBF16);
    args_.w_kv_b = upload(values(c.heads * 256 * kLatent, 5, 0.05F), {c.heads, 256, kLatent}, DType::kBF16);
    args_.batch = {.cu_q = upload<int32_t>({0, static_cast<int32_t>(c.rows)}, {2}, DType::kI32).as<int32_t>(),
                   .kv_len = upload<int32_t>({static_cast<int32_t>(keys)}, {1}, DType::kI32).as<int32_t>(),
                   .page_table = upload(page_table, {pages}, DType::kI32).as<int32_t>(),
                   .num_seqs = upload<int32_t>({1}, {1}, DType::kI32).as<int32_t>(),
                   .max_seqs = 1,
                   .page_table_stride = static_cast<int32_t>(pages),
                   .page_size = kPageSize};
    args_.num_prefill_seqs = 1;
    args_.scale = 1.0F / std::sqrt(192.0F);
    args_.num_kv_tokens = keys;
    plan_ = memory(ops::prefill_plan_size(c.rows, 1), DType::kI32);
    args_.workspace = memory(ops::mla_prefill_workspace(keys, c.heads, kLatent), DType::kU8);
  }

  void plan() {
    ops::plan_prefill(*stream_, {.plan = plan_,
                                 .batch = args_.batch,
                                 .num_prefill_seqs = 1,
                                 .num_tokens = case_.rows,
                                 .num_slots = args_.cache.shape[0]});
    args_.plan = plan_;
  }
  void without_plan() { args_.plan = {}; }
  void attend() { ops::mla_prefill(*stream_, args_); }

  std::vector<uint16_t> result() {
    std::vector<uint16_t> out(static_cast<size_t>(args_.out.numel()));
    const auto host = device_.allocate_host(out.size() * 2, "result");
    stream_->copy(host.data(), args_.out.data, out.size() * 2);
    stream_->wait_idle(kDeadline);
    std::memcpy(out.data(), host.data(), out.size() * 2);
    return out;
  }

  /// Microseconds of a run among `count` in one graph: the median of five.
  double time_us(int count) {
    return bench::median_us(*stream_, count, 5, [&](int) { attend(); });
  }

  [[nodiscard]] double attention_flops() const {
    const auto n = static_cast<double>(case_.rows);
    const double pairs = n * static_cast<double>(case_.prefix) + n * (n + 1) / 2;
    return 2.0 * 320 * static_cast<double>(case_.heads) * pairs;
  }
  [[nodiscard]] double expansion_flops() const {
    return 2.0 * kLatent * 256 * static_cast<double>(case_.heads * (case_.prefix + case_.rows));
  }

 private:
  TensorView memory(int64_t count, DType dtype) {
    buffers_.push_back(device_.allocate(static_cast<size_t>(count) * dtype_size(dtype), "bench"));
    return buffers_.back().view(dtype, {count});
  }
  template <class T>
  TensorView upload(const std::vector<T>& from, std::initializer_list<int64_t> shape, DType dtype) {
    buffers_.push_back(bench::upload(device_, *stream_, from));
    return buffers_.back().view(dtype, shape);
  }

  device::Device& device_;
  Case case_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<device::Buffer> buffers_;
  ops::MlaPrefillArgs args_;
  TensorView plan_;
};

int run(double peak) {
  const auto device = device::make_cuda_device({.name = "cuda:bench"});
  fmt::print("{}; kernels with a plan: {}; floor at {} TFLOP/s\n\n", device::cuda_gpus()[0].name,
             ops::has_prefill_plan(*device) ? "FlashInfer for Hopper" : "none", peak);
  fmt::print("{:>7} {:>7} {:>5} | {:>9} {:>8} {:>8} {:>6} | {:>12} {:>6} | {:>12}\n", "rows", "prefix",
             "heads", "us", "TFLOP/s", "floor us", "frac", "any shape us", "ratio", "difference");
  bool right = true;
  for (const Case& c : {Case{1000, 300, 16}, Case{4096, 0, 16}, Case{1024, 8192, 16}, Case{8192, 0, 16},
                        Case{2048, 0, 128}}) {
    Bench bench(*device, c);
    double other = NAN;
    std::vector<uint16_t> expected;
    if (c.rows * c.heads <= 16384) {
      bench.attend();
      expected = bench.result();
      other = bench.time_us(1);
    }
    bench.plan();
    bench.attend();
    double difference = expected.empty() ? NAN : 0;
    const auto actual = bench.result();
    for (size_t i = 0; i < expected.size(); ++i) {
      const double d = std::abs(as_double(actual[i]) - as_double(expected[i]));
      difference = std::isnan(d) ? INFINITY : std::max(difference, d);
    }
    right = right && !(difference > 3e-2);  // outputs are of the order of 1
    const double us = bench.time_us(10);
    const double flops = bench.attention_flops() + bench.expansion_flops();
    const double floor = flops / peak * 1e-6;
    fmt::print("{:>7} {:>7} {:>5} | {:>9.1f} {:>8.0f} {:>8.1f} {:>6.2f} | {:>12.1f} {:>6.1f} | {:>12.1e}\n",
               c.rows, c.prefix, c.heads, us, flops / us * 1e-6, floor, floor / us, other, other / us,
               difference);
    std::fflush(stdout);
  }
  fmt::print("\n{}\n", right ? "all compared rows are right" : "WRONG: a difference above 3e-2");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) { return weft::bench::main_of(argc, argv, 790.0, &weft::run); }
