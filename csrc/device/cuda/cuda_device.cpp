#include <utility>

#include "base/error.h"
#include "device/buffer_impl.h"
#include "device/cuda/cuda_core.h"
#include "device/cuda/cuda_event.h"
#include "device/cuda/cuda_stream.h"

namespace weft::device {
namespace cuda {
namespace {

/// Device memory, or pinned host memory. Freed once nothing that is enqueued now may use it.
template <class Memory>
class CudaBuffer final : public Buffer::Impl {
 public:
  CudaBuffer(std::shared_ptr<Core> core, Memory memory, size_t bytes, const std::string& label)
      : Buffer::Impl(memory.get(), bytes, label),
        core_(std::move(core)),
        memory_(std::move(memory)),
        record_(std::make_shared<BufferRecord>(reinterpret_cast<uintptr_t>(data), bytes, label)) {
    core_->buffers.add(record_);
    core_->allocated_bytes.fetch_add(num_bytes);
  }
  ~CudaBuffer() override {
    (void)cudaSetDevice(core_->options.ordinal);
    core_->buffers.remove(record_);
    core_->allocated_bytes.fetch_sub(num_bytes);
    core_->retire([memory = std::shared_ptr<void>(std::move(memory_))]() mutable { memory.reset(); });
  }

 private:
  std::shared_ptr<Core> core_;
  Memory memory_;
  std::shared_ptr<BufferRecord> record_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(CudaOptions options) : core_(std::make_shared<Core>(std::move(options))) {}

  [[nodiscard]] Backend backend() const override { return Backend::kCuda; }
  [[nodiscard]] const std::string& name() const override { return core_->options.name; }
  [[nodiscard]] Buffer allocate(size_t num_bytes, std::string_view name) override {
    const std::string label(name);
    return Buffer(std::make_unique<CudaBuffer<DeviceMemory>>(core_, core_->allocate(num_bytes, label),
                                                             num_bytes, label));
  }
  [[nodiscard]] Buffer allocate_host(size_t num_bytes, std::string_view name) override {
    const std::string label(name);
    return Buffer(std::make_unique<CudaBuffer<HostMemory>>(core_, core_->allocate_host(num_bytes, label),
                                                           num_bytes, label));
  }
  [[nodiscard]] std::unique_ptr<Stream> make_stream(std::string name) override {
    core_->bind();
    return std::make_unique<CudaStream>(*this, core_, std::move(name));
  }
  [[nodiscard]] std::unique_ptr<Event> make_event() override {
    core_->bind();
    return std::make_unique<CudaEvent>(core_);
  }
  [[nodiscard]] MemoryInfo memory() const override {
    core_->bind();
    core_->sweep();
    const RelaxedCapture relaxed;
    MemoryInfo info{.allocated_bytes = core_->allocated_bytes.load()};
    check_cuda(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "cudaMemGetInfo");
    return info;
  }
  void on_failure(std::function<void(const std::string&)> handler) override {
    core_->health.on_failure(std::move(handler));
  }
  [[nodiscard]] std::string failure() const override {
    try {
      core_->check();
    } catch (const Error&) {
      // It is what is asked for.
    }
    return core_->health.message();
  }
  void start_trace() override {
    core_->bind();
    core_->trace.start();
  }
  [[nodiscard]] std::vector<OpSpan> take_trace() override {
    core_->bind();
    return core_->trace.take();
  }
  [[nodiscard]] int64_t num_ops() const { return core_->num_ops.load(); }

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Device> make_cuda_device(CudaOptions options) {
  return std::make_unique<cuda::CudaDevice>(std::move(options));
}

int64_t cuda_num_ops(const Device& device) {
  const auto* cuda_device = dynamic_cast<const cuda::CudaDevice*>(&device);
  WEFT_CHECK(cuda_device != nullptr, "{} is not a CUDA device", device.name());
  return cuda_device->num_ops();
}

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

std::vector<CudaGpu> cuda_gpus() {
  std::vector<CudaGpu> gpus;
  for (int ordinal = 0; ordinal < cuda_device_count(); ++ordinal) {
    cudaDeviceProp properties{};
    cuda::check_cuda(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
    CudaGpu gpu{.name = properties.name,
                .compute_capability = fmt::format("{}.{}", properties.major, properties.minor),
                .num_sms = properties.multiProcessorCount};
    cuda::check_cuda(cudaSetDevice(ordinal), "cudaSetDevice");
    cuda::check_cuda(cudaMemGetInfo(&gpu.memory.free_bytes, &gpu.memory.total_bytes), "cudaMemGetInfo");
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

size_t cuda_total_bytes(int ordinal) {
  cudaDeviceProp properties{};
  cuda::check_cuda(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  return properties.totalGlobalMem;
}

size_t cuda_free_bytes(int ordinal) {
  size_t free_bytes = 0, total_bytes = 0;
  cuda::check_cuda(cudaSetDevice(ordinal), "cudaSetDevice");
  cuda::check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return free_bytes;
}

bool cuda_is_emulated() {
#if WEFT_CUDA_EMULATED
  return true;
#else
  return false;
#endif
}

std::string cuda_unavailable_reason() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (error == cudaSuccess && count > 0) return cuda::why_unusable(0);
  if (error == cudaSuccess) return "this machine has no NVIDIA GPU";
  return fmt::format("no GPU can be used: {} ({})", cudaGetErrorName(error), cudaGetErrorString(error));
}

}  // namespace weft::device
