#include "ops/embedding.h"

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void embedding(Stream& stream, const EmbeddingArgs& args) {
  constexpr const char* kOp = "embedding";
  check_shape(kOp, "table", args.table, {-1, -1});
  check_shape(kOp, "ids", args.ids, {-1});
  check_dtype(kOp, "ids", args.ids, DType::kI32);
  check_dense_rows(kOp, "ids", args.ids);
  check_shape(kOp, "out", args.out, {args.ids.shape[0], args.table.shape[1]});
  check_dtype(kOp, "out", args.out, args.table.dtype);
  check_dense_rows(kOp, "table", args.table);
  check_writable_rows(kOp, "out", args.out);
  WEFT_CHECK(args.vocab_begin >= 0, "{}: vocab_begin={} must not be negative", kOp, args.vocab_begin);
  if (args.last_tokens.defined()) {
    check_shape(kOp, "last_tokens", args.last_tokens, {-1});
    check_dtype(kOp, "last_tokens", args.last_tokens, DType::kI32);
    check_dense_rows(kOp, "last_tokens", args.last_tokens);
  }
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, embedding), args,
                Accesses().write(args.out).read(args.ids).read(args.table).read(args.last_tokens).list());
}

void gather_rows(Stream& stream, const GatherRowsArgs& args) {
  constexpr const char* kOp = "gather_rows";
  check_shape(kOp, "x", args.x, {-1, -1});
  check_shape(kOp, "indices", args.indices, {-1});
  check_dtype(kOp, "indices", args.indices, DType::kI32);
  check_dense_rows(kOp, "indices", args.indices);
  check_shape(kOp, "out", args.out, {args.indices.shape[0], args.x.shape[1]});
  check_dtype(kOp, "out", args.out, args.x.dtype);
  check_dense_rows(kOp, "x", args.x);
  check_writable_rows(kOp, "out", args.out);
  if (args.out.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, gather_rows), args,
                {device::write(args.out), device::read(args.indices), device::read(args.x)});
}

}  // namespace weft::ops
