// The CPU backend's part of the conformance suite.
#include <thread>

#include "base/error.h"
#include "device/backend.h"

namespace weft::device {
namespace {

struct AffineArgs {
  TensorView data;
  int32_t factor;
  int32_t addend;
};

void run_affine(const AffineArgs& args, ExecContext& /*context*/) {
  auto* data = args.data.as<uint32_t>();
  for (int64_t i = 0; i < args.data.numel(); ++i) {
    data[i] = data[i] * static_cast<uint32_t>(args.factor) + static_cast<uint32_t>(args.addend);
  }
}

struct MixArgs {
  TensorView out;
  TensorView in;
};

void run_mix(const MixArgs& args, ExecContext& /*context*/) {
  auto* out = args.out.as<uint32_t>();
  const auto* in = args.in.as<uint32_t>();
  for (int64_t i = 0; i < args.out.numel(); ++i) out[i] = out[i] * 3 + in[i];
}

struct HoldArgs {
  int32_t* gate;
};

void run_hold(const HoldArgs& args, ExecContext& /*context*/) {
  const auto deadline = std::chrono::steady_clock::now() + 2 * kLong;
  while (std::atomic_ref(*args.gate).load() == 0) {
    WEFT_CHECK(std::chrono::steady_clock::now() < deadline, "nobody opened the gate");
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

struct SignalArgs {
  int32_t* flag;
};

void run_signal(const SignalArgs& args, ExecContext& /*context*/) { std::atomic_ref(*args.flag).store(1); }

struct NoArgs {
  int32_t unused;
};

void run_fail(const NoArgs& /*args*/, ExecContext& /*context*/) { WEFT_THROW("boom"); }

class CpuBackend final : public TestBackend {
 public:
  explicit CpuBackend(uint64_t random_order) : random_order_(random_order) {}

  [[nodiscard]] std::unique_ptr<Device> make_device(const std::string& name) const override {
    return make_cpu_device({.name = name, .num_threads = 2, .random_order = random_order_});
  }
  [[nodiscard]] bool concurrent() const override { return random_order_ == 0; }
  void affine(Stream& stream, const TensorView& data, int32_t factor, int32_t addend) const override {
    stream.launch<AffineArgs>("affine", run_affine, {data, factor, addend}, {read(data), write(data)});
  }
  void mix(Stream& stream, const TensorView& out, const TensorView& in) const override {
    stream.launch<MixArgs>("mix", run_mix, {out, in}, {read(in), read(out), write(out)});
  }
  void hold(Stream& stream, const TensorView& gate) const override {
    stream.launch<HoldArgs>("hold", run_hold, {gate.as<int32_t>()}, {read(gate)});
  }
  void signal(Stream& stream, const TensorView& flag) const override {
    stream.launch<SignalArgs>("signal", run_signal, {flag.as<int32_t>()}, {write(flag)});
  }
  void fail(Stream& stream, const char* name) const override {
    stream.launch<NoArgs>(name, run_fail, {0}, std::initializer_list<Access>{});
  }

 private:
  uint64_t random_order_;
};

const CpuBackend kStreams(0);
const CpuBackend kRandom1(1);
const CpuBackend kRandom2(2);

INSTANTIATE_TEST_SUITE_P(Cpu, ConformanceTest, ::testing::Values(&kStreams),
                         [](const auto&) { return "Streams"; });
}  // namespace
INSTANTIATE_TEST_SUITE_P(CpuRandomOrder, ConformanceTest, ::testing::Values(&kRandom1, &kRandom2),
                         [](const auto& param) { return fmt::format("Seed{}", param.index + 1); });

Buffer ConformanceTest::zeros(int64_t n, const std::string& name) {
  Buffer buffer = device->allocate(static_cast<size_t>(n) * sizeof(int32_t), name);
  auto stream = device->make_stream("zeros");
  stream->fill(buffer.data(), 0, buffer.num_bytes());
  stream->wait_idle(kLong);
  return buffer;
}

int32_t ConformanceTest::first(Stream& stream, const Buffer& buffer) {
  const Buffer host = device->allocate_host(sizeof(int32_t), "first");
  stream.copy(host.data(), buffer.data(), sizeof(int32_t));
  stream.wait_idle(kLong);
  return *ints(host).as<int32_t>();
}

}  // namespace weft::device
