#include <cstring>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"

namespace weft::ops::cpu {

namespace {

int64_t token_of(const EmbeddingArgs& args, int64_t t) {
  const int64_t id = args.ids.as<int32_t>()[t];
  if (id >= 0 || !args.last_tokens.defined()) return id;
  const int64_t slot = -(id + 1);
  WEFT_CHECK(slot < args.last_tokens.shape[0], "embedding: row {} names slot {} of {}", t, slot,
             args.last_tokens.shape[0]);
  return args.last_tokens.as<int32_t>()[slot];
}

}  // namespace

void embedding(const EmbeddingArgs& args, ExecContext& context) {
  const int64_t columns = args.table.shape[1];
  const size_t row_size = static_cast<size_t>(columns) * dtype_size(args.table.dtype);
  context.parallel_for(args.ids.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t local = token_of(args, t) - args.vocab_begin;
      if (local >= 0 && local < args.table.shape[0]) {
        std::memcpy(row_bytes(args.out, t), row_bytes(args.table, local), row_size);
      } else {
        std::memset(row_bytes(args.out, t), 0, row_size);
      }
    }
  });
}

void gather_rows(const GatherRowsArgs& args, ExecContext& context) {
  const int64_t columns = args.x.shape[1];
  const size_t row_size = static_cast<size_t>(columns) * dtype_size(args.x.dtype);
  context.parallel_for(args.indices.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = args.indices.as<int32_t>()[i];
      WEFT_CHECK(index >= -1 && index < args.x.shape[0], "gather_rows: indices[{}]={} is outside x = {}", i,
                 index, args.x.describe());
      if (index >= 0) {
        std::memcpy(row_bytes(args.out, i), row_bytes(args.x, index), row_size);
      } else {
        std::memset(row_bytes(args.out, i), 0, row_size);
      }
    }
  });
}

}  // namespace weft::ops::cpu
