#include "device/null/null_device.h"

#include <algorithm>
#include <utility>

#include "device/buffer_impl.h"
#include "device/null/null_stream.h"

namespace weft::device {
namespace null {
namespace {

class NullBuffer final : public Buffer::Impl {
 public:
  NullBuffer(std::shared_ptr<Core> core, size_t bytes, const std::string& label)
      : Buffer::Impl(core->memory.take(bytes), bytes, label),
        core_(std::move(core)),
        record_(std::make_shared<BufferRecord>(reinterpret_cast<uintptr_t>(data), bytes, label)) {
    core_->buffers.add(record_);
    core_->allocated_bytes += bytes;
  }
  ~NullBuffer() override {
    core_->buffers.remove(record_);
    // No op touches the memory, so what is still to run may have used it.
    static_cast<void>(core_->order.destroy(*record_));
    core_->allocated_bytes -= num_bytes;
  }

 private:
  std::shared_ptr<Core> core_;
  std::shared_ptr<BufferRecord> record_;
};

class Implementation final : public NullDevice {
 public:
  explicit Implementation(NullOptions options) : core_(std::make_shared<Core>(std::move(options))) {}

  [[nodiscard]] Backend backend() const override { return Backend::kNull; }
  [[nodiscard]] const std::string& name() const override { return core_->options.name; }
  [[nodiscard]] Buffer allocate(size_t num_bytes, std::string_view name) override {
    return Buffer(std::make_unique<NullBuffer>(core_, num_bytes, std::string(name)));
  }
  [[nodiscard]] Buffer allocate_host(size_t num_bytes, std::string_view name) override {
    return allocate(num_bytes, name);
  }
  [[nodiscard]] std::unique_ptr<Stream> make_stream(std::string name) override {
    return std::make_unique<NullStream>(*this, core_, name);
  }
  [[nodiscard]] std::unique_ptr<Event> make_event() override { return std::make_unique<NullEvent>(core_); }
  [[nodiscard]] MemoryInfo memory() const override {
    return {.total_bytes = ~size_t{0},
            .free_bytes = ~size_t{0} - core_->allocated_bytes,
            .allocated_bytes = core_->allocated_bytes};
  }
  void on_failure(std::function<void(const std::string&)> /*handler*/) override {}  // no op can fail
  [[nodiscard]] std::string failure() const override { return {}; }
  void start_trace() override {
    core_->tracing = true;
    core_->spans.clear();
  }
  [[nodiscard]] std::vector<OpSpan> take_trace() override {
    core_->tracing = false;
    return std::exchange(core_->spans, {});
  }

  void advance() override { core_->advance(); }
  [[nodiscard]] std::vector<NullArrival>& arrivals() override { return core_->arrivals; }
  void pass(Cursor& lane, int64_t time_us) override { core_->pass(lane, time_us); }
  [[nodiscard]] bool idle() const override { return core_->idle(); }
  [[nodiscard]] std::string where() const override { return core_->where(); }
  [[nodiscard]] int64_t time_us() const override {
    int64_t time_us = 0;
    for (const auto& queue : core_->queues) {
      if (queue != nullptr) time_us = std::max(time_us, queue->cursor.time_us);
    }
    return time_us;
  }
  [[nodiscard]] const std::vector<const NullCollective*>& enqueued() const override {
    return core_->enqueued;
  }
  void clear_enqueued() override { core_->enqueued.clear(); }
  void forget() override { core_->forget(); }
  [[nodiscard]] int64_t num_waits() const override { return core_->num_waits; }
  [[nodiscard]] int64_t num_records() const override { return core_->num_records; }

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace
}  // namespace null

std::unique_ptr<NullDevice> make_null_device(NullOptions options) {
  return std::make_unique<null::Implementation>(std::move(options));
}

}  // namespace weft::device
