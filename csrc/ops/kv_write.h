#pragma once

#include "ops/common.h"

namespace weft::ops {

struct KvWriteArgs {
  TensorView cache;    // [num_slots, width], dtype of src
  TensorView src;      // [num_tokens, width], rows may be strided
  TensorView slots;    // i32 [num_tokens]; -1 (a padding row) writes nothing
  int64_t column = 0;  // first column of cache that is written
};
/// cache[slots[t], column : column + width] = src[t]. A slot is page * page_size + offset in the page.
void kv_write(Stream& stream, const KvWriteArgs& args);

}  // namespace weft::ops
