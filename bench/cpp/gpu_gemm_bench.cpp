// Times weft's matrix products on a GPU. bench/gpu_gemm.py builds and drives it:
//
//   bench_gpu_gemm
//
// reads one request a line from stdin and answers each with one line of JSON:
//
//   gemm OUT_DTYPE M N K     bf16 operands: {"us": [..], "max_error": ..}
//   gated M INTER K          the same for gemm_silu_mul, whose w has 2 * INTER rows
//
// us: a time per call for each sample. Calls follow each other in a captured graph, as in a step of a model,
// over weights that rotate through more memory than the L2 cache holds. max_error: the largest difference
// from f64 over 64 elements of the graph's last call, in units of sqrt(K); gated: relative to 1 + |expected|.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "ops/gemm.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
using device::Buffer;
using device::TensorView;

constexpr size_t kColdBytes = size_t{256} << 20;
constexpr auto kDeadline = std::chrono::minutes(1);

// Operands repeat this many numbers, so that large ones need not be made one by one. Prime: rows differ.
constexpr int64_t kPeriod = 4194301;

float value_at(int64_t index) {
  uint64_t hash = (static_cast<uint64_t>(index % kPeriod) + 1) * 0x9e3779b97f4a7c15U;
  hash = (hash ^ (hash >> 31)) * 0xbf58476d1ce4e5b9U;
  return static_cast<float>(static_cast<int>(hash >> 56) - 128) / 128.0F;  // exact in bf16
}

class Bench {
 public:
  Bench() : device_(device::make_cuda_device({.name = "cuda:0"})), stream_(device_->make_stream("compute")) {
    period_ = device_->allocate_host(kPeriod * sizeof(bf16), "numbers");
    for (int64_t i = 0; i < kPeriod; ++i)
      period_.view(DType::kBF16, {kPeriod}).as<bf16>()[i] = to_bf16(value_at(i));
  }

  std::string gemm(DType out_dtype, int64_t m, int64_t n, int64_t k) {
    return run(out_dtype, m, n, n, k, [&](const TensorView& out, const TensorView& a, const TensorView& w) {
      ops::gemm(*stream_, {.out = out, .a = a, .w = w, .bias = {}});
    });
  }
  std::string gated(int64_t m, int64_t inter, int64_t k) {
    const Buffer scratch = device_->allocate(static_cast<size_t>(m * 2 * inter) * sizeof(bf16), "gate_up");
    const TensorView gate_up = scratch.view(DType::kBF16, {m, 2 * inter});
    return run(DType::kBF16, m, inter, 2 * inter, k,
               [&](const TensorView& out, const TensorView& a, const TensorView& w) {
                 ops::gemm_silu_mul(*stream_, {.out = out, .gate_up = gate_up, .a = a, .w = w});
               });
  }

 private:
  void fill(void* to, int64_t count) {
    for (int64_t done = 0; done < count; done += kPeriod) {
      stream_->copy(static_cast<bf16*>(to) + done, period_.data(),
                    static_cast<size_t>(std::min(kPeriod, count - done)) * sizeof(bf16));
    }
  }

  // w_rows: n, or 2 * n for gated products.
  template <class Launch>
  std::string run(DType out_dtype, int64_t m, int64_t n, int64_t w_rows, int64_t k, const Launch& launch) {
    const size_t weight_bytes = static_cast<size_t>(w_rows * k) * sizeof(bf16);
    const auto copies = static_cast<int64_t>(kColdBytes / weight_bytes + 1);
    const Buffer weights = device_->allocate(weight_bytes * static_cast<size_t>(copies), "w");
    const Buffer inputs = device_->allocate(static_cast<size_t>(m * k) * sizeof(bf16), "a");
    const size_t out_bytes = static_cast<size_t>(m * n) * dtype_size(out_dtype);
    const Buffer outputs = device_->allocate(out_bytes, "out");
    const TensorView all_weights = weights.view(DType::kBF16, {copies, w_rows, k});
    const TensorView out = outputs.view(out_dtype, {m, n});
    fill(weights.data(), copies * w_rows * k);
    fill(inputs.data(), m * k);
    stream_->fill(outputs.data(), 0xff, out_bytes);

    // Enough calls for their own starts and ends to matter, and not those of the graph; whole rounds of
    // weights.
    const double floor_us =
        std::max(static_cast<double>(weight_bytes) / 4e6, 2.0 * static_cast<double>(m * w_rows * k) / 800e6);
    const int64_t calls =
        std::clamp<int64_t>(static_cast<int64_t>(2000.0 / (floor_us + 2.0)) / copies, 1, 400 / copies + 1) *
        copies;
    stream_->begin_capture();
    for (int64_t i = 0; i < calls; ++i) {
      launch(out, inputs.view(DType::kBF16, {m, k}), all_weights.rows(i % copies, 1).reshape({w_rows, k}));
    }
    const auto graph = stream_->end_capture();
    stream_->replay(*graph);
    const double error = max_error(out, m, n, w_rows, k, (copies - 1) * w_rows * k);

    std::vector<double> us;
    for (int sample = 0; sample < 7; ++sample) {
      constexpr int kReplays = 4;
      stream_->wait_idle(kDeadline);
      const auto start = Clock::now();
      for (int r = 0; r < kReplays; ++r) stream_->replay(*graph);
      stream_->wait_idle(kDeadline);
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() /
                   static_cast<double>(calls * kReplays));
    }
    std::sort(us.begin(), us.end());
    return fmt::format(R"({{"us": [{:.3f}], "max_error": {:.3g}}})", fmt::join(us, ", "), error);
  }

  // first: of w's numbers.
  double max_error(const TensorView& out, int64_t m, int64_t n, int64_t w_rows, int64_t k, int64_t first) {
    const size_t num_bytes = static_cast<size_t>(m * n) * dtype_size(out.dtype);
    const Buffer host = device_->allocate_host(num_bytes, "out");
    stream_->copy(host.data(), out.data, num_bytes);
    stream_->wait_idle(kDeadline);
    const TensorView got = host.view(out.dtype, {m, n});
    double worst = 0;
    for (int64_t sample = 0; sample < 64; ++sample) {
      const int64_t i = sample * 7919 % m;
      const int64_t j = sample * 104729 % n;
      const auto sum_of = [&](int64_t row) {
        double sum = 0;
        for (int64_t p = 0; p < k; ++p) {
          sum +=
              static_cast<double>(value_at(i * k + p)) * static_cast<double>(value_at(first + row * k + p));
        }
        return sum;
      };
      double expected = sum_of(j);
      const bool gated = w_rows != n;
      if (gated) expected = expected / (1 + std::exp(-expected)) * sum_of(n + j);
      const double actual = out.dtype == DType::kF32 ? static_cast<double>(got.as<float>()[i * n + j])
                                                     : static_cast<double>(to_f32(got.as<bf16>()[i * n + j]));
      const double scale = gated ? 1 + std::abs(expected) : std::sqrt(static_cast<double>(k));
      const double error = std::abs(actual - expected) / scale;
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    return worst;
  }

  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Stream> stream_;
  Buffer period_;
};

int run() {
  WEFT_CHECK(device::cuda_unavailable_reason().empty(), "bench_gpu_gemm: {}",
             device::cuda_unavailable_reason());
  Bench bench;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, dtype;
    int64_t m = 0;
    int64_t n = 0;
    int64_t k = 0;
    words >> command;
    if (command == "gemm") words >> dtype;
    words >> m >> n >> k;
    WEFT_CHECK(words && m > 0 && n > 0 && k > 0 && (command == "gated" || dtype == "bf16" || dtype == "f32"),
               "bench_gpu_gemm: '{}' is neither 'gemm bf16|f32 M N K' nor 'gated M INTER K'", line);
    std::cout << (command == "gated" ? bench.gated(m, n, k)
                                     : bench.gemm(dtype == "f32" ? DType::kF32 : DType::kBF16, m, n, k))
              << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace weft

int main() {
  try {
    return weft::run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
