#include <algorithm>
#include <array>
#include <utility>

#include "base/math.h"
#include "ops/cpu/attention_items.h"
#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {
namespace {

/// Up to this many query rows a head, an item is bound by memory: it then takes several heads, whose keys lie
/// side by side. With more it is bound by arithmetic, and takes one, whose state stays in the cache.
constexpr int64_t kMaxRowsOfSideBySideHeads = 16;

// The rows of a tile are (token, query head of the group), token by token, so that limits do not fall.
void load_queries(const PagedAttentionArgs& args, const AttentionItem& item, int64_t kv_head,
                  AttentionTile& tile) {
  const int64_t head_dim = args.q.shape[2];
  const int64_t group = args.q.shape[1] / args.k_cache.shape[1];
  tile.reset((item.row_end - item.row_begin) * group, head_dim, head_dim);
  int64_t tile_row = 0;
  for (int64_t row = item.row_begin; row < item.row_end; ++row) {
    for (int64_t g = 0; g < group; ++g, ++tile_row) {
      widen_row(row_of(args.q, item.sequence.first_row + row, kv_head * group + g), args.q.dtype, head_dim,
                args.scale, tile.query(tile_row));
      tile.limit(tile_row) = static_cast<int32_t>(item.sequence.limit(row));
    }
  }
}

void store_rows(const PagedAttentionArgs& args, const AttentionItem& item, int64_t kv_head,
                const AttentionTile& tile) {
  const int64_t group = args.q.shape[1] / args.k_cache.shape[1];
  int64_t tile_row = 0;
  for (int64_t row = item.row_begin; row < item.row_end; ++row) {
    for (int64_t g = 0; g < group; ++g, ++tile_row) {
      tile.finish(tile_row, row_of(args.out, item.sequence.first_row + row, kv_head * group + g),
                  args.out.dtype);
    }
  }
}

/// The slots of a block of positions.
struct Block {
  int64_t first;
  int64_t count;
  std::array<int64_t, static_cast<size_t>(kKeyBlock)> slots;

  Block(const Sequence& sequence, int64_t first_position, int64_t num_keys)
      : first(first_position), count(std::clamp<int64_t>(num_keys - first_position, 0, kKeyBlock)) {
    for (int64_t k = 0; k < count; ++k) slots[static_cast<size_t>(k)] = sequence.slot(first + k);
  }
  void get_rows(const PagedAttentionArgs& args, int64_t head, KeyRows& rows) const {
    for (size_t k = 0; k < static_cast<size_t>(count); ++k) {
      rows.keys[k] = row_of(args.k_cache, slots[k], head);
      rows.values[k] = row_of(args.v_cache, slots[k], head);
    }
  }
};

void attend(const PagedAttentionArgs& args, const AttentionItem& item, std::vector<AttentionTile>& tiles) {
  const auto tile_of = [&](int64_t kv_head) -> AttentionTile& {
    return tiles[static_cast<size_t>(kv_head - item.head_begin)];
  };
  for (int64_t head = item.head_begin; head < item.head_end; ++head) {
    load_queries(args, item, head, tile_of(head));
  }
  const int64_t num_keys = item.sequence.limit(item.row_end - 1);
  KeyRows rows = {};
  Block block(item.sequence, 0, num_keys);
  block.get_rows(args, item.head_begin, rows);
  KeyRows next_rows = rows;
  while (block.count > 0) {
    const Block next_block(item.sequence, block.first + kKeyBlock, num_keys);
    for (int64_t head = item.head_begin; head < item.head_end; ++head) {
      const bool last_head = head + 1 == item.head_end;
      // What follows is no longer than this block. After the last one these are old rows, which do no harm.
      if (last_head) {
        next_block.get_rows(args, item.head_begin, next_rows);
      } else {
        block.get_rows(args, head + 1, next_rows);
      }
      tile_of(head).add_block(block.first, block.count, rows.keys.data(), rows.values.data(),
                              args.k_cache.dtype, &next_rows);
      std::swap(rows, next_rows);
    }
    block = next_block;
  }
  for (int64_t head = item.head_begin; head < item.head_end; ++head)
    store_rows(args, item, head, tile_of(head));
}

}  // namespace

void paged_attention(const PagedAttentionArgs& args, ExecContext& context) {
  const int64_t kv_heads = args.k_cache.shape[1];
  const int64_t group = args.q.shape[1] / kv_heads;
  const std::vector<Sequence> sequences = read_sequences(
      "paged_attention", args.batch, 0, args.batch.max_seqs, args.q.shape[0], args.k_cache.shape[0]);
  const int64_t rows = rows_of_an_item(sequences, args.q.shape[1], context.num_threads());
  // As many heads as leave an item or two for each thread.
  const auto num_sequences = std::max<int64_t>(static_cast<int64_t>(sequences.size()), 1);
  const int64_t parts = ceil_div(int64_t{2} * context.num_threads(), num_sequences);
  const int64_t side_by_side = std::max<int64_t>(kv_heads / parts, 1);
  std::vector<AttentionItem> items;
  for (const Sequence& sequence : sequences) {
    const bool few_rows = sequence.num_rows * group <= kMaxRowsOfSideBySideHeads;
    cut_into_items(sequence, kv_heads, few_rows ? side_by_side : 1, std::max<int64_t>(rows / group, 1),
                   items);
  }
  run_items(context, std::move(items), side_by_side,
            [&](const AttentionItem& item, std::vector<AttentionTile>& tiles) { attend(args, item, tiles); });
}

}  // namespace weft::ops::cpu
