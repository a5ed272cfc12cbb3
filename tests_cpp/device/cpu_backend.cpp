#include "device/cpu_backend.h"

#include <atomic>
#include <thread>

#include "base/error.h"

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

}  // namespace

std::unique_ptr<Device> CpuBackend::make_device(const std::string& name) const {
  CpuOptions options = options_;
  options.name = name;
  return make_cpu_device(options);
}

void CpuBackend::affine(Stream& stream, const TensorView& data, int32_t factor, int32_t addend) const {
  stream.launch<AffineArgs>("affine", run_affine, {data, factor, addend}, {read(data), write(data)});
}

void CpuBackend::mix(Stream& stream, const TensorView& out, const TensorView& in) const {
  stream.launch<MixArgs>("mix", run_mix, {out, in}, {read(in), read(out), write(out)});
}

void CpuBackend::hold(Stream& stream, const TensorView& gate) const {
  stream.launch<HoldArgs>("hold", run_hold, {gate.as<int32_t>()}, {read(gate)});
}

void CpuBackend::signal(Stream& stream, const TensorView& flag) const {
  stream.launch<SignalArgs>("signal", run_signal, {flag.as<int32_t>()}, {write(flag)});
}

void CpuBackend::fail(Stream& stream, const char* name) const {
  stream.launch<NoArgs>(name, run_fail, {0}, std::initializer_list<Access>{});
}

}  // namespace weft::device
