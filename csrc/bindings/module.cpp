#include <pybind11/pybind11.h>

#include "base/error.h"
#include "bindings/bindings.h"

PYBIND11_MODULE(_weft, m) {
  m.doc() = "The compiled core of weft; python/weft/_weft.pyi describes it.";
  pybind11::register_exception<weft::Error>(m, "WeftError", PyExc_RuntimeError);
  weft::bindings::bind_plan(m);
  weft::bindings::bind_trace(m);
  weft::bindings::bind_runtime(m);
  weft::bindings::bind_simulate(m);
  weft::bindings::bind_machine(m);
}
