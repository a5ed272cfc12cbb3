// How fast are the small ops of a layer and of sampling on a GPU, against the bytes that they must move?
//
//   cmake -DWEFT_CUDA=ON -DWEFT_BUILD_BENCH=ON .. && ninja bench_row_ops && ./bench_row_ops [TB_PER_S]
//
// Each op is run on the CPU with the same inputs first: its outputs must agree. Then a graph of many runs is
// timed, turning through copies of its tensors, so that the time of one includes the gap to the next. Floor:
// the bytes read and written at TB_PER_S (4.1: an H200). Shapes: Qwen3-0.6B, 8B and 30B-A3B.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "device/device.h"
#include "gpu_bench.h"
#include "ops/elementwise.h"
#include "ops/rms_norm.h"
#include "ops/rope_write.h"
#include "ops/sampling.h"

namespace weft {
namespace {

using bench::kDeadline;
using device::TensorView;
using Shape = std::vector<int64_t>;

constexpr int64_t kVocab = 151936;

/// A device with tensors of one case.
class Side {
 public:
  explicit Side(std::unique_ptr<device::Device> device)
      : device_(std::move(device)), stream_(device_->make_stream("compute")) {}

  template <class T>
  TensorView upload(DType dtype, const Shape& shape, const std::vector<T>& values) {
    buffers_.push_back(bench::upload(*device_, *stream_, values));
    TensorView view;
    view.data = buffers_.back().data();
    view.dtype = dtype;
    view.rank = static_cast<int>(shape.size());
    int64_t stride = 1;
    for (int d = view.rank - 1; d >= 0; --d) {
      view.shape[static_cast<size_t>(d)] = shape[static_cast<size_t>(d)];
      view.stride[static_cast<size_t>(d)] = stride;
      stride *= shape[static_cast<size_t>(d)];
    }
    return view;
  }
  std::vector<float> download(const TensorView& view) {
    const auto host = device_->allocate_host(view.span_bytes(), "result");
    stream_->copy(host.data(), view.data, view.span_bytes());
    stream_->wait_idle(kDeadline);
    std::vector<float> values(static_cast<size_t>(view.numel()));
    for (size_t i = 0; i < values.size(); ++i) {
      switch (view.dtype) {
        case DType::kBF16:
          values[i] = to_f32(static_cast<const bf16*>(host.data())[i]);
          break;
        case DType::kF32:
          values[i] = static_cast<const float*>(host.data())[i];
          break;
        default:
          values[i] = static_cast<float>(static_cast<const int32_t*>(host.data())[i]);
      }
    }
    return values;
  }
  [[nodiscard]] device::Stream& stream() { return *stream_; }

  /// Microseconds of one of `count` runs in a graph: the median of seven.
  double time_us(int count, const std::function<void(int)>& run) {
    return bench::median_us(*stream_, count, 7, run);
  }

 private:
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<device::Buffer> buffers_;
};

std::mt19937_64 generator(1);

std::vector<bf16> normal_bf16(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<bf16> values(static_cast<size_t>(count));
  for (bf16& value : values) value = to_bf16(normal(generator));
  return values;
}

/// One op on its tensors.
struct Prepared {
  std::function<void()> run;
  std::vector<TensorView> outs;
};
struct Case {
  std::string name;
  int64_t rows;
  double num_bytes;
  double tolerance;  // of |output|, or of 1 where that is larger
  std::function<Prepared(Side&)> prepare;
};

constexpr double kOfBf16 = 3.0 / 128;  // a rounding either way, and what rope makes of two

Case add_rms_norm(int64_t rows, int64_t hidden) {
  const auto x = normal_bf16(rows * hidden);
  const auto residual = normal_bf16(rows * hidden);
  const auto weight = normal_bf16(hidden);
  return {fmt::format("add_rms_norm {}", hidden), rows, 4.0 * 2 * static_cast<double>(rows * hidden), kOfBf16,
          [=](Side& s) {
            const ops::AddRmsNormArgs args{.out = s.upload(DType::kBF16, {rows, hidden}, x),
                                           .residual = s.upload(DType::kBF16, {rows, hidden}, residual),
                                           .x = s.upload(DType::kBF16, {rows, hidden}, x),
                                           .weight = s.upload(DType::kBF16, {hidden}, weight)};
            return Prepared{[&s, args] { ops::add_rms_norm(s.stream(), args); }, {args.out, args.residual}};
          }};
}

Case norm_rope_write(int64_t rows, int64_t q_heads, int64_t kv_heads) {
  constexpr int64_t kDim = 128;
  constexpr int64_t kPositions = 4096;
  const int64_t width = (q_heads + 2 * kv_heads) * kDim;
  const auto qkv = normal_bf16(rows * width);
  const auto weight = normal_bf16(kDim);
  std::vector<float> table(static_cast<size_t>(kPositions * kDim));
  for (size_t i = 0; i < table.size(); ++i) table[i] = std::cos(static_cast<float>(i));
  std::vector<int32_t> positions, slots;
  for (int64_t r = 0; r < rows; ++r) {
    positions.push_back(static_cast<int32_t>(generator() % kPositions));
    slots.push_back(static_cast<int32_t>(rows - 1 - r));
  }
  return {fmt::format("qk_norm_rope_write {}/{}", q_heads, kv_heads), rows,
          2.0 * 2 * static_cast<double>(rows * width) + 4.0 * static_cast<double>(rows * kDim), kOfBf16,
          [=](Side& s) {
            const TensorView all = s.upload(DType::kBF16, {rows, width}, qkv);
            const auto heads = [&](int64_t first, int64_t n) {
              return all.columns(first * kDim, n * kDim).reshape({rows, n, kDim});
            };
            const auto cache = [&] {
              return s.upload(DType::kBF16, {rows, kv_heads, kDim},
                              std::vector<bf16>(static_cast<size_t>(rows * kv_heads * kDim)));
            };
            const ops::QkNormRopeWriteArgs args{.q = heads(0, q_heads),
                                                .k = heads(q_heads, kv_heads),
                                                .v = heads(q_heads + kv_heads, kv_heads),
                                                .q_norm = s.upload(DType::kBF16, {kDim}, weight),
                                                .k_norm = s.upload(DType::kBF16, {kDim}, weight),
                                                .k_cache = cache(),
                                                .v_cache = cache(),
                                                .positions = s.upload(DType::kI32, {rows}, positions),
                                                .slots = s.upload(DType::kI32, {rows}, slots),
                                                .cos_sin = s.upload(DType::kF32, {kPositions, kDim}, table)};
            return Prepared{[&s, args] { ops::qk_norm_rope_write(s.stream(), args); },
                            {all, args.k_cache, args.v_cache}};
          }};
}

Case silu_mul(int64_t rows, int64_t inter) {
  const auto gate_up = normal_bf16(rows * 2 * inter);
  return {fmt::format("silu_mul {}", inter), rows, 3.0 * 2 * static_cast<double>(rows * inter), kOfBf16,
          [=](Side& s) {
            const ops::SiluMulArgs args{.out = s.upload(DType::kBF16, {rows, inter},
                                                        std::vector<bf16>(static_cast<size_t>(rows * inter))),
                                        .gate_up = s.upload(DType::kBF16, {rows, 2 * inter}, gate_up)};
            return Prepared{[&s, args] { ops::silu_mul(s.stream(), args); }, {args.out}};
          }};
}

Case sample(const std::string& how, int64_t rows, const ops::SamplingRow& params) {
  std::normal_distribution<float> normal(0.0F, 2.5F);
  std::vector<float> logits(static_cast<size_t>(rows * kVocab));
  for (float& logit : logits) logit = normal(generator);
  std::vector<ops::SamplingRow> all(static_cast<size_t>(rows), params);
  for (auto& row : all) row.seed = generator();
  return {"sample " + how, rows, 4.0 * static_cast<double>(rows * kVocab), 0.0, [=](Side& s) {
            const TensorView bytes =
                s.upload(DType::kU8, {rows * static_cast<int64_t>(sizeof(ops::SamplingRow))}, all);
            const ops::SampleArgs args{
                .tokens = s.upload(DType::kI32, {rows}, std::vector<int32_t>(static_cast<size_t>(rows), -7)),
                .logits = s.upload(DType::kF32, {rows, kVocab}, logits),
                .params = static_cast<const ops::SamplingRow*>(bytes.data)};
            return Prepared{[&s, args] { ops::sample(s.stream(), args); }, {args.tokens}};
          }};
}

Case logprobs(const std::string& how, int64_t rows, int32_t target, int32_t num_top) {
  std::normal_distribution<float> normal(0.0F, 2.5F);
  std::vector<float> logits(static_cast<size_t>(rows * kVocab));
  for (float& logit : logits) logit = normal(generator);
  const auto count = static_cast<size_t>(rows);
  const bool reads = target >= 0 || num_top > 0;
  return {"logprobs " + how, rows, reads ? 4.0 * static_cast<double>(rows * kVocab) : 0.0, 1e-5,
          [=](Side& s) {
            const ops::LogprobArgs args{
                .logprobs = s.upload(DType::kF32, {rows}, std::vector<float>(count)),
                .top_ids = s.upload(DType::kI32, {rows, 5}, std::vector<int32_t>(5 * count)),
                .top_logprobs = s.upload(DType::kF32, {rows, 5}, std::vector<float>(5 * count)),
                .logits = s.upload(DType::kF32, {rows, kVocab}, logits),
                .targets = s.upload(DType::kI32, {rows}, std::vector<int32_t>(count, target)),
                .num_top = s.upload(DType::kI32, {rows}, std::vector<int32_t>(count, num_top)).as<int32_t>()};
            return Prepared{[&s, args] { ops::logprobs(s.stream(), args); },
                            {args.logprobs, args.top_ids, args.top_logprobs}};
          }};
}

/// The largest difference of the GPU's outputs from the CPU's, as Case::tolerance counts; tokens: how many
/// differ, as a share.
double difference(const Case& c, Side& gpu, const Prepared& on_gpu) {
  Side cpu(device::make_cpu_device({.name = "cpu", .num_threads = 8}));
  const Prepared on_cpu = c.prepare(cpu);
  on_cpu.run();
  on_gpu.run();
  double worst = 0.0;
  for (size_t o = 0; o < on_cpu.outs.size(); ++o) {
    const auto expected = cpu.download(on_cpu.outs[o]);
    const auto actual = gpu.download(on_gpu.outs[o]);
    double of_tokens = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double e = static_cast<double>(expected[i]);
      const double error = std::abs(static_cast<double>(actual[i]) - e) / std::max(1.0, std::abs(e));
      if (c.tolerance == 0.0) {
        of_tokens += error == 0.0 ? 0.0 : 1.0 / static_cast<double>(expected.size());
      } else if (!(error <= worst)) {
        worst = error;
      }
    }
    worst = std::max(worst, of_tokens);
  }
  return worst;
}

void run_case(const Case& c, double tb_per_s) {
  constexpr double kTurned = 128e6;  // bytes: twice the L2
  Side gpu(device::make_cuda_device({.name = "cuda:bench"}));
  const Prepared first = c.prepare(gpu);
  const double error = difference(c, gpu, first);
  // A draw at the border of two tokens may go either way.
  WEFT_CHECK(error <= (c.tolerance == 0.0 ? 0.02 : c.tolerance), "{} of {} rows is wrong: {}", c.name, c.rows,
             error);
  std::vector<Prepared> turns = {first};
  const double copies = kTurned / std::max(1.0, c.num_bytes);
  while (turns.size() < 16 && static_cast<double>(turns.size()) < copies) turns.push_back(c.prepare(gpu));
  const double us = gpu.time_us(64, [&](int i) { turns[static_cast<size_t>(i) % turns.size()].run(); });
  const double floor_us = c.num_bytes / (tb_per_s * 1e6);
  fmt::print("{:28} {:6} | {:9.2f} {:9.2f} {:8.2f} | {:.1e}\n", c.name, c.rows, us, floor_us, floor_us / us,
             error);
}

int run(double tb_per_s) {
  const std::string reason = device::cuda_unavailable_reason();
  WEFT_CHECK(reason.empty(), "bench_row_ops: no GPU: {}", reason);
  fmt::print("{:28} {:>6} | {:>9} {:>9} {:>8} | {}\n", "op", "rows", "us", "floor_us", "of_floor", "max_err");
  for (const int64_t rows : {1, 16, 128, 4096}) {
    for (const int64_t hidden : {1024, 2048, 4096}) run_case(add_rms_norm(rows, hidden), tb_per_s);
    run_case(norm_rope_write(rows, 16, 8), tb_per_s);
    run_case(norm_rope_write(rows, 32, 8), tb_per_s);
    run_case(norm_rope_write(rows, 32, 4), tb_per_s);
    for (const int64_t inter : {3072, 12288}) run_case(silu_mul(rows, inter), tb_per_s);
    if (rows > 128) continue;
    run_case(sample("greedy", rows, {.temperature = 0.0F}), tb_per_s);
    run_case(sample("t 0.6", rows, {.temperature = 0.6F}), tb_per_s);
    run_case(sample("t 0.6, k 20, p 0.95", rows, {.temperature = 0.6F, .top_p = 0.95F, .top_k = 20}),
             tb_per_s);
    run_case(logprobs("of none", rows, -1, 0), tb_per_s);
    run_case(logprobs("and top 5", rows, 7, 5), tb_per_s);
  }
  return 0;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) { return weft::bench::main_of(argc, argv, 4.1, &weft::run); }
