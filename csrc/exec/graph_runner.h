#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "exec/ledger.h"
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

/// A captured step and the collectives in it.
struct CapturedStep {
  std::unique_ptr<device::Graph> graph;
  uint64_t trace_hash = 0;
  std::vector<plan::CollectiveRecord> records;
};

/// A rank's graphs, by key, captured when a step first needs them.
class GraphRunner {
 public:
  /// Replays the step of `key` on `stream`; captures it first if need be by calling `enqueue`, which runs the
  /// stages once and returns their records. Nothing of the capture executes. If `enqueue` throws, so does
  /// this: no stream captures any more and no graph is kept.
  template <class Enqueue>
  const CapturedStep& replay(device::Stream& stream, const GraphKey& key, Enqueue&& enqueue) {
    auto found = steps_.find(key);
    if (found == steps_.end()) {
      CapturedStep step;
      stream.begin_capture();
      try {
        step.records = enqueue();
      } catch (...) {
        discard_capture(stream);
        throw;
      }
      step.graph = stream.end_capture();
      step.trace_hash = plan::shared_trace_hash(step.records);
      found = steps_.emplace(key, std::move(step)).first;
    }
    stream.replay(*found->second.graph);
    return found->second;
  }
  [[nodiscard]] size_t num_graphs() const { return steps_.size(); }

 private:
  static void discard_capture(device::Stream& stream) noexcept {
    try {
      static_cast<void>(stream.end_capture());
    } catch (const Error&) {
      // A stream that had joined was not joined back: no wonder, and the capture has ended all the same.
    }
  }

  std::map<GraphKey, CapturedStep> steps_;
};

}  // namespace weft::exec
