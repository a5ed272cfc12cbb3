#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/tensor.h"

/// Streams, events, graphs and buffers, alike on every backend. Nothing here is special to the CPU: the
/// conformance suite in tests_cpp/device runs on any Device.
namespace weft::device {

class Device;

enum class Backend : uint8_t { kCpu, kNull, kCuda };

/// Device memory with a name; move-only. `Device::allocate` makes it. Destroying it while a live Graph uses
/// it is allowed, but makes every later replay of that graph throw, naming the buffer.
class Buffer {
 public:
  struct Impl;
  Buffer();
  explicit Buffer(std::unique_ptr<Impl> impl);
  Buffer(Buffer&&) noexcept;
  Buffer& operator=(Buffer&&) noexcept;
  ~Buffer();

  [[nodiscard]] void* data() const;
  [[nodiscard]] size_t num_bytes() const;
  [[nodiscard]] const std::string& name() const;
  /// A contiguous view from byte `offset`; throws if it would pass the end.
  [[nodiscard]] TensorView view(DType dtype, std::initializer_list<int64_t> shape, size_t offset = 0) const;

 private:
  std::unique_ptr<Impl> impl_;
};

/// A byte range that an op reads or writes. The checked build proves that conflicting ranges are ordered.
struct Access {
  const void* data = nullptr;
  size_t num_bytes = 0;
  bool write = false;
};
inline Access read(const TensorView& view) { return {view.data, view.span_bytes(), false}; }
inline Access write(const TensorView& view) { return {view.data, view.span_bytes(), true}; }
inline Access read(const void* data, size_t num_bytes) { return {data, num_bytes, false}; }
inline Access write(const void* data, size_t num_bytes) { return {data, num_bytes, true}; }

/// What a running op may use: on the CPU the device's share of cores, on CUDA a stream
/// (device/cuda/cuda_context.h) that it launches kernels on, for there an op's function runs when it is
/// enqueued.
class ExecContext {
 public:
  virtual ~ExecContext() = default;
  /// Threads that parallel_for may use, this one included; >= 1.
  [[nodiscard]] virtual int num_threads() const = 0;
  /// Calls body(begin, end) on disjoint ranges that cover [0, n); returns when all are done. Ranges are
  /// multiples of `grain` long, but for the last. Exceptions of `body` come out here.
  virtual void parallel_for(int64_t n, int64_t grain,
                            const std::function<void(int64_t begin, int64_t end)>& body) = 0;
};

/// Marks ops that wait for other ranks, so that a test executor never holds others back for them.
enum class OpKind : uint8_t { kCompute, kCollective };

/// One enqueued operation. `args` points to trivially copyable bytes, which are copied at once.
struct Op {
  std::string_view name;  // static storage
  OpKind kind = OpKind::kCompute;
  int32_t tag = -1;  // for traces: Stream::set_tag
  void (*trampoline)(void (*fn)(), const void* args, ExecContext& context) = nullptr;
  void (*fn)() = nullptr;
  const void* args = nullptr;
  size_t args_bytes = 0;
  std::span<const Access> accesses;
  uint64_t* stamp = nullptr;  // Stream::stamp_next

  /// Calls visit(access) for each range that is not empty, the stamp too.
  template <class Visit>
  void for_each_access(const Visit& visit) const {
    for (const Access& access : accesses) {
      if (access.num_bytes > 0) visit(access);
    }
    if (stamp != nullptr) visit(write(stamp, sizeof(*stamp)));
  }
};

/// Marks a point in a stream. Re-recording moves it; a wait refers to the record that came before it.
class Event {
 public:
  virtual ~Event() = default;
  /// True once the last record has been reached (also if it was never recorded). Throws if the device failed,
  /// or if the last record is part of a capture.
  [[nodiscard]] virtual bool query() const = 0;
  /// Blocks the host until the last record has been reached. Throws if an op before it failed, if `timeout`
  /// passes (naming the op that the stream is in), or if the last record is part of a capture.
  virtual void wait_idle(std::chrono::milliseconds timeout) = 0;
};

/// A recorded DAG: per-stream lists of ops with frozen arguments, and event edges. One host thread at a time.
class Graph {
 public:
  virtual ~Graph() = default;
  [[nodiscard]] virtual size_t num_ops() const = 0;
  /// Names of the ops in capture order, for tests and traces.
  [[nodiscard]] virtual std::vector<std::string> op_names() const = 0;
};

/// An in-order queue of ops, run asynchronously. Enqueuing never blocks on the ops. One host thread at a
/// time.
class Stream {
 public:
  virtual ~Stream() = default;
  [[nodiscard]] virtual Device& device() const = 0;
  [[nodiscard]] virtual const std::string& name() const = 0;

  /// Enqueues `op`. Throws if an access lies outside the device's live buffers, or if another stream of the
  /// device captures and this one has not joined.
  virtual void enqueue(const Op& op) = 0;
  virtual void record(Event& event) = 0;
  virtual void wait(Event& event) = 0;

  /// Starts recording; ops are then stored, not run. Another stream joins the capture when it waits for an
  /// event recorded in it, and must be joined back before end_capture.
  virtual void begin_capture() = 0;
  /// Ends the capture, also when it throws: if a stream that joined was not joined back.
  [[nodiscard]] virtual std::unique_ptr<Graph> end_capture() = 0;
  [[nodiscard]] virtual bool is_capturing() const = 0;
  /// Enqueues a whole graph as one unit. Runs of one graph follow each other, on whatever streams. The graph
  /// may be destroyed at once. Throws if it uses a destroyed buffer, or while a stream of the device
  /// captures.
  virtual void replay(Graph& graph) = 0;

  /// Blocks the host until the stream is empty. Throws the first op's failure, or on `timeout` naming the op.
  virtual void wait_idle(std::chrono::milliseconds timeout) = 0;

  /// Enqueues fn(args). `Args` must be trivially copyable and hold no host pointer that may change or die.
  template <class Args>
  void launch(std::string_view name, void (*fn)(const Args&, ExecContext&),
              const std::type_identity_t<Args>& args, std::span<const Access> accesses,
              OpKind kind = OpKind::kCompute) {
    static_assert(std::is_trivially_copyable_v<Args>, "op arguments are copied as bytes");
    static_assert(alignof(Args) <= alignof(std::max_align_t), "op arguments are stored at this alignment");
    enqueue(Op{.name = name,
               .kind = kind,
               .tag = tag_,
               .trampoline =
                   [](void (*erased)(), const void* bytes, ExecContext& context) {
                     reinterpret_cast<void (*)(const Args&, ExecContext&)>(erased)(
                         *static_cast<const Args*>(bytes), context);
                   },
               .fn = reinterpret_cast<void (*)()>(fn),
               .args = &args,
               .args_bytes = sizeof(Args),
               .accesses = accesses,
               .stamp = std::exchange(stamp_, nullptr)});
  }
  template <class Args>
  void launch(std::string_view name, void (*fn)(const Args&, ExecContext&),
              const std::type_identity_t<Args>& args, std::initializer_list<Access> accesses,
              OpKind kind = OpKind::kCompute) {
    launch<Args>(name, fn, args, std::span<const Access>(accesses.begin(), accesses.size()), kind);
  }

  /// Marks the ops enqueued from now on, in traces alone: the micro-batch that they work for.
  void set_tag(int32_t tag) { tag_ = tag; }
  [[nodiscard]] int32_t tag() const { return tag_; }
  /// The next op, in a graph each time that it runs, writes the time at which it began to *stamp, in a device
  /// or host buffer: nanoseconds of the device's clock. For what is always measured; costs next to nothing.
  /// On CUDA copies and fills leave it to the op behind them, an op of several kernels means the last one,
  /// and kernels of other libraries write nothing. Nothing runs on a null device.
  void stamp_next(uint64_t* stamp) { stamp_ = stamp; }

  /// Copies bytes between device buffers and host buffers of this device (either may be either).
  virtual void copy(void* dst, const void* src, size_t num_bytes) = 0;
  /// Sets bytes.
  virtual void fill(void* dst, uint8_t value, size_t num_bytes) = 0;

 protected:
  int32_t tag_ = -1;
  uint64_t* stamp_ = nullptr;
};

/// When an op ran.
struct OpSpan {
  std::string stream;
  std::string_view name;
  int32_t tag = -1;
  double start_us = 0.0;  // since the clock's epoch, the same for all devices of the process
  double end_us = 0.0;
  OpKind kind = OpKind::kCompute;
};

struct MemoryInfo {
  size_t total_bytes = 0;  // what this process may use (the control group's limit counts)
  size_t free_bytes = 0;
  size_t allocated_bytes = 0;  // by this Device
};

/// One rank's device. Owns its streams' threads; must outlive its buffers, streams, events and graphs.
class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual Backend backend() const = 0;
  [[nodiscard]] virtual const std::string& name() const = 0;
  /// Zero bytes is legal. Memory is not initialised. Throws Error if there is not enough.
  [[nodiscard]] virtual Buffer allocate(size_t num_bytes, std::string_view name) = 0;
  /// True if the host may read and write buffers of allocate(), while no op uses them.
  [[nodiscard]] bool host_can_write() const { return backend() == Backend::kCpu; }
  /// Host memory that copies may run from asynchronously.
  [[nodiscard]] virtual Buffer allocate_host(size_t num_bytes, std::string_view name) = 0;
  [[nodiscard]] virtual std::unique_ptr<Stream> make_stream(std::string name) = 0;
  [[nodiscard]] virtual std::unique_ptr<Event> make_event() = 0;
  [[nodiscard]] virtual MemoryInfo memory() const = 0;
  /// Called once, on a stream's thread, with the message of the first op that fails. After a failure the
  /// device runs no further op: queued ones are dropped and every wait throws that message.
  virtual void on_failure(std::function<void(const std::string&)> handler) = 0;
  /// The message of the first failure; empty while healthy.
  [[nodiscard]] virtual std::string failure() const = 0;
  /// From now on keeps when each op runs, graphs' ops too; costs two clock readings an op.
  virtual void start_trace() = 0;
  /// Ends it. Spans in order of their ends.
  [[nodiscard]] virtual std::vector<OpSpan> take_trace() = 0;
};

struct CpuOptions {
  std::string name = "cpu:0";
  int num_threads = 1;        // cores for this rank's ops
  uint64_t random_order = 0;  // not 0: run ops one at a time, in a random legal order from this seed
  int64_t drop_wait = -1;     // tests only: ignore the wait with this index (in enqueue order)
  int64_t fail_op = -1;       // tests only: the op with this index (in the order of running) throws
};
[[nodiscard]] std::unique_ptr<Device> make_cpu_device(CpuOptions options);
/// Waits that a CPU device has counted so far: the range of CpuOptions::drop_wait. Waits that could change
/// nothing (for the own stream, or for an event that was never recorded) are not counted.
[[nodiscard]] int64_t cpu_num_waits(const Device& device);
/// Ops that a CPU device has run so far: the range of CpuOptions::fail_op.
[[nodiscard]] int64_t cpu_num_ops(const Device& device);

#if WEFT_CUDA
struct CudaOptions {
  std::string name = "cuda:0";
  int ordinal = 0;       // which GPU
  int64_t fail_op = -1;  // tests only: the op with this index (in enqueue order, ops of replays too) fails
  /// Tests only: called for the op `fail_op` instead, before its kernels; may launch one that holds the
  /// stream.
  void (*hold)(ExecContext& context) = nullptr;
};
/// One GPU. Beyond the contract above: after a failure the kernels that were queued before still run, on
/// whatever is there, but nobody sees a result; on_failure's handler is called by the thread that meets the
/// failure in a wait or query. While a trace runs, replays run their ops one by one, as nothing tells the
/// times inside a graph. Throws Error if there is no such GPU, or no driver.
[[nodiscard]] std::unique_ptr<Device> make_cuda_device(CudaOptions options);
/// Ops that a CUDA device has been given so far: the range of CudaOptions::fail_op.
[[nodiscard]] int64_t cuda_num_ops(const Device& device);
/// GPUs that can be used; 0 without a driver.
[[nodiscard]] int cuda_device_count();
/// Why there is none, or why GPU 0 cannot run weft's kernels, for messages; empty if it can.
[[nodiscard]] std::string cuda_unavailable_reason();
struct CudaGpu {
  std::string name;
  std::string compute_capability;  // "9.0"
  int num_sms = 0;
  MemoryInfo memory = {};
};
/// One entry a GPU, by ordinal; takes a context on each.
[[nodiscard]] std::vector<CudaGpu> cuda_gpus();
/// All memory of a GPU; takes no context.
[[nodiscard]] size_t cuda_total_bytes(int ordinal);
/// What of it nobody uses now; takes a context.
[[nodiscard]] size_t cuda_free_bytes(int ordinal);
/// True in a build whose "GPU" is the CPU (tests_cpp/support/cuda_emulation/).
[[nodiscard]] bool cuda_is_emulated();
#endif

}  // namespace weft::device
