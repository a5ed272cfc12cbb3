#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "exec/ledger.h"
#include "exec/stage_times.h"
#include "plan/step_plan.h"

namespace weft::exec {

/// What tells two graphs apart (design.md, "Graph key").
struct GraphKey {
  int64_t bucket = 0;
  bool tbo = false;
  plan::DispatchMode dispatch{};
  int64_t expert_chunks = 1;

  bool operator<(const GraphKey& other) const {
    return std::tie(bucket, tbo, dispatch, expert_chunks) <
           std::tie(other.bucket, other.tbo, other.dispatch, other.expert_chunks);
  }
};

/// What the host knows of an enqueued step.
struct EnqueuedStep {
  std::vector<plan::CollectiveRecord> records;
  std::vector<StageGroup> groups;  // StageMarks::groups
};

/// A captured step.
struct CapturedStep {
  std::unique_ptr<device::Graph> graph;
  uint64_t trace_hash = 0;
  EnqueuedStep step;
};

/// A rank's graphs, by key, captured by capture() or when a step first needs them.
class GraphRunner {
 public:
  /// Captures the step of `key` unless it has been, by calling `enqueue`, which runs the stages once on
  /// `stream` and returns what it enqueued. Nothing of a capture executes. If `enqueue` throws, so does this:
  /// no stream captures any more and no graph is kept.
  template <class Enqueue>
  const CapturedStep& capture(device::Stream& stream, const GraphKey& key, Enqueue&& enqueue) {
    const auto found = steps_.find(key);
    if (found != steps_.end()) return found->second;
    const Cost cost(stream.device());
    CapturedStep captured;
    stream.begin_capture();
    try {
      captured.step = enqueue();
    } catch (...) {
      discard_capture(stream);
      throw;
    }
    captured.graph = stream.end_capture();
    captured.trace_hash = plan::shared_trace_hash(captured.step.records);
    cost.add_to(*this);
    return steps_.emplace(key, std::move(captured)).first->second;
  }
  /// Replays the step of `key` on `stream`, captured first if need be.
  template <class Enqueue>
  const CapturedStep& replay(device::Stream& stream, const GraphKey& key, Enqueue&& enqueue) {
    const CapturedStep& captured = capture(stream, key, std::forward<Enqueue>(enqueue));
    stream.replay(*captured.graph);
    return captured;
  }
  [[nodiscard]] size_t num_graphs() const { return steps_.size(); }
  /// Host time of all captures, and device memory that the graphs took; the latter on CUDA only, and as good
  /// as what the GPU says of free memory.
  [[nodiscard]] double capture_us() const { return capture_us_; }
  [[nodiscard]] int64_t num_bytes() const { return num_bytes_; }

 private:
  /// Of one capture.
  class Cost {
   public:
    explicit Cost(const device::Device& device)
        : device_(device), free_(free_bytes()), start_(std::chrono::steady_clock::now()) {}
    void add_to(GraphRunner& runner) const {
      const std::chrono::duration<double, std::micro> passed = std::chrono::steady_clock::now() - start_;
      runner.capture_us_ += passed.count();
      runner.num_bytes_ += std::max<int64_t>(0, free_ - free_bytes());
    }

   private:
    [[nodiscard]] int64_t free_bytes() const {
      if (device_.backend() != device::Backend::kCuda) return 0;
      return static_cast<int64_t>(device_.memory().free_bytes);
    }

    const device::Device& device_;
    int64_t free_;
    std::chrono::steady_clock::time_point start_;
  };

  static void discard_capture(device::Stream& stream) noexcept {
    try {
      static_cast<void>(stream.end_capture());
    } catch (const Error&) {
      // A stream that had joined was not joined back: no wonder, and the capture has ended all the same.
    }
  }

  std::map<GraphKey, CapturedStep> steps_;
  double capture_us_ = 0.0;
  int64_t num_bytes_ = 0;
};

}  // namespace weft::exec
