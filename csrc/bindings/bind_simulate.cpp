#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "runtime/simulate/report.h"

namespace weft::bindings {

namespace py = pybind11;
using namespace pybind11::literals;
using runtime::simulate::Report;
using runtime::simulate::StepReport;
using runtime::simulate::StreamConfig;
using runtime::simulate::Totals;

void bind_simulate(py::module_& m) {
  const StreamConfig d;
  py::class_<Totals>(m, "SimulatedTotals")
      .def_readonly("steps", &Totals::steps)
      .def_readonly("rank_steps", &Totals::rank_steps)
      .def_readonly("meetings", &Totals::meetings)
      .def_readonly("requests", &Totals::requests)
      .def_readonly("discarded_rows", &Totals::discarded_rows);
  py::class_<StepReport>(m, "SimulatedStep")
      .def_readonly("plan", &StepReport::plan)
      .def_readonly("start_us", &StepReport::start_us)
      .def_readonly("end_us", &StepReport::end_us);
  py::class_<Report>(m, "SimulatedReport")
      .def_readonly("totals", &Report::totals)
      .def_readonly("steps", &Report::steps)
      .def_property_readonly("spans", [](const Report& report) {
        std::vector<std::tuple<int, std::string, std::string, double, double, int>> rows;
        for (const auto& s : report.spans) {
          rows.emplace_back(s.rank, s.stream, s.name, static_cast<double>(s.start_us),
                            static_cast<double>(s.end_us), s.micro_batch);
        }
        return rows;
      });
  m.def(
      "simulate",
      [](const runtime::RuntimeConfig& config, int64_t num_steps, int64_t max_prompt, int64_t max_new_tokens,
         uint64_t seed, double stop_chance, bool mixed, bool overlap, bool with_spans) {
        const StreamConfig stream{.num_steps = num_steps,
                                  .max_prompt = max_prompt,
                                  .max_new_tokens = max_new_tokens,
                                  .seed = seed,
                                  .stop_chance = stop_chance,
                                  .mixed = mixed,
                                  .overlap = overlap,
                                  .steady = true};
        const py::gil_scoped_release released;
        return runtime::simulate::simulate(config, stream, with_spans);
      },
      "config"_a, py::kw_only(), "num_steps"_a = d.num_steps, "max_prompt"_a = d.max_prompt,
      "max_new_tokens"_a = d.max_new_tokens, "seed"_a = d.seed, "stop_chance"_a = d.stop_chance,
      "mixed"_a = d.mixed, "overlap"_a = d.overlap, "with_spans"_a = false);
}

}  // namespace weft::bindings
