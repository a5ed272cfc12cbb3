// Parts of the CPU device that the conformance suite does not see: cores, control groups, idleness.
#include <gmock/gmock.h>

#include <atomic>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"
#include "device/backend.h"
#include "device/cpu/host_memory.h"
#include "device/cpu/parallel.h"

namespace weft::device {
namespace {

TEST(HelperPoolTest, CoversEveryIndexOnceInMultiplesOfTheGrain) {
  for (const int threads : {1, 2, 3, 5}) {
    cpu::HelperPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (const int64_t n : {0, 1, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> counts(static_cast<size_t>(n));
        pool.parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end == n || end % grain == 0);
          for (int64_t i = begin; i < end; ++i) ++counts[i];
        });
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(counts[i], 1) << i << " of " << n << ", grain " << grain;
      }
    }
  }
}

TEST(HelperPoolTest, UsesItsThreads) {
  cpu::HelperPool pool(3);
  std::atomic<int> here{0};
  pool.parallel_for(3, 1, [&](int64_t, int64_t) {  // ends only when three threads are in it
    ++here;
    const auto deadline = std::chrono::steady_clock::now() + kLong;
    while (here.load() < 3) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  });
}

TEST(HelperPoolTest, ThrowsWhatABodyThrowsAndGoesOn) {
  cpu::HelperPool pool(4);
  for (int round = 0; round < 50; ++round) {
    expect_error(
        [&] { pool.parallel_for(100, 1, [&](int64_t begin, int64_t) { WEFT_CHECK(begin < 40, "boom"); }); },
        {"boom"});
    std::atomic<int64_t> sum{0};
    pool.parallel_for(100, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum += i;
    });
    EXPECT_EQ(sum, 4950);
  }
  expect_error([&] { pool.parallel_for(1, 0, [](int64_t, int64_t) {}); }, {"grain"});
  expect_error([] { const cpu::HelperPool none(0); }, {"at least one thread"});
}

TEST(HelperPoolTest, SeveralCallersAndNestedCallsShareIt) {
  cpu::HelperPool pool(3);
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        pool.parallel_for(32, 4, [&](int64_t begin, int64_t end) {
          pool.parallel_for(end - begin, 1, [&](int64_t b, int64_t e) { total += e - b; });
        });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(total, 3 * 200 * 32);
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

TEST(CpuDeviceTest, IdleThreadsBurnNoCore) {
  for (const uint64_t random_order : {0, 7}) {
    auto device = make_cpu_device({.num_threads = 4, .random_order = random_order});
    const Buffer data = device->allocate(1 << 22, "data");
    std::vector<std::unique_ptr<Stream>> streams;
    for (int s = 0; s < 6; ++s) {
      streams.push_back(device->make_stream(fmt::format("s{}", s)));
      streams.back()->fill(data.data(), 0, data.num_bytes());  // wakes the helpers too
      streams.back()->wait_idle(kLong);
    }
    const double before = cpu_seconds();
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_LT(cpu_seconds() - before, 0.05) << "of 0.2 s";
  }
}

/// A directory with the files that tell of memory.
class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest()
      : root_(std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
    put("/proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\n");
  }
  ~HostMemoryTest() override { std::filesystem::remove_all(root_); }

  void put(const std::string& path, const std::string& text) const {
    const std::filesystem::path file(root_.string() + path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void expect(size_t total_kb, size_t free_kb) const {
    const cpu::HostMemory memory = cpu::read_host_memory(root_.string());
    EXPECT_EQ(memory.total_bytes, total_kb * 1024);
    EXPECT_EQ(memory.free_bytes, free_kb * 1024);
  }

  std::filesystem::path root_;
};

TEST_F(HostMemoryTest, WithoutGroupsTheMachineCounts) { expect(1000, 800); }

TEST_F(HostMemoryTest, AGroupOfVersion2BoundsAndCachedFilesAreFree) {
  put("/proc/self/cgroup", "0::/a/b\n");
  put("/sys/fs/cgroup/a/b/memory.max", "512000\n");
  put("/sys/fs/cgroup/a/b/memory.current", "307200\n");
  put("/sys/fs/cgroup/a/b/memory.stat", "anon 5\ninactive_file 81920\nactive_file 20480\n");
  expect(500, 300);
}

TEST_F(HostMemoryTest, TheTightestGroupAboveCounts) {
  put("/proc/self/cgroup", "0::/a/b\n");
  put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  put("/sys/fs/cgroup/a/memory.max", "204800\n");
  put("/sys/fs/cgroup/a/memory.current", "0\n");
  expect(200, 200);
}

TEST_F(HostMemoryTest, AContainersOwnGroupIsAtTheTop) {
  put("/proc/self/cgroup", "0::/docker/0123\n");
  put("/sys/fs/cgroup/memory.max", "409600\n");
  put("/sys/fs/cgroup/memory.current", "409600\n");
  expect(400, 0);
}

TEST_F(HostMemoryTest, AGroupOfVersion1Bounds) {
  put("/proc/self/cgroup", "5:cpu:/\n4:hugetlb,memory:/job\n0::/\n");
  put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "307200\n");
  put("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "204800\n");
  put("/sys/fs/cgroup/memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 51200\n");
  put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  expect(300, 150);
}

TEST_F(HostMemoryTest, AMachineThatTellsNothingIsAnError) {
  expect_error([] { (void)cpu::read_host_memory("/nowhere"); }, {"/nowhere/proc/meminfo"});
}

}  // namespace
}  // namespace weft::device
