// How fast is causal attention of prompts on a GPU, against the peak of its tensor cores and the kernel for
// any shape?
//
//   cmake -DWEFT_BUILD_BENCH=ON .. && ninja bench_prefill_attention && ./bench_prefill_attention
//   [PEAK_TFLOPS]
//
// Checks some rows against f64 first, then times a graph of several runs, bf16, head_dim 128. Floor: 4 x 128
// x query heads x (keys that rows see) operations at PEAK_TFLOPS (790: an H100 or H200). "any shape": without
// a plan.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
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

constexpr int64_t kHeadDim = 128;

struct Case {
  std::vector<int64_t> rows;  // of each prompt
  int64_t prefix;
  int64_t q_heads, kv_heads, page_size;
};

float value_at(uint64_t index) {
  uint64_t hash = (index + 1) * 0x9e3779b97f4a7c15U;
  hash = (hash ^ (hash >> 31)) * 0xbf58476d1ce4e5b9U;
  return static_cast<float>(static_cast<int>(hash >> 56) - 128) / 128.0F;  // exact in bf16
}

uint16_t as_bf16(float exact) {
  uint32_t bits = 0;
  std::memcpy(&bits, &exact, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

/// One case with its memory, filled.
class Bench {
 public:
  Bench(device::Device& device, Case c)
      : device_(device), case_(std::move(c)), stream_(device.make_stream("compute")) {
    num_seqs_ = static_cast<int64_t>(case_.rows.size());
    num_rows_ = std::accumulate(case_.rows.begin(), case_.rows.end(), int64_t{0});
    const int64_t longest = case_.prefix + *std::max_element(case_.rows.begin(), case_.rows.end());
    stride_ = (longest + case_.page_size - 1) / case_.page_size;
    std::vector<int32_t> cu_q = {0};
    std::vector<int32_t> kv_len;
    for (const int64_t rows : case_.rows) {
      cu_q.push_back(cu_q.back() + static_cast<int32_t>(rows));
      kv_len.push_back(static_cast<int32_t>(case_.prefix + rows));
    }
    page_table_.resize(static_cast<size_t>(num_seqs_ * stride_));
    std::iota(page_table_.begin(), page_table_.end(), 0);
    std::shuffle(page_table_.begin(), page_table_.end(), std::mt19937(1));
    const int64_t slots = num_seqs_ * stride_ * case_.page_size;
    q_host_ = values(num_rows_ * case_.q_heads * kHeadDim, 1);
    k_host_ = values(slots * case_.kv_heads * kHeadDim, 2);
    v_host_ = values(slots * case_.kv_heads * kHeadDim, 3);
    args_.q = upload(q_host_, {num_rows_, case_.q_heads, kHeadDim}, DType::kBF16);
    args_.out = upload(std::vector<uint16_t>(q_host_.size(), 0x7fc0), {num_rows_, case_.q_heads, kHeadDim},
                       DType::kBF16);
    args_.k_cache = upload(k_host_, {slots, case_.kv_heads, kHeadDim}, DType::kBF16);
    args_.v_cache = upload(v_host_, {slots, case_.kv_heads, kHeadDim}, DType::kBF16);
    args_.batch = {
        .cu_q = upload(cu_q, {num_seqs_ + 1}, DType::kI32).as<int32_t>(),
        .kv_len = upload(kv_len, {num_seqs_}, DType::kI32).as<int32_t>(),
        .page_table = upload(page_table_, {num_seqs_ * stride_}, DType::kI32).as<int32_t>(),
        .num_seqs =
            upload(std::vector<int32_t>{static_cast<int32_t>(num_seqs_)}, {1}, DType::kI32).as<int32_t>(),
        .max_seqs = static_cast<int32_t>(num_seqs_),
        .page_table_stride = static_cast<int32_t>(stride_),
        .page_size = static_cast<int32_t>(case_.page_size)};
    args_.num_prefill_seqs = static_cast<int32_t>(num_seqs_);
    args_.scale = 1.0F / std::sqrt(static_cast<float>(kHeadDim));
    plan_ = upload(std::vector<int32_t>(static_cast<size_t>(ops::prefill_plan_size(num_rows_, num_seqs_))),
                   {ops::prefill_plan_size(num_rows_, num_seqs_)}, DType::kI32);
  }

  void plan() {
    ops::plan_prefill(*stream_, {.plan = plan_,
                                 .batch = args_.batch,
                                 .num_prefill_seqs = args_.num_prefill_seqs,
                                 .num_tokens = num_rows_,
                                 .num_slots = args_.k_cache.shape[0]});
    args_.plan = plan_;
  }
  void without_plan() { args_.plan = {}; }
  void attend() { ops::paged_attention(*stream_, args_); }
  void wait() { stream_->wait_idle(kDeadline); }

  /// Microseconds of `enqueue`, run `count` times by one graph: the median of five.
  template <class Enqueue>
  double time_us(int count, const Enqueue& enqueue) {
    return bench::median_us(*stream_, count, 5, [&](int) { enqueue(); });
  }

  /// The largest difference from f64 among rows all over the batch.
  double max_error() {
    std::vector<uint16_t> out(q_host_.size());
    const auto host = device_.allocate_host(out.size() * 2, "result");
    stream_->copy(host.data(), args_.out.data, out.size() * 2);
    wait();
    std::memcpy(out.data(), host.data(), out.size() * 2);
    double worst = 0;
    int64_t first_row = 0;
    for (int64_t s = 0; s < num_seqs_; ++s) {
      const int64_t rows = case_.rows[static_cast<size_t>(s)];
      for (const int64_t row : {int64_t{0}, rows / 3, rows - 1}) {
        for (const int64_t head : {int64_t{0}, case_.q_heads - 1}) {
          worst = std::max(worst, row_error(out, s, first_row + row, head, case_.prefix + row + 1));
        }
      }
      first_row += rows;
    }
    return worst;
  }

  [[nodiscard]] double flops() const {
    double keys = 0;
    for (const int64_t rows : case_.rows) {
      keys += static_cast<double>(rows * case_.prefix) + static_cast<double>(rows * (rows + 1)) / 2;
    }
    return 4.0 * static_cast<double>(kHeadDim * case_.q_heads) * keys;
  }

 private:
  static std::vector<uint16_t> values(int64_t count, uint64_t salt) {
    std::vector<uint16_t> out(static_cast<size_t>(count));
    for (size_t i = 0; i < out.size(); ++i) out[i] = as_bf16(value_at(i * 4 + salt));
    return out;
  }

  template <class T>
  TensorView upload(const std::vector<T>& from, std::initializer_list<int64_t> shape, DType dtype) {
    buffers_.push_back(bench::upload(device_, *stream_, from));
    return buffers_.back().view(dtype, shape);
  }

  [[nodiscard]] double row_error(const std::vector<uint16_t>& out, int64_t s, int64_t row, int64_t head,
                                 int64_t keys) const {
    const uint16_t* query = q_host_.data() + (row * case_.q_heads + head) * kHeadDim;
    const int64_t kv_head = head / (case_.q_heads / case_.kv_heads);
    const auto key_at = [&](int64_t position) {
      const int64_t page = page_table_[static_cast<size_t>(s * stride_ + position / case_.page_size)];
      return ((page * case_.page_size + position % case_.page_size) * case_.kv_heads + kv_head) * kHeadDim;
    };
    std::vector<double> scores;
    for (int64_t p = 0; p < keys; ++p) {
      double score = 0;
      for (int64_t d = 0; d < kHeadDim; ++d) {
        score += as_double(query[d]) * as_double(k_host_[static_cast<size_t>(key_at(p) + d)]);
      }
      scores.push_back(score * static_cast<double>(args_.scale));
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    std::vector<double> sum(kHeadDim);
    double total = 0;
    for (int64_t p = 0; p < keys; ++p) {
      const double weight = std::exp(scores[static_cast<size_t>(p)] - top);
      total += weight;
      for (size_t d = 0; d < sum.size(); ++d) {
        sum[d] += weight * as_double(v_host_[static_cast<size_t>(key_at(p)) + d]);
      }
    }
    double worst = 0;
    for (size_t d = 0; d < sum.size(); ++d) {
      const double got = as_double(out[static_cast<size_t>((row * case_.q_heads + head) * kHeadDim) + d]);
      worst = std::isnan(got) ? INFINITY : std::max(worst, std::abs(got - sum[d] / total));
    }
    return worst;
  }

  device::Device& device_;
  Case case_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<device::Buffer> buffers_;
  std::vector<uint16_t> q_host_, k_host_, v_host_;
  std::vector<int32_t> page_table_;
  int64_t num_seqs_ = 0, num_rows_ = 0, stride_ = 0;
  ops::PagedAttentionArgs args_;
  TensorView plan_;
};

int run(double peak) {
  const auto device = device::make_cuda_device({.name = "cuda:bench"});
  fmt::print("{}; kernels with a plan: {}; floor at {} TFLOP/s\n\n", device::cuda_gpus()[0].name,
             ops::has_prefill_plan(*device) ? "FlashInfer for Hopper" : "none", peak);
  fmt::print("{:>22} {:>7} {:>5} {:>5} | {:>9} {:>8} {:>8} {:>6} {:>8} | {:>12} {:>6} | {:>9}\n", "rows",
             "prefix", "heads", "page", "us", "TFLOP/s", "floor us", "frac", "plan us", "any shape us",
             "ratio", "max error");
  bool right = true;
  for (const Case& c :
       {Case{{4096}, 0, 32, 8, 16}, Case{{4096}, 0, 16, 8, 16}, Case{{4096}, 0, 32, 4, 16},
        Case{{4096}, 0, 32, 8, 64}, Case{{4096}, 0, 32, 8, 1}, Case{{1024}, 8192, 32, 8, 16},
        Case{{2048, 1024, 512, 256, 128, 64, 32, 32}, 0, 32, 8, 16}, Case{{256}, 0, 32, 8, 16},
        Case{{32768}, 0, 32, 8, 16}, Case{{8192}, 24576, 32, 4, 16}}) {
    Bench bench(*device, c);
    std::string rows;
    int64_t total = 0;
    for (const int64_t r : c.rows) {
      if (rows.size() < 12) rows += (rows.empty() ? "" : "+") + std::to_string(r);
      total += r;
    }
    bench.plan();
    bench.attend();
    const double error = bench.max_error();
    right = right && error < 8e-3;
    const double us = bench.time_us(total > 10000 ? 3 : 20, [&] { bench.attend(); });
    const double plan_us = bench.time_us(20, [&] { bench.plan(); });
    const double floor = bench.flops() / peak * 1e-6;
    double other = NAN;
    if (total <= 4096 && c.prefix == 0) {
      bench.without_plan();
      other = bench.time_us(1, [&] { bench.attend(); });
    }
    fmt::print(
        "{:>22} {:>7} {:>5} {:>5} | {:>9.1f} {:>8.0f} {:>8.1f} {:>6.2f} {:>8.1f} | {:>12.1f} {:>6.1f} | "
        "{:>9.1e}\n",
        rows, c.prefix, fmt::format("{}/{}", c.q_heads, c.kv_heads), c.page_size, us,
        bench.flops() / us * 1e-6, floor, floor / us, plan_us, other, other / us, error);
    std::fflush(stdout);
  }
  fmt::print("\n{}\n", right ? "all checked rows are right" : "WRONG: a difference above 8e-3");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) { return weft::bench::main_of(argc, argv, 790.0, &weft::run); }
