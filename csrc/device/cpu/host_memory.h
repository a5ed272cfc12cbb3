#pragma once

#include <cstddef>
#include <string>

namespace weft::device::cpu {

struct HostMemory {
  size_t total_bytes = 0;
  size_t free_bytes = 0;
};

/// What this process may use: the machine's memory, bounded by every control group (v1 or v2) that holds the
/// process. `root` is put before /proc and /sys, for tests. Throws Error if /proc/meminfo cannot be read.
[[nodiscard]] HostMemory read_host_memory(const std::string& root = "");

}  // namespace weft::device::cpu
