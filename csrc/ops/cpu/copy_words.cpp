#include <cstring>

#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {

void copy_words(const CopyWordsArgs& args, ExecContext&) {
  for (const WordCopy& copy : args.copies) {
    if (copy.num_words > 0) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.num_words) * 4);
  }
}

}  // namespace weft::ops::cpu
