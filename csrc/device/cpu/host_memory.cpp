#include "device/cpu/host_memory.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/text_file.h"

namespace weft::device::cpu {
namespace {

constexpr size_t kNoLimit = size_t{1} << 60;  // v1 writes "no limit" as a huge number

/// The number in a file of a control group; none if it is missing or says "max".
std::optional<size_t> read_number(const std::string& path) {
  const std::string text = read_text_file(path).value_or("");
  const auto words = split_text(text, " \n");
  return words.empty() ? std::nullopt : to_number<size_t>(words[0]);
}

/// The number after `key` in lines of "key value"; 0 if there is none.
size_t read_field(const std::string& path, const std::string& key) {
  const std::string text = read_text_file(path).value_or("");
  const auto words = split_text(text, " \t\n");
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == key) return to_number<size_t>(words[i + 1]).value_or(0);
  }
  return 0;
}

void apply_group(const std::string& limit_file, const std::string& usage_file, const std::string& stat_file,
                 const std::string& stat_prefix, HostMemory& memory) {
  const auto limit = read_number(limit_file);
  if (!limit || *limit >= kNoLimit) return;
  memory.total_bytes = std::min(memory.total_bytes, *limit);
  const auto usage = read_number(usage_file);
  if (!usage) return;
  // Cached files count as used, but are given up before the limit is hit.
  const size_t cached = read_field(stat_file, stat_prefix + "inactive_file") +
                        read_field(stat_file, stat_prefix + "active_file");
  const size_t used = *usage - std::min(*usage, cached);
  memory.free_bytes = std::min(memory.free_bytes, *limit - std::min(*limit, used));
}

/// Calls visit(path) for `path` and every directory above it, down to the empty one.
template <class Visit>
void for_each_parent(std::string path, const Visit& visit) {
  if (path == "/") path.clear();
  while (true) {
    visit(path);
    if (path.empty()) return;
    const size_t slash = path.rfind('/');
    path.resize(slash == std::string::npos ? 0 : slash);
  }
}

bool lists_memory(const std::string& controllers) {
  return ("," + controllers + ",").find(",memory,") != std::string::npos;
}

}  // namespace

HostMemory read_host_memory(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  HostMemory memory{.total_bytes = read_field(meminfo, "MemTotal:") * 1024,
                    .free_bytes = read_field(meminfo, "MemAvailable:") * 1024};
  WEFT_CHECK(memory.total_bytes != 0, "{} does not tell MemTotal", meminfo);

  const std::string groups = read_text_file(root + "/proc/self/cgroup").value_or("");
  for (const std::string_view line : split_text(groups, "\n")) {  // hierarchy:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string controllers(line.substr(first + 1, second - first - 1));
    const std::string path(line.substr(second + 1));
    // A container often mounts its own group at the top, where `path` does not exist: all levels are tried.
    if (controllers.empty()) {
      for_each_parent(path, [&](const std::string& group) {
        const std::string dir = root + "/sys/fs/cgroup" + group;
        apply_group(dir + "/memory.max", dir + "/memory.current", dir + "/memory.stat", "", memory);
      });
    } else if (lists_memory(controllers)) {
      for_each_parent(path, [&](const std::string& group) {
        const std::string dir = root + "/sys/fs/cgroup/memory" + group;
        apply_group(dir + "/memory.limit_in_bytes", dir + "/memory.usage_in_bytes", dir + "/memory.stat",
                    "total_", memory);
      });
    }
  }
  memory.free_bytes = std::min(memory.free_bytes, memory.total_bytes);
  return memory;
}

}  // namespace weft::device::cpu
