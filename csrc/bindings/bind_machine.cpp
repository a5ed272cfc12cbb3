#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "device/device.h"
#include "ops/kernel_table.h"

namespace weft::bindings {
namespace {

namespace py = pybind11;
using namespace pybind11::literals;

using KernelRow = std::tuple<std::string, std::string, std::string>;

std::vector<KernelRow> kernel_rows(device::Backend backend) {
  std::vector<KernelRow> rows;
  for (const auto& info : ops::kernel_table(backend)) {
    rows.emplace_back(info.op, info.kernel, info.why_not_faster);
  }
  return rows;
}

py::dict cuda_info() {
#if WEFT_CUDA
  py::list gpus;
  for (const auto& gpu : device::cuda_gpus()) {
    gpus.append(py::dict("name"_a = gpu.name, "compute_capability"_a = gpu.compute_capability,
                         "multiprocessors"_a = gpu.num_sms, "total_bytes"_a = gpu.memory.total_bytes,
                         "free_bytes"_a = gpu.memory.free_bytes));
  }
  return py::dict("built"_a = true, "emulated"_a = device::cuda_is_emulated(),
                  "why_no_gpu"_a = device::cuda_unavailable_reason(), "gpus"_a = gpus);
#else
  return py::dict("built"_a = false, "emulated"_a = false,
                  "why_no_gpu"_a = "this build of weft has no CUDA backend; build it where nvcc is",
                  "gpus"_a = py::list());
#endif
}

}  // namespace

void bind_machine(py::module_& m) {
  m.def("cuda_info", &cuda_info);
  m.def("cpu_kernels", [] { return kernel_rows(device::Backend::kCpu); });
  m.def("cuda_kernels", [] { return kernel_rows(device::Backend::kCuda); });
}

}  // namespace weft::bindings
