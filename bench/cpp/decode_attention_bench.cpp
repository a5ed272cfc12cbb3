// How fast is attention of decode rows on a GPU, against reading their keys and values once?
//
//   cmake -DWEFT_BUILD_BENCH=ON .. && ninja bench_decode_attention && ./bench_decode_attention
//   [TERABYTES_A_S]
//
// Checks some rows against f64 first, then times a graph of many runs, whose sequences lie all over a cache
// larger than what the GPU keeps of it. bf16, pages of 16. GQA: heads of 128 columns. MLA: latents of 512 +
// 64 columns, absorbed. Floor: the bytes of all keys and values at TERABYTES_A_S (4.1: an H200).
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

using bench::kDeadline;
using device::TensorView;

constexpr int64_t kPageSize = 16;
constexpr int64_t kCacheBytes = int64_t{1} << 30;  // of keys; values have as much again

struct Case {
  int64_t batch, kv_len;
  int64_t q_heads, kv_heads;  // kv_heads 0: MLA
  [[nodiscard]] bool is_mla() const { return kv_heads == 0; }
  [[nodiscard]] int64_t key_width() const { return is_mla() ? 576 : kv_heads * 128; }
  [[nodiscard]] int64_t query_width() const { return is_mla() ? 576 : 128; }
  [[nodiscard]] int64_t value_width() const { return is_mla() ? 512 : 128; }
  [[nodiscard]] double num_bytes() const {
    return static_cast<double>(batch * kv_len * key_width()) * (is_mla() ? 2.0 : 4.0);
  }
};

double value_of(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return static_cast<double>(value);
}

/// Random multiples of 1/128 in [-1, 1): exact in bf16.
std::vector<uint16_t> random_values(size_t count, uint64_t seed) {
  std::vector<uint16_t> out(count);
  std::mt19937_64 random(seed);
  for (uint16_t& x : out) {
    const float value = static_cast<float>(static_cast<int>(random() >> 56) - 128) / 128.0F;
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    x = static_cast<uint16_t>(bits >> 16);
  }
  return out;
}

class Bench {
 public:
  explicit Bench(device::Device& device) : device_(device), stream_(device.make_stream("compute")) {
    host_keys_ = random_values(static_cast<size_t>(kCacheBytes) / 2, 1);
    host_queries_ = random_values(size_t{128} * 64 * 576, 2);
    keys_ = upload(host_keys_);
    values_ = upload(host_keys_);  // the same numbers
    queries_ = upload(host_queries_);
    out_ = upload(std::vector<uint16_t>(host_queries_.size(), 0x7fc0));
  }

  /// {microseconds, largest error}.
  std::pair<double, double> run(const Case& c) {
    const int64_t slots = kCacheBytes / 2 / c.key_width();
    const int64_t pages_of_one = (c.kv_len + kPageSize - 1) / kPageSize;
    const int64_t pages = c.batch * pages_of_one;
    const auto wanted = static_cast<int64_t>(200e6 / c.num_bytes()) + 1;
    const int64_t turns = std::min({int64_t{64}, wanted, slots / kPageSize / pages});
    std::vector<int32_t> table(static_cast<size_t>(turns * pages));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(3));
    std::vector<int32_t> cu_q(static_cast<size_t>(c.batch) + 1);
    std::iota(cu_q.begin(), cu_q.end(), 0);
    arrays_.clear();
    const int32_t* const pages_of_turns = array(table);
    ops::SequenceBatch batch{
        .cu_q = array(cu_q),
        .kv_len = array(std::vector<int32_t>(static_cast<size_t>(c.batch), static_cast<int32_t>(c.kv_len))),
        .page_table = pages_of_turns,
        .num_seqs = array(std::vector<int32_t>{static_cast<int32_t>(c.batch)}),
        .max_seqs = static_cast<int32_t>(c.batch),
        .page_table_stride = static_cast<int32_t>(pages_of_one),
        .page_size = static_cast<int32_t>(kPageSize)};
    const auto enqueue = [&](int64_t turn) {
      batch.page_table = pages_of_turns + turn % turns * pages;
      enqueue_attention(c, batch, slots);
    };
    enqueue(0);
    const double error = max_error(c, table);
    const int count = c.num_bytes() > 1e8 ? 16 : 64;
    return {bench::median_us(*stream_, count, 7, enqueue), error};
  }

 private:
  static TensorView view(const device::Buffer& buffer, std::initializer_list<int64_t> shape) {
    return device::make_view(buffer.data(), DType::kBF16, shape);
  }

  void enqueue_attention(const Case& c, const ops::SequenceBatch& batch, int64_t slots) {
    const float scale = 1.0F / std::sqrt(static_cast<float>(c.query_width()));
    const TensorView out = view(out_, {c.batch, c.q_heads, c.value_width()});
    const TensorView queries = view(queries_, {c.batch, c.q_heads, c.query_width()});
    if (c.is_mla()) {
      TensorView nope = queries;
      nope.shape[2] = 512;
      TensorView rope = queries;
      rope.shape[2] = 64;
      rope.data = static_cast<uint16_t*>(queries.data) + 512;
      ops::mla_decode(*stream_, {.out = out,
                                 .q_nope = nope,
                                 .q_rope = rope,
                                 .cache = view(keys_, {slots, 576}),
                                 .batch = batch,
                                 .scale = scale});
      return;
    }
    ops::paged_attention(*stream_, {.out = out,
                                    .q = queries,
                                    .k_cache = view(keys_, {slots, c.kv_heads, 128}),
                                    .v_cache = view(values_, {slots, c.kv_heads, 128}),
                                    .batch = batch,
                                    .scale = scale});
  }

  /// The largest difference from f64 of the first and the last head of the first and the last sequence.
  double max_error(const Case& c, const std::vector<int32_t>& table) {
    const auto host = device_.allocate_host(out_.num_bytes(), "result");
    stream_->copy(host.data(), out_.data(), out_.num_bytes());
    stream_->wait_idle(kDeadline);
    const auto* const out = static_cast<const uint16_t*>(host.data());
    const int64_t pages_of_one = (c.kv_len + kPageSize - 1) / kPageSize;
    const double scale = 1.0 / std::sqrt(static_cast<double>(c.query_width()));
    double worst = 0;
    for (const int64_t s : {int64_t{0}, c.batch - 1}) {
      for (const int64_t head : {int64_t{0}, c.q_heads - 1}) {
        const uint16_t* const query = host_queries_.data() + (s * c.q_heads + head) * c.query_width();
        const int64_t kv_head = c.is_mla() ? 0 : head / (c.q_heads / c.kv_heads);
        std::vector<double> sum(static_cast<size_t>(c.value_width()));
        double total = 0;
        for (int64_t p = 0; p < c.kv_len; ++p) {
          const int64_t page = table[static_cast<size_t>(s * pages_of_one + p / kPageSize)];
          const int64_t slot = page * kPageSize + p % kPageSize;
          const uint16_t* const key = host_keys_.data() + slot * c.key_width() + kv_head * 128;
          double score = 0;
          for (int64_t d = 0; d < c.query_width(); ++d) score += value_of(query[d]) * value_of(key[d]);
          const double weight = std::exp(score * scale);  // scores are small
          total += weight;
          for (size_t d = 0; d < sum.size(); ++d) sum[d] += weight * value_of(key[d]);
        }
        for (size_t d = 0; d < sum.size(); ++d) {
          const double got =
              value_of(out[(s * c.q_heads + head) * c.value_width() + static_cast<int64_t>(d)]);
          worst = std::isnan(got) ? INFINITY : std::max(worst, std::abs(got - sum[d] / total));
        }
      }
    }
    return worst;
  }

  template <class T>
  device::Buffer upload(const std::vector<T>& from) {
    return bench::upload(device_, *stream_, from);
  }
  const int32_t* array(const std::vector<int32_t>& from) {
    arrays_.push_back(upload(from));
    return static_cast<const int32_t*>(arrays_.back().data());
  }

  device::Device& device_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<uint16_t> host_keys_, host_queries_;
  device::Buffer keys_, values_, queries_, out_;
  std::vector<device::Buffer> arrays_;
};

int run(double terabytes_a_second) {
  const auto device = device::make_cuda_device({.name = "cuda:bench"});
  fmt::print("{}; floor at {} TB/s\n\n", device::cuda_gpus()[0].name, terabytes_a_second);
  fmt::print("{:>6} {:>6} {:>6} | {:>8} {:>8} {:>6} {:>6} | {:>9}\n", "heads", "batch", "kv", "us",
             "floor us", "frac", "TB/s", "max error");
  Bench bench(*device);
  bool right = true;
  for (const auto& [q_heads, kv_heads] :
       {std::pair<int64_t, int64_t>{16, 8}, {32, 8}, {32, 4}, {64, 4}, {16, 0}}) {
    for (const int64_t batch : {1, 16, 64, 128}) {
      for (const int64_t kv_len : {128, 512, 1024, 4096}) {
        const Case c{batch, kv_len, q_heads, kv_heads};
        if (c.num_bytes() > static_cast<double>(kCacheBytes) * (c.is_mla() ? 1.0 : 2.0)) continue;
        const auto [us, error] = bench.run(c);
        const double floor = c.num_bytes() / terabytes_a_second * 1e-6;
        right = right && error < 8e-3;
        fmt::print("{:>6} {:>6} {:>6} | {:>8.2f} {:>8.2f} {:>6.2f} {:>6.2f} | {:>9.1e}\n",
                   c.is_mla() ? fmt::format("{} MLA", q_heads) : fmt::format("{}/{}", q_heads, kv_heads),
                   batch, kv_len, us, floor, floor / us, c.num_bytes() / us * 1e-6, error);
        std::fflush(stdout);
      }
    }
  }
  fmt::print("\n{}\n", right ? "all checked rows are right" : "WRONG: a difference above 8e-3");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) { return weft::bench::main_of(argc, argv, 4.1, &weft::run); }
