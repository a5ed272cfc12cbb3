#include "runtime/simulate/report.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace weft::runtime::simulate {
namespace {

/// Appends a rank's ops to `spans`; neighbours of one stream and micro-batch that compute become one span.
void add_spans(int rank, const std::vector<device::OpSpan>& ops, std::vector<Span>& spans) {
  struct Open {
    Span span;
    int64_t num_ops = 0;
  };
  std::vector<Open> open;  // a stream each
  const auto close = [&](Open& entry) {
    if (entry.num_ops == 0) return;
    entry.span.name = fmt::format("{} ops", std::exchange(entry.num_ops, 0));
    spans.push_back(entry.span);
  };
  for (const device::OpSpan& op : ops) {
    Span span{.rank = rank,
              .stream = op.stream,
              .name = std::string(op.name),
              .start_us = static_cast<int64_t>(op.start_us),
              .end_us = static_cast<int64_t>(op.end_us),
              .micro_batch = op.tag};
    if (span.start_us == span.end_us) continue;  // a dispatcher's own op, inside of its collective
    auto found =
        std::find_if(open.begin(), open.end(), [&](const Open& e) { return e.span.stream == op.stream; });
    if (found == open.end()) found = open.insert(open.end(), Open{span, 0});
    if (op.kind == device::OpKind::kCollective) {
      close(*found);
      spans.push_back(std::move(span));
      continue;
    }
    const bool follows = found->num_ops > 0 && found->span.end_us == span.start_us &&
                         found->span.micro_batch == span.micro_batch;
    if (!follows) {
      close(*found);
      found->span = span;
    }
    found->span.end_us = span.end_us;
    ++found->num_ops;
  }
  for (Open& entry : open) close(entry);
}

}  // namespace

Report simulate(const RuntimeConfig& config, const StreamConfig& stream, bool with_spans) {
  Scenario scenario{.config = config,
                    .model = model::load_config(config.model_path),
                    .stop_chance = stream.stop_chance,
                    .seed = stream.seed,
                    .intents = random_intents(config, stream)};
  // A new rank would begin a new clock.
  for (Intent& intent : scenario.intents) intent.replace_rank = -1;

  Report report;
  SimulatedRanks* ranks = nullptr;
  const auto times = [&] {
    std::vector<int64_t> all;
    all.reserve(static_cast<size_t>(config.tp_size));
    for (int rank = 0; rank < config.tp_size; ++rank) all.push_back(ranks->device(rank).time_us());
    return all;
  };
  Hooks hooks;
  hooks.on_step = [&](const Step& step) {
    StepReport entry{.plan = step.plan, .start_us = times(), .end_us = {}};
    ranks->run();
    entry.end_us = times();
    report.steps.push_back(std::move(entry));
  };
  Simulation simulation(scenario, hooks);
  ranks = &simulation.ranks();
  for (int rank = 0; with_spans && rank < config.tp_size; ++rank) ranks->device(rank).start_trace();
  report.totals = simulation.run();
  for (int rank = 0; with_spans && rank < config.tp_size; ++rank) {
    add_spans(rank, ranks->device(rank).take_trace(), report.spans);
  }
  return report;
}

}  // namespace weft::runtime::simulate
