#include "device/cpu/graph_state.h"

#include "base/error.h"
#include "device/cpu/op_runner.h"

namespace weft::device::cpu {

void GraphLane::run() {
  const uint64_t run = run_index;
  uint64_t position = run * commands.count();
  for (size_t offset = 0; offset < commands.num_bytes();) {
    const Command& command = *commands.at(offset);
    current.store(&command, std::memory_order_release);
    if (command.type == Command::Type::kOp) {
      runner->run(command, stream_name);
    } else {
      graph->lanes[command.ref]->progress.wait(graph->wait_position(command, run));
    }
    offset += command.num_bytes;
    if (offset == commands.num_bytes()) current.store(nullptr, std::memory_order_release);
    progress.publish(++position);  // the last one may let the next run start: nothing is touched after it
  }
}

void GraphState::execute(const std::shared_ptr<GraphState>& graph, uint64_t run, OpRunner& runner,
                         TaskThreads& threads) {
  graph->finished.wait(run);
  for (size_t i = 0; i < graph->lanes.size(); ++i) {
    GraphLane& lane = *graph->lanes[i];
    lane.runner = &runner;
    lane.run_index = run;
    // The task shares ownership of the whole graph, and costs no allocation.
    if (i != 0 && lane.commands.count() != 0) threads.run(std::shared_ptr<Task>(graph, &lane));
  }
  graph->lanes[0]->run();
  for (const auto& lane : graph->lanes) lane->progress.wait((run + 1) * lane->commands.count());
  graph->finished.publish(run + 1);
}

std::string GraphState::where() const {
  std::string text = "the replay of a graph";
  for (const auto& lane : lanes) {
    const Command* command = lane->current.load(std::memory_order_acquire);
    if (command == nullptr) continue;
    if (command->type == Command::Type::kOp) {
      text += fmt::format(", lane '{}' in op '{}'", lane->stream_name, command->name);
    } else {
      text += fmt::format(", lane '{}' in a wait for lane '{}'", lane->stream_name,
                          lanes[command->ref]->stream_name);
    }
  }
  return text;
}

}  // namespace weft::device::cpu
