#include "runtime/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "base/math.h"

namespace weft::runtime {
namespace {

/// This process's control group of version 2, such as "/user.slice/job"; "/" if it has none.
std::string own_group() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::/")) return line.substr(3);
  }
  return "/";
}

}  // namespace

std::optional<int64_t> quota_cores(const std::filesystem::path& root, const std::string& group) {
  std::optional<int64_t> cores;
  const auto read = [&](const std::filesystem::path& level) {
    // "max 100000" or "150000 100000": microseconds of CPU time in each period.
    std::ifstream file(level / "cpu.max");
    int64_t quota = 0, period = 0;
    if (file >> quota >> period && quota > 0 && period > 0) {
      cores = std::min(cores.value_or(ceil_div(quota, period)), ceil_div(quota, period));
    }
  };
  read(root);
  std::filesystem::path level = root;
  for (const std::filesystem::path& part : std::filesystem::path(group).relative_path()) {
    // A group outside of what is mounted here.
    if (part == "..") break;
    level /= part;
    read(level);
  }
  return cores;
}

int usable_cores() {
  int64_t cores = std::thread::hardware_concurrency();
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  cores = std::min(cores, quota_cores("/sys/fs/cgroup", own_group()).value_or(cores));
  return static_cast<int>(std::max<int64_t>(cores, 1));
}

int cores_of_rank(int cores, int num_ranks, int rank) {
  return std::max(1, cores / num_ranks + (rank < cores % num_ranks ? 1 : 0));
}

}  // namespace weft::runtime
