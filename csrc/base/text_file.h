#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Small files of text, read whole. Not by std::fstream or std::filesystem: other libraries of a process may
/// export a C++ runtime of their own, with which those of this library would then be mixed.
namespace weft {

/// Everything in the file; none if it cannot be opened or read.
[[nodiscard]] std::optional<std::string> read_text_file(const std::string& path);

[[nodiscard]] bool file_exists(const std::string& path);

/// The parts of `text` between any of the characters in `separators`, none of them empty.
[[nodiscard]] std::vector<std::string_view> split_text(std::string_view text, std::string_view separators);

/// The number that `word` is; none if it is anything else, or does not fit T.
template <class T>
[[nodiscard]] std::optional<T> to_number(std::string_view word) {
  T value{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

}  // namespace weft
