#include "runtime/cores.h"

#include <sched.h>

#include <algorithm>
#include <string_view>
#include <thread>

#include "base/math.h"
#include "base/text_file.h"

namespace weft::runtime {
namespace {

/// This process's control group of version 2, such as "/user.slice/job"; "/" if it has none.
std::string own_group() {
  const std::string groups = read_text_file("/proc/self/cgroup").value_or("");
  for (const std::string_view line : split_text(groups, "\n")) {
    if (line.starts_with("0::/")) return std::string(line.substr(3));
  }
  return "/";
}

}  // namespace

std::optional<int64_t> quota_cores(const std::string& root, const std::string& group) {
  std::optional<int64_t> cores;
  const auto read = [&](const std::string& level) {
    // "max 100000" or "150000 100000": microseconds of CPU time in each period.
    const std::string text = read_text_file(level + "/cpu.max").value_or("");
    const auto words = split_text(text, " \n");
    if (words.size() != 2) return;
    const auto quota = to_number<int64_t>(words[0]);
    const auto period = to_number<int64_t>(words[1]);
    if (quota && period && *quota > 0 && *period > 0) {
      cores = std::min(cores.value_or(ceil_div(*quota, *period)), ceil_div(*quota, *period));
    }
  };
  read(root);
  std::string level = root;
  for (const std::string_view part : split_text(group, "/")) {
    // A group outside of what is mounted here.
    if (part == "..") break;
    level += "/" + std::string(part);
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
