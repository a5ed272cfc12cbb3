#pragma once

#include <array>

#include "ops/common.h"

namespace weft::ops {

/// One array to copy: whole words of 4 bytes.
struct WordCopy {
  void* to = nullptr;
  const void* from = nullptr;
  int64_t num_words = 0;
};
struct CopyWordsArgs {
  std::array<WordCopy, 5> copies;
};
/// Copies small arrays, all at once, between device and host buffers of the device.
///
/// For what a step leaves: a copy by Stream::copy keeps a GPU idle for longer than this takes.
void copy_words(Stream& stream, const CopyWordsArgs& args);

}  // namespace weft::ops
