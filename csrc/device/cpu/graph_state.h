#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/buffer_table.h"
#include "device/clock.h"
#include "device/cpu/command.h"
#include "device/cpu/progress.h"
#include "device/cpu/task_threads.h"

namespace weft::device::cpu {

class GraphState;
class OpRunner;

/// The commands of one captured stream. A wait names another lane and a position in it. As a task it executes
/// run `run_index`.
///
/// Positions count over all runs of the graph: run n of a lane of k commands covers [n * k, (n + 1) * k), so
/// that nothing has to be reset between replays.
struct GraphLane final : Task {
  std::string stream_name;
  CommandList commands;
  Progress progress;
  std::atomic<const Command*> current{nullptr};

  GraphState* graph = nullptr;
  OpRunner* runner = nullptr;
  uint64_t run_index = 0;
  void run() override;
};

/// What a replay needs: immutable commands, and counters of the one run that is under way. Runs of one graph
/// follow each other in order of enqueueing, on whatever streams (as in CUDA). Kept alive by queued replays.
class GraphState {
 public:
  std::vector<std::unique_ptr<GraphLane>> lanes;             // [0] is the stream that began the capture
  std::vector<std::string> op_names;                         // capture order
  std::vector<std::shared_ptr<const BufferRecord>> buffers;  // each one that an op touches
  std::vector<BufferAccess> accesses;                        // their union; checked builds only

  std::atomic<uint64_t> num_enqueued{0};
  Progress finished;  // runs
  Clock last_run;     // what the last enqueued run stands for; checked builds only

  /// Executes run `run` on this thread and those of `threads`; returns when it is done.
  static void execute(const std::shared_ptr<GraphState>& graph, uint64_t run, OpRunner& runner,
                      TaskThreads& threads);
  /// The position that a lane has to reach in run `run` before `command`, a wait for it, is over.
  [[nodiscard]] uint64_t wait_position(const Command& command, uint64_t run) const {
    return run * lanes[command.ref]->commands.count() + command.position;
  }
  /// The ops that the lanes are in, for messages.
  [[nodiscard]] std::string where() const;
};

}  // namespace weft::device::cpu
