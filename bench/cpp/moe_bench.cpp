// Times weft's mixture of experts on a GPU. bench/gpu_moe.py builds and drives it:
//
//   bench_moe
//
// reads one request a line from stdin and answers each with one line of JSON:
//
//   model EXPERTS TOP_K HIDDEN INTER  {"ok": true}: allocates and fills kLayers sets of weights
//   check ROWS                        {"error": ..}: the norm of the difference from the CPU over that of its
//                                     result, for a whole block of the first layer, bf16
//   time ROWS                         {"block": .., "router": .., "route": .., "experts": ..,
//                                     "combine": .., "touched": ..}: us an op, in a graph of kRepeats layers,
//                                     the median of replays; experts that got a row, the mean of layers
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "ops/experts.h"
#include "ops/gemm.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
using device::TensorView;

constexpr int kLayers = 2;    // sets of weights, much larger than the L2 cache
constexpr int kRoutes = 12;   // different rows, and with them different experts
constexpr int kRepeats = 48;  // layers in a graph
constexpr auto kDeadline = std::chrono::minutes(2);

struct Sizes {
  int64_t experts = 0, top_k = 0, hidden = 0, inter = 0;
};

/// A device with the weights of kLayers, and what a block needs for some rows.
class Block {
 public:
  Block(std::unique_ptr<device::Device> device, const Sizes& sizes)
      : device_(std::move(device)), stream_(device_->make_stream("compute")), sizes_(sizes) {
    for (int l = 0; l < kLayers; ++l) {
      router_.push_back(random(DType::kBF16, {sizes.experts, sizes.hidden}, 0.05, 11 + l));
      gate_up_.push_back(random(DType::kBF16, {sizes.experts, 2 * sizes.inter, sizes.hidden}, 0.03, 21 + l));
      down_.push_back(random(DType::kBF16, {sizes.experts, sizes.hidden, sizes.inter}, 0.05, 31 + l));
    }
    num_weights_ = buffers_.size();
  }

  void set_rows(int64_t rows) {
    buffers_.resize(num_weights_);
    x_.clear();
    route_.clear();
    rows_ = rows;
    const ops::ExpertSizes of_rows{rows * sizes_.top_k, sizes_.experts, sizes_.hidden, sizes_.inter,
                                   DType::kBF16};
    alignment_ = ops::expert_alignment(device_->backend(), of_rows);
    const int64_t copies = of_rows.copies + sizes_.experts * (alignment_ - 1);
    for (int i = 0; i < kRoutes; ++i) {
      x_.push_back(random(DType::kBF16, {rows, sizes_.hidden}, 1.0, 100 + i));
      route_.push_back({.logits = empty(DType::kF32, {rows, sizes_.experts}),
                        .ids = empty(DType::kI32, {rows, sizes_.top_k}),
                        .weights = empty(DType::kF32, {rows, sizes_.top_k}),
                        .offsets = empty(DType::kI32, {sizes_.experts + 1}),
                        .source = empty(DType::kI32, {copies}),
                        .position = empty(DType::kI32, {rows, sizes_.top_k})});
    }
    copies_ = empty(DType::kBF16, {copies, sizes_.hidden});
    work_ = empty(DType::kBF16, {copies, 2 * sizes_.inter});
    act_ = empty(DType::kBF16, {copies, sizes_.inter});
    expert_out_ = empty(DType::kBF16, {copies, sizes_.hidden});
    out_ = empty(DType::kBF16, {rows, sizes_.hidden});
  }

  void router(int i) {
    ops::gemm(*stream_, {.out = at(i).logits, .a = x(i), .w = router_[layer(i)], .bias = {}});
  }
  void route(int i) {
    const Route& r = at(i);
    ops::route_and_group(*stream_, {.route = {.ids = r.ids,
                                              .weights = r.weights,
                                              .logits = r.logits,
                                              .bias = {},
                                              .valid = {},
                                              .renormalize = true},
                                    .groups = {.ids = {},
                                               .offsets = r.offsets,
                                               .source = r.source,
                                               .position = r.position,
                                               .total_experts = static_cast<int32_t>(sizes_.experts),
                                               .alignment = alignment_}});
  }
  void experts(int i) { ops::expert_ffn(*stream_, experts_of(i)); }
  void combine(int i) { ops::moe_unpermute(*stream_, combine_of(i)); }
  /// As the engine does it.
  void all(int i) {
    router(i);
    route(i);
    ops::ExpertFfnAndCombineArgs args{.experts = experts_of(i), .combine = combine_of(i)};
    args.combine.x = {};  // it is what the experts leave
    ops::expert_ffn_and_combine(*stream_, args);
  }

  /// us a call of `op`.
  double time(const std::function<void(int)>& op) {
    for (int i = 0; i < kRoutes; ++i) op(i);
    stream_->begin_capture();
    for (int i = 0; i < kRepeats; ++i) op(i);
    const auto graph = stream_->end_capture();
    for (int i = 0; i < 2; ++i) stream_->replay(*graph);
    stream_->wait_idle(kDeadline);
    std::vector<double> us;
    for (int sample = 0; sample < 7; ++sample) {
      const auto start = Clock::now();
      for (int i = 0; i < 3; ++i) stream_->replay(*graph);
      stream_->wait_idle(kDeadline);
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() / 3 / kRepeats);
    }
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
  }

  std::vector<float> result() {
    all(0);
    return to_floats(out_);
  }
  /// Experts that got a row.
  double touched() {
    double count = 0;
    for (int i = 0; i < kRoutes; ++i) {
      const std::vector<int32_t> ids = to_host<int32_t>(at(i).ids);
      count += static_cast<double>(std::set<int32_t>(ids.begin(), ids.end()).size());
    }
    return count / kRoutes;
  }

 private:
  struct Route {
    TensorView logits, ids, weights, offsets, source, position;
  };

  [[nodiscard]] ops::ExpertFfnArgs experts_of(int i) const {
    return {.out = expert_out_,
            .x = x(i),
            .gate_up = gate_up_[layer(i)],
            .down = down_[layer(i)],
            .offsets = at(i).offsets,
            .source = at(i).source,
            .alignment = alignment_,
            .copies = copies_,
            .gate_up_out = work_,
            .act = act_};
  }
  [[nodiscard]] ops::UnpermuteArgs combine_of(int i) const {
    return {.out = out_, .x = expert_out_, .position = at(i).position, .weights = at(i).weights};
  }
  [[nodiscard]] const Route& at(int i) const { return route_[static_cast<size_t>(i % kRoutes)]; }
  [[nodiscard]] const TensorView& x(int i) const { return x_[static_cast<size_t>(i % kRoutes)]; }
  [[nodiscard]] static size_t layer(int i) { return static_cast<size_t>(i % kLayers); }

  TensorView empty(DType dtype, std::initializer_list<int64_t> shape) {
    const TensorView shaped = device::make_view(nullptr, dtype, shape);
    buffers_.push_back(device_->allocate(static_cast<size_t>(shaped.numel()) * dtype_size(dtype), "bench"));
    TensorView view = shaped;
    view.data = buffers_.back().data();
    stream_->fill(view.data, 0xff, buffers_.back().num_bytes());  // NaN
    return view;
  }
  /// Normal numbers; a block of them is repeated, at lengths that no width divides.
  TensorView random(DType dtype, std::initializer_list<int64_t> shape, double scale, int seed) {
    constexpr size_t kCount = (1 << 22) + 1237;
    const TensorView view = empty(dtype, shape);
    const device::Buffer block = device_->allocate_host(kCount * 2, "block");
    std::mt19937 engine(static_cast<uint32_t>(seed));
    std::normal_distribution<float> normal(0.0F, static_cast<float>(scale));
    auto* values = static_cast<bf16*>(block.data());
    const size_t total = static_cast<size_t>(view.numel());
    for (size_t i = 0; i < std::min(kCount, total); ++i) values[i] = to_bf16(normal(engine));
    for (size_t first = 0; first < total; first += kCount) {
      stream_->copy(view.as<bf16>() + first, values, std::min(kCount, total - first) * 2);
    }
    stream_->wait_idle(kDeadline);
    return view;
  }
  template <class T>
  std::vector<T> to_host(const TensorView& view) {
    const size_t num_bytes = static_cast<size_t>(view.numel()) * sizeof(T);
    const device::Buffer host = device_->allocate_host(num_bytes, "result");
    stream_->copy(host.data(), view.data, num_bytes);
    stream_->wait_idle(kDeadline);
    std::vector<T> values(static_cast<size_t>(view.numel()));
    std::memcpy(values.data(), host.data(), num_bytes);
    return values;
  }
  std::vector<float> to_floats(const TensorView& view) {
    std::vector<float> values;
    for (const bf16 value : to_host<bf16>(view)) values.push_back(to_f32(value));
    return values;
  }

  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Stream> stream_;
  Sizes sizes_;
  std::vector<device::Buffer> buffers_;
  size_t num_weights_ = 0;
  int64_t rows_ = 0;
  int32_t alignment_ = 1;
  std::vector<TensorView> router_, gate_up_, down_, x_;
  std::vector<Route> route_;
  TensorView copies_, work_, act_, expert_out_, out_;
};

double relative_error(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / norm);
}

std::string answer(const std::string& line, std::unique_ptr<Block>& gpu, Sizes& sizes) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "model") {
    words >> sizes.experts >> sizes.top_k >> sizes.hidden >> sizes.inter;
    WEFT_CHECK(words && sizes.top_k > 0 && sizes.experts >= sizes.top_k,
               "bench_moe: '{}' is not 'model EXPERTS TOP_K HIDDEN INTER'", line);
    gpu.reset();
    gpu = std::make_unique<Block>(device::make_cuda_device({}), sizes);
    return R"({"ok": true})";
  }
  int64_t rows = 0;
  words >> rows;
  WEFT_CHECK(words && rows > 0 && gpu != nullptr, "bench_moe: '{}' is not 'check|time ROWS' after a model",
             line);
  gpu->set_rows(rows);
  if (command == "check") {
    Block cpu(device::make_cpu_device({.name = "cpu:0", .num_threads = 8}), sizes);
    cpu.set_rows(rows);
    return fmt::format(R"({{"error": {:.3g}}})", relative_error(gpu->result(), cpu.result()));
  }
  WEFT_CHECK(command == "time", "bench_moe: unknown request '{}'", line);
  const double block = gpu->time([&](int i) { gpu->all(i); });
  return fmt::format(
      R"({{"block": {:.2f}, "router": {:.2f}, "route": {:.2f}, "experts": {:.2f}, "combine": {:.2f}, "touched": {:.1f}}})",
      block, gpu->time([&](int i) { gpu->router(i); }), gpu->time([&](int i) { gpu->route(i); }),
      gpu->time([&](int i) { gpu->experts(i); }), gpu->time([&](int i) { gpu->combine(i); }), gpu->touched());
}

}  // namespace
}  // namespace weft

int main() {
  try {
    std::unique_ptr<weft::Block> gpu;
    weft::Sizes sizes;
    for (std::string line; std::getline(std::cin, line);) {
      std::cout << weft::answer(line, gpu, sizes) << std::endl;
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
