#include "ops/copy_words.h"

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void copy_words(Stream& stream, const CopyWordsArgs& args) {
  Accesses accesses;
  for (const WordCopy& copy : args.copies) {
    WEFT_CHECK(copy.num_words >= 0 && reinterpret_cast<uintptr_t>(copy.to) % 4 == 0 &&
                   reinterpret_cast<uintptr_t>(copy.from) % 4 == 0,
               "copy_words: {} words from {} to {}; expected whole words", copy.num_words, copy.from,
               copy.to);
    const auto num_bytes = static_cast<size_t>(copy.num_words) * 4;
    accesses.read(copy.from, num_bytes).write(copy.to, num_bytes);
  }
  if (accesses.list().empty()) return;
  stream.launch("copy_words", WEFT_KERNEL(stream, copy_words), args, accesses.list());
}

}  // namespace weft::ops
