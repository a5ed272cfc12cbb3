#include <utility>

#include "base/error.h"
#include "device/buffer_impl.h"
#include "device/cpu/core.h"
#include "device/cpu/cpu_event.h"
#include "device/cpu/cpu_stream.h"
#include "device/cpu/host_memory.h"

namespace weft::device {
namespace cpu {
namespace {

class CpuBuffer final : public Buffer::Impl {
 public:
  CpuBuffer(std::shared_ptr<Core> core, Memory memory, size_t bytes, const std::string& label)
      : Buffer::Impl(memory.get(), bytes, label),
        core_(std::move(core)),
        memory_(std::move(memory)),
        record_(std::make_shared<BufferRecord>(reinterpret_cast<uintptr_t>(data), bytes, label)) {
    core_->buffers.add(record_);
  }
  ~CpuBuffer() override {
    core_->buffers.remove(record_);
    const std::string use = core_->order.destroy(*record_);
    if (!use.empty()) {
      core_->health.fail(
          fmt::format("{}: buffer '{}' was destroyed while {} may still use it; wait for it first",
                      core_->options.name, name, use));
    }
    core_->retire(std::move(memory_), num_bytes);
  }

 private:
  std::shared_ptr<Core> core_;
  Memory memory_;
  std::shared_ptr<BufferRecord> record_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(CpuOptions options) : core_(std::make_shared<Core>(std::move(options))) {}

  [[nodiscard]] Backend backend() const override { return Backend::kCpu; }
  [[nodiscard]] const std::string& name() const override { return core_->options.name; }
  [[nodiscard]] Buffer allocate(size_t num_bytes, std::string_view name) override {
    const std::string label(name);
    return Buffer(std::make_unique<CpuBuffer>(core_, core_->allocate(num_bytes, label), num_bytes, label));
  }
  [[nodiscard]] Buffer allocate_host(size_t num_bytes, std::string_view name) override {
    return allocate(num_bytes, name);
  }
  [[nodiscard]] std::unique_ptr<Stream> make_stream(std::string name) override {
    return std::make_unique<CpuStream>(*this, core_, name);
  }
  [[nodiscard]] std::unique_ptr<Event> make_event() override { return std::make_unique<CpuEvent>(core_); }
  [[nodiscard]] MemoryInfo memory() const override {
    core_->sweep();
    const HostMemory host = read_host_memory();
    return {.total_bytes = host.total_bytes,
            .free_bytes = host.free_bytes,
            .allocated_bytes = core_->allocated_bytes.load()};
  }
  void on_failure(std::function<void(const std::string&)> handler) override {
    core_->health.on_failure(std::move(handler));
  }
  [[nodiscard]] std::string failure() const override { return core_->health.message(); }
  void start_trace() override { core_->runner.start_trace(); }
  [[nodiscard]] std::vector<OpSpan> take_trace() override { return core_->runner.take_trace(); }
  [[nodiscard]] int64_t num_waits() const { return core_->num_waits.load(); }
  [[nodiscard]] int64_t num_ops() const { return core_->runner.num_ops(); }

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Device> make_cpu_device(CpuOptions options) {
  return std::make_unique<cpu::CpuDevice>(std::move(options));
}

namespace {

const cpu::CpuDevice& as_cpu(const Device& device) {
  const auto* cpu_device = dynamic_cast<const cpu::CpuDevice*>(&device);
  WEFT_CHECK(cpu_device != nullptr, "{} is not a CPU device", device.name());
  return *cpu_device;
}

}  // namespace

int64_t cpu_num_waits(const Device& device) { return as_cpu(device).num_waits(); }

int64_t cpu_num_ops(const Device& device) { return as_cpu(device).num_ops(); }

}  // namespace weft::device
