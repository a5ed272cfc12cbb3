// The conformance suite on the CPU: on streams that run at the same time, and in random legal orders.
#include "base/error.h"
#include "device/cpu_backend.h"

namespace weft::device {
namespace {

const CpuBackend kStreams({.num_threads = 2});
const CpuBackend kRandom1({.num_threads = 2, .random_order = 1});
const CpuBackend kRandom2({.num_threads = 1, .random_order = 2});

INSTANTIATE_TEST_SUITE_P(Cpu, ConformanceTest, ::testing::Values(&kStreams),
                         [](const auto&) { return "Streams"; });
INSTANTIATE_TEST_SUITE_P(CpuRandomOrder, ConformanceTest, ::testing::Values(&kRandom1, &kRandom2),
                         [](const auto& param) { return fmt::format("Seed{}", param.index + 1); });

}  // namespace
}  // namespace weft::device
