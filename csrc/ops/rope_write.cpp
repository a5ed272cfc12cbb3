#include "ops/rope_write.h"

#include <utility>

#include "base/error.h"
#include "ops/accesses.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
namespace {

using device::read;
using device::write;

void check_index(const char* op, const char* name, const TensorView& view, int64_t num_tokens) {
  check_shape(op, name, view, {num_tokens});
  check_dtype(op, name, view, DType::kI32);
  check_dense_rows(op, name, view);
}

void check_table(const char* op, const TensorView& cos_sin, int64_t rope_dim) {
  WEFT_CHECK(rope_dim % 2 == 0, "{}: rope_dim={} must be even", op, rope_dim);
  check_shape(op, "cos_sin", cos_sin, {-1, rope_dim});
  check_dtype(op, "cos_sin", cos_sin, DType::kF32);
  check_dense_rows(op, "cos_sin", cos_sin);
}

void check_norm(const char* op, const char* name, const TensorView& weight, const TensorView& x,
                int64_t dim) {
  check_shape(op, name, weight, {dim});
  check_dtype(op, name, weight, x.dtype);
  check_dense_rows(op, name, weight);
}

}  // namespace

void qk_norm_rope_write(Stream& stream, const QkNormRopeWriteArgs& args) {
  constexpr const char* kOp = "qk_norm_rope_write";
  check_shape(kOp, "q", args.q, {-1, -1, -1});
  check_compute_dtype(kOp, "q", args.q);
  check_writable_rows(kOp, "q", args.q);
  const int64_t num_tokens = args.q.shape[0];
  const int64_t head_dim = args.q.shape[2];
  check_shape(kOp, "k", args.k, {num_tokens, -1, head_dim});
  const int64_t kv_heads = args.k.shape[1];
  check_shape(kOp, "v", args.v, {num_tokens, kv_heads, head_dim});
  for (const auto& [name, view] : {std::pair{"k", &args.k}, std::pair{"v", &args.v}}) {
    check_dtype(kOp, name, *view, args.q.dtype);
    check_dense_rows(kOp, name, *view);
  }
  check_shape(kOp, "k_cache", args.k_cache, {-1, kv_heads, head_dim});
  check_shape(kOp, "v_cache", args.v_cache, {args.k_cache.shape[0], kv_heads, head_dim});
  for (const auto& [name, view] :
       {std::pair{"k_cache", &args.k_cache}, std::pair{"v_cache", &args.v_cache}}) {
    check_dtype(kOp, name, *view, args.q.dtype);
    check_writable_rows(kOp, name, *view);
  }
  if (args.q_norm.defined()) check_norm(kOp, "q_norm", args.q_norm, args.q, head_dim);
  if (args.k_norm.defined()) check_norm(kOp, "k_norm", args.k_norm, args.q, head_dim);
  check_index(kOp, "positions", args.positions, num_tokens);
  check_index(kOp, "slots", args.slots, num_tokens);
  check_table(kOp, args.cos_sin, head_dim);
  if (args.q.numel() == 0 && args.k.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, qk_norm_rope_write), args,
                Accesses()
                    .read(args.q)
                    .write(args.q)
                    .read(args.k)
                    .read(args.v)
                    .write(args.k_cache)
                    .write(args.v_cache)
                    .read(args.positions)
                    .read(args.slots)
                    .read(args.cos_sin)
                    .read(args.q_norm)
                    .read(args.k_norm)
                    .list());
}

void mla_norm_rope_write(Stream& stream, const MlaNormRopeWriteArgs& args) {
  constexpr const char* kOp = "mla_norm_rope_write";
  check_shape(kOp, "q_rope", args.q_rope, {-1, -1, -1});
  check_compute_dtype(kOp, "q_rope", args.q_rope);
  check_writable_rows(kOp, "q_rope", args.q_rope);
  const int64_t num_tokens = args.q_rope.shape[0];
  const int64_t rope_dim = args.q_rope.shape[2];
  check_shape(kOp, "latents", args.latents, {num_tokens, -1});
  const int64_t width = args.latents.shape[1];
  WEFT_CHECK(width >= rope_dim, "{}: latents is {}; it must have more than the {} columns of q_rope", kOp,
             args.latents.describe(), rope_dim);
  check_dtype(kOp, "latents", args.latents, args.q_rope.dtype);
  check_dense_rows(kOp, "latents", args.latents);
  check_shape(kOp, "cache", args.cache, {-1, width});
  check_dtype(kOp, "cache", args.cache, args.q_rope.dtype);
  check_writable_rows(kOp, "cache", args.cache);
  check_norm(kOp, "kv_norm", args.kv_norm, args.q_rope, width - rope_dim);
  check_index(kOp, "positions", args.positions, num_tokens);
  check_index(kOp, "slots", args.slots, num_tokens);
  check_table(kOp, args.cos_sin, rope_dim);
  if (args.latents.numel() == 0) return;
  stream.launch(kOp, WEFT_KERNEL(stream, mla_norm_rope_write), args,
                {read(args.q_rope), write(args.q_rope), read(args.latents), read(args.kv_norm),
                 write(args.cache), read(args.positions), read(args.slots), read(args.cos_sin)});
}

}  // namespace weft::ops
