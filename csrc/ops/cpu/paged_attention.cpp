#include <algorithm>
#include <array>

#include "ops/cpu/attention_items.h"
#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {
namespace {

// The rows of a tile are (token, query head of the group), token by token, so that limits do not fall.
void attend(const PagedAttentionArgs& args, const AttentionItem& item, AttentionTile& tile) {
  const Sequence& sequence = item.sequence;
  const int64_t head_dim = args.q.shape[2];
  const int64_t group = args.q.shape[1] / args.k_cache.shape[1];
  const int64_t kv_head = item.head_begin;
  tile.reset((item.row_end - item.row_begin) * group, head_dim, head_dim);
  int64_t row = 0;
  for (int64_t token = item.row_begin; token < item.row_end; ++token) {
    for (int64_t g = 0; g < group; ++g, ++row) {
      widen_row(row_of(args.q, sequence.first_row + token, kv_head * group + g), args.q.dtype, head_dim,
                args.scale, tile.query(row));
      tile.limit(row) = static_cast<int32_t>(sequence.limit(token));
    }
  }
  const int64_t num_keys = sequence.limit(item.row_end - 1);
  std::array<const void*, static_cast<size_t>(kKeyBlock)> keys;
  std::array<const void*, static_cast<size_t>(kKeyBlock)> values;
  for (int64_t first = 0; first < num_keys; first += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, num_keys - first);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t slot = sequence.slot(first + k);
      keys[static_cast<size_t>(k)] = row_of(args.k_cache, slot, kv_head);
      values[static_cast<size_t>(k)] = row_of(args.v_cache, slot, kv_head);
    }
    tile.add_block(first, count, keys.data(), values.data(), args.k_cache.dtype);
  }
  row = 0;
  for (int64_t token = item.row_begin; token < item.row_end; ++token) {
    for (int64_t g = 0; g < group; ++g, ++row) {
      tile.finish(row, row_of(args.out, sequence.first_row + token, kv_head * group + g), args.out.dtype);
    }
  }
}

}  // namespace

void paged_attention(const PagedAttentionArgs& args, ExecContext& context) {
  const int64_t kv_heads = args.k_cache.shape[1];
  const int64_t group = args.q.shape[1] / kv_heads;
  const std::vector<Sequence> sequences = read_sequences(
      "paged_attention", args.batch, 0, args.batch.max_seqs, args.q.shape[0], args.k_cache.shape[0]);
  const int64_t rows = rows_of_an_item(sequences, args.q.shape[1], context.num_threads());
  run_items(context, cut_into_items(sequences, kv_heads, 1, std::max<int64_t>(rows / group, 1)),
            [&](const AttentionItem& item, AttentionTile& tile) { attend(args, item, tile); });
}

}  // namespace weft::ops::cpu
