#pragma once

#include <pybind11/pybind11.h>

/// One function a part of _weft. Bindings hold no logic: they name arguments and convert types.
namespace weft::bindings {

/// Forward modes, splitter, layouts, stages, padding, graph buckets and step plans (csrc/plan).
void bind_plan(pybind11::module_& m);
/// The collectives that a step plan implies (csrc/plan/trace.h).
void bind_trace(pybind11::module_& m);
/// Runtime, its configuration, and what goes into a step and comes out (csrc/runtime).
void bind_runtime(pybind11::module_& m);
/// The simulator of ranks (csrc/runtime/simulate).
void bind_simulate(pybind11::module_& m);
/// What this machine and this build have (for weft.doctor).
void bind_machine(pybind11::module_& m);

}  // namespace weft::bindings
