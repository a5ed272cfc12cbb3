#include "device/null/core.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "device/stream_checks.h"

namespace weft::device::null {

AddressSpace::~AddressSpace() {
  for (const Piece& piece : pieces_) munmap(piece.begin, piece.num_bytes);
}

void* AddressSpace::take(size_t num_bytes) {
  constexpr size_t kPiece = size_t{16} << 20;
  constexpr size_t kAlign = 64;
  // A byte more keeps an empty buffer apart from its neighbour.
  const size_t size = round_up(num_bytes + 1, kAlign);
  if (pieces_.empty() || pieces_.back().used + size > pieces_.back().num_bytes) {
    const size_t piece = std::max(kPiece, round_up(size, size_t{4096}));
    void* begin =
        mmap(nullptr, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    WEFT_CHECK(begin != MAP_FAILED, "null device: {} bytes of address space cannot be reserved", piece);
    pieces_.push_back({static_cast<std::byte*>(begin), piece, 0});
  }
  Piece& piece = pieces_.back();
  void* result = piece.begin + piece.used;
  piece.used += size;
  return result;
}

size_t Capture::add_lane(const std::string& stream) {
  graph->lanes.push_back(std::make_unique<Script>());
  graph->streams.push_back(stream);
  clocks.emplace_back();
  history.add_agent(stream);
  return clocks.size() - 1;
}

std::shared_ptr<Recording> Capture::finish() {
  active = false;
  for (size_t lane = 1; lane < clocks.size(); ++lane) {
    check_joined_back(clock_at(clocks[0], lane) >= graph->lanes[lane]->ops.size(), graph->streams[lane],
                      graph->streams[0]);
  }
  graph->accesses = cpu::coalesce(std::move(accesses));
  return std::exchange(graph, nullptr);
}

void Core::advance() {
  bool moved = true;
  while (moved) {
    moved = false;
    for (const auto& queue : queues) {
      if (queue != nullptr) moved = advance(queue->cursor) || moved;
    }
  }
}

bool Core::advance(Cursor& cursor) {
  bool moved = false;
  while (cursor.next_command < cursor.script->commands.size()) {
    const Command& command = cursor.script->commands[cursor.next_command];
    moved = moved || cursor.position < command.position;
    run_ops(cursor, command.position);
    if (command.type == Command::Type::kReplay) {
      if (!run_replay(cursor, command)) return moved;
    } else if (!run_command(cursor, command)) {
      return moved;
    }
    ++cursor.next_command;
    moved = true;
  }
  moved = moved || cursor.position < cursor.script->ops.size();
  run_ops(cursor, cursor.script->ops.size());
  return moved;
}

// Whether the lane gets past the command.
bool Core::run_command(Cursor& cursor, const Command& command) {
  switch (command.type) {
    case Command::Type::kMark:
      cursor.mark_times.push_back(cursor.time_us);
      return true;
    case Command::Type::kWait: {
      const Cursor* other = lane_of(cursor, command.lane);
      if (other == nullptr) return true;  // a stream ends with all of its work done
      if (!other->passed(command.index)) return false;
      cursor.time_us = std::max(cursor.time_us, other->mark_time(command.index));
      return true;
    }
    default:
      if (!std::exchange(cursor.stands, true)) {
        arrivals.push_back({&cursor, cursor.script->collectives[command.index], cursor.time_us});
      }
      return false;
  }
}

bool Core::run_replay(Cursor& cursor, const Command& command) {
  if (cursor.replay == nullptr) {
    const auto& graph = cursor.script->graphs[command.index];
    if (std::exchange(graph->running, true)) return false;  // runs of one graph follow each other
    cursor.replay = std::make_unique<Run>();
    cursor.replay->graph = graph;
    cursor.replay->lanes.resize(graph->lanes.size());
    for (size_t lane = 0; lane < graph->lanes.size(); ++lane) {
      Cursor& start = cursor.replay->lanes[lane];
      start.script = graph->lanes[lane].get();
      start.stream = graph->streams[lane];
      start.time_us = cursor.time_us;
      start.run = cursor.replay.get();
    }
  }
  Run& run = *cursor.replay;
  for (bool moved = true; moved;) {
    moved = false;
    for (Cursor& lane : run.lanes) moved = advance(lane) || moved;
  }
  for (const Cursor& lane : run.lanes) {
    if (!lane.done()) return false;
    cursor.time_us = std::max(cursor.time_us, lane.time_us);
  }
  run.graph->running = false;
  cursor.replay.reset();
  return true;
}

void Core::run_ops(Cursor& cursor, size_t position) {
  if (tracing) {
    for (size_t i = cursor.position; i < position; ++i) {
      const auto& op = cursor.script->ops[i];
      const auto start = static_cast<double>(cursor.time_us + static_cast<int64_t>(i - cursor.position));
      spans.push_back({std::string(cursor.stream), op.name, op.tag, start, start + 1.0});
    }
  }
  cursor.time_us += static_cast<int64_t>(position - cursor.position);
  cursor.position = position;
}

void Core::pass(Cursor& cursor, int64_t time_us) {
  const Command& command = cursor.script->commands[cursor.next_command];
  if (tracing) {
    const NullCollective& op = *cursor.script->collectives[command.index];
    spans.push_back({std::string(cursor.stream), op.name, op.tag, static_cast<double>(cursor.time_us),
                     static_cast<double>(time_us), OpKind::kCollective});
  }
  cursor.stands = false;
  cursor.time_us = time_us;
  ++cursor.position;
  ++cursor.next_command;
}

const Cursor* Core::lane_of(const Cursor& cursor, uint32_t lane) const {
  if (cursor.run != nullptr) return &cursor.run->lanes[lane];
  return queues[lane] == nullptr ? nullptr : &queues[lane]->cursor;
}

bool Core::idle() const {
  return std::all_of(queues.begin(), queues.end(),
                     [](const auto& queue) { return queue == nullptr || queue->cursor.done(); });
}

std::string Core::where(const Cursor& cursor) const {
  if (cursor.done()) return fmt::format("{} at its end", cursor.stream);
  if (cursor.next_command == cursor.script->commands.size())
    return fmt::format("{} free to run", cursor.stream);
  const Command& command = cursor.script->commands[cursor.next_command];
  switch (command.type) {
    case Command::Type::kCollective:
      return fmt::format("{} at '{}'", cursor.stream, cursor.script->collectives[command.index]->name);
    case Command::Type::kWait: {
      const Cursor* other = lane_of(cursor, command.lane);
      return fmt::format("{} at a wait for {}", cursor.stream, other == nullptr ? "nobody" : other->stream);
    }
    case Command::Type::kReplay: {
      if (cursor.replay == nullptr) return fmt::format("{} at a replay", cursor.stream);
      std::string lanes;
      for (const Cursor& lane : cursor.replay->lanes) lanes += (lanes.empty() ? "" : ", ") + where(lane);
      return fmt::format("{} in a replay ({})", cursor.stream, lanes);
    }
    case Command::Type::kMark:
      break;
  }
  return fmt::format("{} free to run", cursor.stream);
}

std::string Core::where() const {
  std::string all;
  for (const auto& queue : queues) {
    if (queue != nullptr) all += (all.empty() ? "" : ", ") + where(queue->cursor);
  }
  return all;
}

void Core::forget() {
  WEFT_CHECK(idle(), "{}: forget() while {}", options.name, where());
  for (const auto& queue : queues) {
    if (queue == nullptr) continue;
    Cursor& cursor = queue->cursor;
    cursor.first_mark += cursor.mark_times.size();
    cursor.mark_times.clear();
    queue->script.clear();
    cursor.next_command = 0;
    cursor.position = 0;
  }
  collective_memory.clear();
  enqueued.clear();
}

}  // namespace weft::device::null
