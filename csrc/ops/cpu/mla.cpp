#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "ops/cpu/attention_items.h"
#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {
namespace {

using BlockPointers = std::array<const void*, static_cast<size_t>(kKeyBlock)>;

/// Rows of one head that share an expansion of the latents. An expansion costs as much as about 400 rows, so
/// these are many; their state is 1.3 MB at the widths of DeepSeek-V3.
constexpr int64_t kPrefillRows = 1024;

// Fills the tile with the queries [q_nope, q_rope] of the item's rows and heads, token by token.
void load_queries(const TensorView& q_nope, const TensorView& q_rope, float scale, const AttentionItem& item,
                  int64_t value_dim, AttentionTile& tile) {
  const int64_t nope_dim = q_nope.shape[2];
  const int64_t rope_dim = q_rope.shape[2];
  tile.reset((item.row_end - item.row_begin) * (item.head_end - item.head_begin), nope_dim + rope_dim,
             value_dim);
  int64_t tile_row = 0;
  for (int64_t row = item.row_begin; row < item.row_end; ++row) {
    for (int64_t head = item.head_begin; head < item.head_end; ++head, ++tile_row) {
      const int64_t token = item.sequence.first_row + row;
      float* query = tile.query(tile_row);
      widen_row(row_of(q_nope, token, head), q_nope.dtype, nope_dim, scale, query);
      widen_row(row_of(q_rope, token, head), q_rope.dtype, rope_dim, scale, query + nope_dim);
      tile.limit(tile_row) = static_cast<int32_t>(item.sequence.limit(row));
    }
  }
}

void store_rows(const AttentionTile& tile, const AttentionItem& item, const TensorView& out) {
  int64_t tile_row = 0;
  for (int64_t row = item.row_begin; row < item.row_end; ++row) {
    for (int64_t head = item.head_begin; head < item.head_end; ++head, ++tile_row) {
      tile.finish(tile_row, row_of(out, item.sequence.first_row + row, head), out.dtype);
    }
  }
}

void decode(const MlaDecodeArgs& args, const AttentionItem& item, AttentionTile& tile) {
  load_queries(args.q_nope, args.q_rope, args.scale, item, args.out.shape[2], tile);
  const int64_t num_keys = item.sequence.limit(item.row_end - 1);
  BlockPointers keys;  // a value is the latent, which is the head of its key
  for (int64_t first = 0; first < num_keys; first += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, num_keys - first);
    for (int64_t k = 0; k < count; ++k) {
      keys[static_cast<size_t>(k)] = row_of(args.cache, item.sequence.slot(first + k), 0);
    }
    tile.add_block(first, count, keys.data(), keys.data(), args.cache.dtype);
  }
  store_rows(tile, item, args.out);
}

/// Keys and values of one head for one block of positions, and what it takes to make them. One a thread.
struct Expansion {
  std::vector<float> latents;        // [kKeyBlock, kv_lora_rank]
  std::vector<float> keys;           // [kKeyBlock, nope_dim + rope_dim]
  std::vector<float> values;         // [kKeyBlock, v_dim]
  std::vector<const void*> weights;  // rows of w_kv_b of this head
  BlockPointers key_rows;
  BlockPointers value_rows;
};

void prepare(const MlaPrefillArgs& args, int64_t head, Expansion& expansion) {
  const int64_t kv_lora_rank = args.w_kv_b.shape[2];
  const int64_t key_dim = args.q_nope.shape[2] + args.q_rope.shape[2];
  const int64_t v_dim = args.out.shape[2];
  expansion.latents.resize(static_cast<size_t>(kKeyBlock * kv_lora_rank));
  expansion.keys.resize(static_cast<size_t>(kKeyBlock * key_dim));
  expansion.values.resize(static_cast<size_t>(kKeyBlock * v_dim));
  expansion.weights.clear();
  for (int64_t i = 0; i < args.w_kv_b.shape[1]; ++i)
    expansion.weights.push_back(row_of(args.w_kv_b, head, i));
  for (int64_t k = 0; k < kKeyBlock; ++k) {
    expansion.key_rows[static_cast<size_t>(k)] = expansion.keys.data() + k * key_dim;
    expansion.value_rows[static_cast<size_t>(k)] = expansion.values.data() + k * v_dim;
  }
}

void expand(const MlaPrefillArgs& args, const Sequence& sequence, int64_t first, int64_t count,
            Expansion& expansion) {
  const int64_t kv_lora_rank = args.w_kv_b.shape[2];
  const int64_t nope_dim = args.q_nope.shape[2];
  const int64_t rope_dim = args.q_rope.shape[2];
  const int64_t v_dim = args.out.shape[2];
  const auto element = static_cast<int64_t>(dtype_size(args.cache.dtype));
  for (int64_t k = 0; k < count; ++k) {
    const std::byte* row = row_of(args.cache, sequence.slot(first + k), 0);
    widen_row(row, args.cache.dtype, kv_lora_rank, 1.0F, expansion.latents.data() + k * kv_lora_rank);
    widen_row(row + kv_lora_rank * element, args.cache.dtype, rope_dim, 1.0F,
              expansion.keys.data() + k * (nope_dim + rope_dim) + nope_dim);
  }
  const void* const* weights = expansion.weights.data();
  dot_rows(expansion.latents.data(), kv_lora_rank, count, weights, args.w_kv_b.dtype, nope_dim, kv_lora_rank,
           expansion.keys.data(), nope_dim + rope_dim);
  dot_rows(expansion.latents.data(), kv_lora_rank, count, weights + nope_dim, args.w_kv_b.dtype, v_dim,
           kv_lora_rank, expansion.values.data(), v_dim);
}

void prefill(const MlaPrefillArgs& args, const AttentionItem& item, AttentionTile& tile) {
  thread_local Expansion expansion;
  load_queries(args.q_nope, args.q_rope, args.scale, item, args.out.shape[2], tile);
  prepare(args, item.head_begin, expansion);
  const int64_t num_keys = item.sequence.limit(item.row_end - 1);
  for (int64_t first = 0; first < num_keys; first += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, num_keys - first);
    expand(args, item.sequence, first, count, expansion);
    tile.add_block(first, count, expansion.key_rows.data(), expansion.value_rows.data(), DType::kF32);
  }
  store_rows(tile, item, args.out);
}

}  // namespace

void mla_decode(const MlaDecodeArgs& args, ExecContext& context) {
  const std::vector<Sequence> sequences =
      read_sequences("mla_decode", args.batch, args.first_seq, args.batch.max_seqs, args.q_nope.shape[0],
                     args.cache.shape[0]);
  const int64_t heads = args.q_nope.shape[1];
  const int64_t rows = rows_of_an_item(sequences, heads, context.num_threads());
  const int64_t heads_per_item = std::min(heads, rows);
  std::vector<AttentionItem> items;
  for (const Sequence& sequence : sequences) {
    cut_into_items(sequence, heads, heads_per_item, rows / heads_per_item, items);
  }
  run_items(context, std::move(items), 1, [&](const AttentionItem& item, std::vector<AttentionTile>& tiles) {
    decode(args, item, tiles[0]);
  });
}

void mla_prefill(const MlaPrefillArgs& args, ExecContext& context) {
  const std::vector<Sequence> sequences = read_sequences("mla_prefill", args.batch, 0, args.num_prefill_seqs,
                                                         args.q_nope.shape[0], args.cache.shape[0]);
  std::vector<AttentionItem> items;
  for (const Sequence& sequence : sequences) {
    cut_into_items(sequence, args.q_nope.shape[1], 1, kPrefillRows, items);
  }
  run_items(context, std::move(items), 1, [&](const AttentionItem& item, std::vector<AttentionTile>& tiles) {
    prefill(args, item, tiles[0]);
  });
}

}  // namespace weft::ops::cpu
