#include "base/text_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace weft {

std::optional<std::string> read_text_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  std::string text;
  char block[4096];
  ssize_t count = 0;
  while ((count = read(file, block, sizeof(block))) > 0 || (count < 0 && errno == EINTR)) {
    if (count > 0) text.append(block, static_cast<size_t>(count));
  }
  close(file);
  if (count < 0) return std::nullopt;
  return text;
}

bool file_exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::vector<std::string_view> split_text(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> parts;
  for (size_t begin = text.find_first_not_of(separators); begin != std::string_view::npos;) {
    const size_t end = text.find_first_of(separators, begin);
    parts.push_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    begin = end == std::string_view::npos ? end : text.find_first_not_of(separators, end);
  }
  return parts;
}

}  // namespace weft
