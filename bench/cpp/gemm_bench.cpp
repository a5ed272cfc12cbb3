// Times weft's CPU matrix product and the memory under it. bench/cpu_gemm.py builds and drives it:
//
//   bench_gemm NUM_THREADS
//
// reads one request a line from stdin and answers each with one line of JSON:
//
//   gemm DTYPE M N K SECONDS   {"us": [..], "max_error": ..}: a time per call for each sample, and the
//   largest
//                              difference from f64 over 64 elements, in units of sqrt(K)
//   read SECONDS               {"gb_per_s": ..}: the median rate at which all threads read a large buffer
//   isa                        {"isa": ".."}
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "ops/cpu/isa.h"
#include "ops/gemm.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
using device::TensorView;

// Twice a large last-level cache: weights are read from memory, as those of a model are.
constexpr size_t kColdBytes = size_t{128} << 20;
constexpr auto kDeadline = std::chrono::minutes(5);

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

/// A number in [-1, 1) that depends on `index` alone and is exact in every dtype.
float value_at(uint64_t index) {
  uint64_t hash = (index + 1) * 0x9e3779b97f4a7c15U;
  hash = (hash ^ (hash >> 31)) * 0xbf58476d1ce4e5b9U;
  return static_cast<float>(static_cast<int>(hash >> 56) - 128) / 128.0F;
}

void fill(const TensorView& view, uint64_t first) {
  for (int64_t i = 0; i < view.numel(); ++i) {
    const float value = value_at(first + static_cast<uint64_t>(i));
    switch (view.dtype) {
      case DType::kF32:
        view.as<float>()[i] = value;
        break;
      case DType::kBF16:
        view.as<bf16>()[i] = to_bf16(value);
        break;
      default:
        view.as<f16>()[i] = to_f16(value);
    }
  }
}

DType parse_dtype(const std::string& name) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  WEFT_THROW("bench_gemm: dtype {} is none of f32, bf16, f16", name);
}

class Bench {
 public:
  explicit Bench(int num_threads)
      : device_(device::make_cpu_device({.name = "cpu:0", .num_threads = num_threads})),
        stream_(device_->make_stream("compute")) {}

  std::string gemm(DType dtype, int64_t m, int64_t n, int64_t k, double seconds) {
    const size_t weight_bytes = static_cast<size_t>(n * k) * dtype_size(dtype);
    const auto copies = static_cast<int64_t>(kColdBytes / weight_bytes + 1);
    const device::Buffer weights = device_->allocate(weight_bytes * static_cast<size_t>(copies), "w");
    const device::Buffer inputs = device_->allocate(static_cast<size_t>(m * k) * dtype_size(dtype), "a");
    const device::Buffer outputs = device_->allocate(static_cast<size_t>(m * n) * sizeof(float), "out");
    const TensorView all_weights = weights.view(dtype, {copies, n, k});
    const TensorView a = inputs.view(dtype, {m, k});
    const TensorView out = outputs.view(DType::kF32, {m, n});
    fill(all_weights, 0);
    fill(a, 7);
    int64_t next = 0;
    const auto launch = [&] {
      const TensorView w = all_weights.rows(next, 1).reshape({n, k});
      ops::gemm(*stream_, {.out = out, .a = a, .w = w, .bias = {}});
      next = (next + 1) % copies;
    };

    launch();
    stream_->wait_idle(kDeadline);
    double max_error = 0;
    for (uint64_t sample = 0; sample < 64; ++sample) {
      const auto i = static_cast<int64_t>(sample * 7919) % m;
      const auto j = static_cast<int64_t>(sample * 104729) % n;
      double expected = 0;
      for (int64_t p = 0; p < k; ++p) {
        expected += static_cast<double>(value_at(7 + static_cast<uint64_t>(i * k + p))) *
                    static_cast<double>(value_at(static_cast<uint64_t>(j * k + p)));
      }
      max_error = std::max(max_error, std::abs(static_cast<double>(out.as<float>()[i * n + j]) - expected));
    }

    // Calls that follow each other without waiting, as the layers of a model do; some 5 ms of them a sample.
    auto start = Clock::now();
    launch();
    stream_->wait_idle(kDeadline);
    const int calls = std::max(1, static_cast<int>(5e-3 / seconds_since(start)));
    std::vector<double> us;
    for (const auto begin = Clock::now(); us.size() < 3 || seconds_since(begin) < seconds;) {
      start = Clock::now();
      for (int c = 0; c < calls; ++c) launch();
      stream_->wait_idle(kDeadline);
      us.push_back(seconds_since(start) / calls * 1e6);
    }
    std::string list;
    for (const double time : us) list += fmt::format("{}{:.3f}", list.empty() ? "" : ", ", time);
    return fmt::format(R"({{"us": [{}], "max_error": {:.3g}}})", list,
                       max_error / std::sqrt(static_cast<double>(k)));
  }

  std::string read(double seconds) {
    const device::Buffer buffer = device_->allocate(2 * kColdBytes, "read");
    stream_->fill(buffer.data(), 1, buffer.num_bytes());
    struct Args {
      const uint64_t* data;
      int64_t count;
      uint64_t* sum;  // device; keeps the reads alive
    };
    const device::Buffer sum = device_->allocate(sizeof(uint64_t), "sum");
    const auto run = [](const Args& args, device::ExecContext& context) {
      context.parallel_for(args.count, 1 << 16, [&](int64_t begin, int64_t end) {
        uint64_t total = 0;
        for (int64_t i = begin; i < end; ++i) total += args.data[i];
        std::atomic_ref(*args.sum).fetch_add(total);
      });
    };
    const Args args = {.data = static_cast<const uint64_t*>(buffer.data()),
                       .count = static_cast<int64_t>(buffer.num_bytes() / sizeof(uint64_t)),
                       .sum = static_cast<uint64_t*>(sum.data())};
    std::vector<double> rates;
    for (const auto begin = Clock::now(); rates.size() < 3 || seconds_since(begin) < seconds;) {
      stream_->wait_idle(kDeadline);
      const auto start = Clock::now();
      stream_->launch<Args>(
          "read", +run, args,
          {device::read(buffer.data(), buffer.num_bytes()), device::write(sum.data(), sizeof(uint64_t))});
      stream_->wait_idle(kDeadline);
      rates.push_back(static_cast<double>(buffer.num_bytes()) / seconds_since(start) / 1e9);
    }
    return fmt::format(R"({{"gb_per_s": {:.2f}}})", median(rates));
  }

 private:
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Stream> stream_;
};

int run(int num_threads) {
  Bench bench(num_threads);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    std::string answer;
    if (command == "gemm") {
      std::string dtype;
      int64_t m = 0;
      int64_t n = 0;
      int64_t k = 0;
      double seconds = 0;
      words >> dtype >> m >> n >> k >> seconds;
      WEFT_CHECK(words && m > 0 && n > 0 && k > 0, "bench_gemm: '{}' is not 'gemm DTYPE M N K SECONDS'",
                 line);
      answer = bench.gemm(parse_dtype(dtype), m, n, k, seconds);
    } else if (command == "read") {
      double seconds = 0;
      words >> seconds;
      answer = bench.read(seconds);
    } else if (command == "isa") {
      answer = fmt::format(R"({{"isa": "{}"}})", ops::cpu::isa_name(ops::cpu::current_isa()));
    } else {
      WEFT_THROW("bench_gemm: unknown request '{}'", line);
    }
    std::cout << answer << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  try {
    return weft::run(argc > 1 ? std::atoi(argv[1]) : 1);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
