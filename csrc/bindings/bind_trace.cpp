#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "plan/trace.h"

namespace py = pybind11;
using namespace py::literals;  // NOLINT(google-build-using-namespace): "name"_a

namespace weft::bindings {
namespace {

using plan::CollectiveRecord;
using plan::ModelShape;

DType parse_dtype(std::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  WEFT_THROW("dtype='{}' is not known; choose f32, bf16 or f16", name);
}

ModelShape make_model(std::vector<bool> sparse_pattern, int64_t hidden, int64_t vocab, std::string_view dtype,
                      int64_t latent_width, bool has_shared_experts) {
  // So that no count of elements overflows.
  constexpr int64_t kMaxHidden = 1 << 20, kMaxVocab = 1 << 24;
  WEFT_CHECK(hidden >= 1 && hidden <= kMaxHidden && vocab >= 1 && vocab <= kMaxVocab,
             "model shape: hidden={} and vocab={} must be at least 1, and at most {} and {}", hidden, vocab,
             kMaxHidden, kMaxVocab);
  WEFT_CHECK(latent_width >= 0 && latent_width <= kMaxHidden,
             "model shape: latent_width={} must be from 0 to {}", latent_width, kMaxHidden);
  return {.sparse_pattern = std::move(sparse_pattern),
          .hidden = hidden,
          .vocab = vocab,
          .dtype = parse_dtype(dtype),
          .latent_width = latent_width,
          .has_shared_experts = has_shared_experts};
}

}  // namespace

void bind_trace(py::module_& m) {
  py::class_<ModelShape>(m, "ModelShape")
      .def(py::init(&make_model), py::kw_only(), "sparse_pattern"_a, "hidden"_a, "vocab"_a,
           "dtype"_a = "bf16", "latent_width"_a = 0, "has_shared_experts"_a = false);
  py::class_<CollectiveRecord>(m, "CollectiveRecord")
      .def_property_readonly("op", [](const CollectiveRecord& r) { return collective_name(r.op); })
      .def_property_readonly("group", [](const CollectiveRecord& r) { return plan::group_name(r.group); })
      .def_property_readonly("dtype", [](const CollectiveRecord& r) { return dtype_name(r.dtype); })
      .def_readonly("count", &CollectiveRecord::count)
      .def_readonly("micro_batch", &CollectiveRecord::micro_batch)
      .def_readonly("layer", &CollectiveRecord::layer)
      .def(
          "__eq__", [](const CollectiveRecord& a, const CollectiveRecord& b) { return a == b; }, "other"_a,
          py::is_operator())
      .def("__str__", &CollectiveRecord::describe);
  m.def("step_trace", &plan::step_trace, "plan"_a, "config"_a, "model"_a, "rank"_a);
  m.def("shared_trace_hash", &plan::shared_trace_hash, "trace"_a);
}

}  // namespace weft::bindings
