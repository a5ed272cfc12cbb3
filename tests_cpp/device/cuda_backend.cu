#include "device/cuda_backend.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"

namespace weft::device {
namespace {

using kernels::ceil_div;
using kernels::cuda_context;
using kernels::grid_x;
using kernels::launch;
using kernels::let_next_start;
using kernels::OpSite;
using kernels::wait_for_inputs;

constexpr int kThreads = 128;

__global__ void affine_kernel(OpSite site, uint32_t* data, int64_t n, uint32_t factor, uint32_t addend) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) data[i] = data[i] * factor + addend;
}

__global__ void mix_kernel(OpSite site, uint32_t* out, const uint32_t* in, int64_t n) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) out[i] = out[i] * 3 + in[i];
}

// Ends at the latest after some seconds, so that a failed test does not hold the GPU.
__global__ void hold_kernel(OpSite site, volatile int32_t* gate) {
  let_next_start();
  wait_for_inputs(site);
  for (int i = 0; i < 4000000 && *gate == 0; ++i) __nanosleep(10000);
}

__global__ void signal_kernel(OpSite site, volatile int32_t* flag) {
  let_next_start();
  wait_for_inputs(site);
  *flag = 1;
  __threadfence_system();
}

constexpr char kBoom[] = "boom";
__global__ void fail_kernel(OpSite site, const char* message) {
  let_next_start();
  wait_for_inputs(site);
  kernels::fail(site, message);
}

struct AffineArgs {
  TensorView data;
  int32_t factor;
  int32_t addend;
};
void run_affine(const AffineArgs& args, ExecContext& context) {
  const int64_t n = args.data.numel();
  if (n == 0) return;
  launch<&affine_kernel>(cuda_context(context),
                         {.grid = dim3(grid_x(ceil_div<int64_t>(n, kThreads))), .block = dim3(kThreads)},
                         cuda_context(context).site, args.data.as<uint32_t>(), n,
                         static_cast<uint32_t>(args.factor), static_cast<uint32_t>(args.addend));
}

struct MixArgs {
  TensorView out;
  TensorView in;
};
void run_mix(const MixArgs& args, ExecContext& context) {
  const int64_t n = args.out.numel();
  launch<&mix_kernel>(cuda_context(context),
                      {.grid = dim3(grid_x(ceil_div<int64_t>(n, kThreads))), .block = dim3(kThreads)},
                      cuda_context(context).site, args.out.as<uint32_t>(), args.in.as<uint32_t>(), n);
}

struct WordArgs {
  int32_t* word;
};
void run_hold(const WordArgs& args, ExecContext& context) {
  launch<&hold_kernel>(cuda_context(context), {}, cuda_context(context).site, args.word);
}
void run_signal(const WordArgs& args, ExecContext& context) {
  launch<&signal_kernel>(cuda_context(context), {}, cuda_context(context).site, args.word);
}
void run_fail(const WordArgs&, ExecContext& context) {
  launch<&fail_kernel>(cuda_context(context), {}, cuda_context(context).site, kBoom);
}

}  // namespace

std::unique_ptr<Device> CudaBackend::make_device(const std::string& name) const {
  return make_cuda_device({.name = name});
}

void CudaBackend::affine(Stream& stream, const TensorView& data, int32_t factor, int32_t addend) const {
  stream.launch<AffineArgs>("affine", run_affine, {data, factor, addend}, {read(data), write(data)});
}

void CudaBackend::mix(Stream& stream, const TensorView& out, const TensorView& in) const {
  stream.launch<MixArgs>("mix", run_mix, {out, in}, {read(in), read(out), write(out)});
}

void CudaBackend::hold(Stream& stream, const TensorView& gate) const {
  stream.launch<WordArgs>("hold", run_hold, {gate.as<int32_t>()}, {read(gate)});
}

void CudaBackend::signal(Stream& stream, const TensorView& flag) const {
  stream.launch<WordArgs>("signal", run_signal, {flag.as<int32_t>()}, {write(flag)});
}

void CudaBackend::fail(Stream& stream, const char* name) const {
  stream.launch<WordArgs>(name, run_fail, {nullptr}, std::initializer_list<Access>{});
}

}  // namespace weft::device
