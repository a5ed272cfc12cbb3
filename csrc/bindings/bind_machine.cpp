#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
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

py::dict cuda_status() {
#if WEFT_CUDA
  return py::dict("built"_a = true, "emulated"_a = device::cuda_is_emulated(),
                  "why_no_gpu"_a = device::cuda_unavailable_reason());
#else
  return py::dict("built"_a = false, "emulated"_a = false,
                  "why_no_gpu"_a = "this build of weft has no CUDA backend; build it where nvcc is");
#endif
}

py::dict cuda_info() {
  py::dict info = cuda_status();
  py::list gpus;
#if WEFT_CUDA
  for (const auto& gpu : device::cuda_gpus()) {
    gpus.append(py::dict("name"_a = gpu.name, "compute_capability"_a = gpu.compute_capability,
                         "multiprocessors"_a = gpu.num_sms, "total_bytes"_a = gpu.memory.total_bytes,
                         "free_bytes"_a = gpu.memory.free_bytes));
  }
#endif
  info["gpus"] = gpus;
  return info;
}

// What a GPU has, or has free.
int64_t gpu_bytes([[maybe_unused]] int ordinal, [[maybe_unused]] bool free) {
#if WEFT_CUDA
  return static_cast<int64_t>(free ? device::cuda_free_bytes(ordinal) : device::cuda_total_bytes(ordinal));
#else
  WEFT_THROW("this build of weft has no CUDA backend");
#endif
}

}  // namespace

void bind_machine(py::module_& m) {
  m.def("cuda_status", &cuda_status);
  m.def("cuda_info", &cuda_info);
  m.def(
      "gpu_total_bytes", [](int ordinal) { return gpu_bytes(ordinal, false); }, "ordinal"_a = 0);
  m.def(
      "gpu_free_bytes", [](int ordinal) { return gpu_bytes(ordinal, true); }, "ordinal"_a = 0);
  m.def("cpu_kernels", [] { return kernel_rows(device::Backend::kCpu); });
  m.def("cuda_kernels", [] { return kernel_rows(device::Backend::kCuda); });
}

}  // namespace weft::bindings
