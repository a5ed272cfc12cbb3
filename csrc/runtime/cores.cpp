#include "runtime/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "base/math.h"

namespace weft::runtime {

int usable_cores() {
  int64_t cores = std::thread::hardware_concurrency();
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  // "max 100000" or "150000 100000": microseconds of CPU time in each period.
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  int64_t quota = 0, period = 0;
  if (file >> quota >> period && quota > 0 && period > 0) cores = std::min(cores, ceil_div(quota, period));
  return static_cast<int>(std::max<int64_t>(cores, 1));
}

int cores_of_rank(int cores, int num_ranks, int rank) {
  return std::max(1, cores / num_ranks + (rank < cores % num_ranks ? 1 : 0));
}

}  // namespace weft::runtime
