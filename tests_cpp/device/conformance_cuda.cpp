// The conformance suite on a GPU, and what only a CUDA device promises.
#if WEFT_CUDA
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "base/error.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/cuda_core.h"
#include "device/cuda/kernel_list.h"
#include "device/cuda_backend.h"
#include "device/program.h"

namespace weft::device {
namespace {

const CudaBackend kCuda;

INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceTest, ::testing::Values(&kCuda),
                         [](const auto&) { return "Streams"; });

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kCuda.unavailable().empty()) GTEST_SKIP() << kCuda.unavailable();
  }
};

/// The pipeline of program.h, once eager and three times replayed, on a device that fails at op `fail_op`.
/// Returns the failure, or "" and the number of ops.
std::string run_until(int64_t fail_op, int64_t* num_ops) {
  const auto device = make_cuda_device({.name = "dev:0", .fail_op = fail_op});
  const Buffer x = device->allocate(64, "x");
  const Buffer y = device->allocate(64, "y");
  const TensorView x_view = x.view(DType::kI32, {16});
  const TensorView y_view = y.view(DType::kI32, {16});
  Pipeline program(kCuda, *device);
  try {
    program.a->fill(x.data(), 0, 64);
    program.a->fill(y.data(), 0, 64);
    program.run(x_view, y_view);
    program.a->begin_capture();
    program.run(x_view, y_view);
    const auto graph = program.a->end_capture();
    for (int i = 0; i < 3; ++i) program.a->replay(*graph);
    program.a->wait_idle(kLong);
  } catch (const Error& error) {
    return error.what();
  }
  *num_ops = cuda_num_ops(*device);
  return {};
}

TEST_F(CudaDeviceTest, ADeviceStoppedAtAnyOpNamesItAndGivesItsMemoryBack) {
  size_t free_before = 0;
  {
    const auto device = make_cuda_device({.name = "dev:0"});
    free_before = device->memory().free_bytes;
  }
  int64_t num_ops = 0;
  ASSERT_EQ(run_until(-1, &num_ops), "");
  ASSERT_GT(num_ops, 20);
  for (int64_t op = 0; op < num_ops; ++op) {
    int64_t unused = 0;
    EXPECT_NE(run_until(op, &unused).find(fmt::format("op {} was told to fail", op)), std::string::npos)
        << op;
  }
  const auto device = make_cuda_device({.name = "dev:0"});
  // Others may use the GPU; a leak of this test would be some 50 contexts' worth of streams and buffers.
  const size_t slack = cuda_is_emulated() ? 0 : size_t{64} << 20;
  EXPECT_GE(device->memory().free_bytes + slack, free_before);
}

TEST_F(CudaDeviceTest, KernelsAreKnownBeforeTheFirstLaunch) {
  const auto device = make_cuda_device({.name = "dev:0"});  // makes GPU 0 this thread's
  EXPECT_GT(cuda::load_kernels(0), 80U);
}

TEST_F(CudaDeviceTest, AnOrdinalThatDoesNotExistIsRefused) {
  expect_error([] { (void)make_cuda_device({.name = "dev:9", .ordinal = 4096}); }, {"dev:9", "no GPU 4096"});
}

TEST_F(CudaDeviceTest, AnOpOfTheHostIsRefused) {
  const auto device = make_cuda_device({.name = "dev:0"});
  const auto stream = device->make_stream("compute");
  const Buffer data = device->allocate(4, "data");
  struct Args {
    TensorView data;
  };
  stream->launch<Args>(
      "host_op",
      [](const Args&, ExecContext& context) { context.parallel_for(1, 1, [](int64_t, int64_t) {}); },
      {data.view(DType::kI32, {1})}, {});
  expect_error([&] { stream->wait_idle(kLong); }, {"dev:0 compute op 'host_op'", "no CUDA kernel"});
}

TEST(CudaCoreTest, AGpuThatCannotRunTheKernelsIsRefusedWithWhatItLacks) {
  EXPECT_EQ(cuda::why_unusable(0, 9, 227 << 10), "");
  EXPECT_EQ(cuda::why_unusable(0, 10, 228 << 10), "");
  expect_error([] { throw Error(cuda::why_unusable(2, 8, 163 << 10)); },
               {"GPU 2", "compute capability 8.x", "163 KiB", "9.0 or later", "--device cpu"});
  expect_error([] { throw Error(cuda::why_unusable(0, 12, 99 << 10)); }, {"12.x", "99 KiB", "227 KiB"});
}

TEST(CudaContextTest, AKernelOverlapsWithTheKernelBeforeItAndWithNothingElse) {
  cuda::StreamTail tail{.can_overlap = true};
  const cuda::CudaContext context(nullptr, tail, {}, {});
  EXPECT_FALSE(context.next_kernel().overlaps);
  EXPECT_TRUE(context.next_kernel().overlaps);
  EXPECT_TRUE(cuda::CudaContext(nullptr, tail, {}, {}).next_kernel().overlaps);  // the next op's
  (void)context.foreign_stream();
  EXPECT_FALSE(context.next_kernel().overlaps);
  EXPECT_TRUE(context.next_kernel().overlaps);
}

TEST(CudaContextTest, NothingOverlapsWhereOpsRunOneByOne) {
  cuda::StreamTail tail;
  const cuda::CudaContext context(nullptr, tail, {}, {});
  (void)context.next_kernel();
  EXPECT_FALSE(context.next_kernel().overlaps);
}

#if WEFT_CUDA_EMULATED
// The emulation throws if a kernel overlaps with something that is no kernel.
TEST_F(CudaDeviceTest, OnlyAKernelRightBehindAKernelOverlaps) {
  const auto device = make_cuda_device({.name = "dev:0"});
  const auto a = device->make_stream("a");
  const auto b = device->make_stream("b");
  const auto fork = device->make_event();
  const auto join = device->make_event();
  const Buffer data = device->allocate(256, "data");
  const TensorView view = data.view(DType::kI32, {64});
  const auto overlaps = [&](const std::function<void()>& between) {
    kCuda.affine(*a, view, 3, 1);
    const int64_t before = emulation::num_overlapping_kernels();
    between();
    kCuda.affine(*a, view, 3, 1);
    return emulation::num_overlapping_kernels() > before;
  };
  const auto check_all = [&] {
    EXPECT_TRUE(overlaps([] {}));
    EXPECT_FALSE(overlaps([&] { a->fill(data.data(), 0, 256); }));
    EXPECT_FALSE(overlaps([&] { a->copy(view.as<std::byte>() + 128, data.data(), 128); }));
    EXPECT_FALSE(overlaps([&] { a->record(*fork); }));
    EXPECT_FALSE(overlaps([&] {
      b->wait(*fork);
      kCuda.affine(*b, view, 1, 0);  // the first of its stream
      b->record(*join);
      a->wait(*join);
    }));
  };
  check_all();
  a->wait_idle(kLong);
  a->begin_capture();
  int64_t before = emulation::num_overlapping_kernels();
  kCuda.affine(*a, view, 3, 1);  // nothing outside a graph is the neighbour of what is inside
  EXPECT_EQ(emulation::num_overlapping_kernels(), before);
  check_all();
  const auto graph = a->end_capture();
  EXPECT_FALSE(overlaps([&] { a->replay(*graph); }));
  a->wait_idle(kLong);
}
#endif

}  // namespace
}  // namespace weft::device
#endif
