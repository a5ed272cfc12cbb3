#include "ops/cpu/attention_items.h"

#include <algorithm>
#include <atomic>

#include "base/math.h"

namespace weft::ops::cpu {
namespace {

// About what an item costs; only the order of work depends on it.
int64_t cost(const AttentionItem& item) {
  return (item.row_end - item.row_begin) * (item.head_end - item.head_begin) *
         item.sequence.limit(item.row_end - 1);
}

}  // namespace

std::vector<Sequence> read_sequences(const char* op, const SequenceBatch& batch, int64_t first, int64_t end,
                                     int64_t num_rows, int64_t num_slots) {
  const int32_t num_seqs = *batch.num_seqs;
  WEFT_CHECK(num_seqs >= 0 && num_seqs <= batch.max_seqs,
             "{}: the batch holds num_seqs={} sequences, but was laid out for max_seqs={}", op, num_seqs,
             batch.max_seqs);
  const int64_t capacity = int64_t{batch.page_table_stride} * batch.page_size;
  std::vector<Sequence> sequences;
  for (int64_t s = first; s < std::min<int64_t>(end, num_seqs); ++s) {
    const int64_t row_begin = batch.cu_q[s];
    const int64_t row_end = batch.cu_q[s + 1];
    const int64_t kv_len = batch.kv_len[s];
    WEFT_CHECK(row_begin >= 0 && row_begin <= row_end && row_end <= num_rows,
               "{}: sequence {} owns rows [{}, {}) of {}; cu_q must rise from 0 to the number of rows", op, s,
               row_begin, row_end, num_rows);
    if (row_begin == row_end) continue;
    WEFT_CHECK(kv_len >= row_end - row_begin && kv_len <= capacity,
               "{}: sequence {} has kv_len={}; it must be at least its {} query rows, and its {} pages of {} "
               "tokens hold {}",
               op, s, kv_len, row_end - row_begin, batch.page_table_stride, batch.page_size, capacity);
    sequences.push_back(Sequence{.op = op,
                                 .index = static_cast<int32_t>(s),
                                 .first_row = row_begin,
                                 .num_rows = row_end - row_begin,
                                 .kv_len = kv_len,
                                 .pages = batch.page_table + s * batch.page_table_stride,
                                 .page_size = batch.page_size,
                                 .num_slots = num_slots});
  }
  return sequences;
}

void cut_into_items(const Sequence& sequence, int64_t num_heads, int64_t heads_per_item,
                    int64_t rows_per_item, std::vector<AttentionItem>& items) {
  for (int64_t row = 0; row < sequence.num_rows; row += rows_per_item) {
    for (int64_t head = 0; head < num_heads; head += heads_per_item) {
      items.push_back(AttentionItem{.sequence = sequence,
                                    .row_begin = row,
                                    .row_end = std::min(row + rows_per_item, sequence.num_rows),
                                    .head_begin = head,
                                    .head_end = std::min(head + heads_per_item, num_heads)});
    }
  }
}

int64_t rows_of_an_item(const std::vector<Sequence>& sequences, int64_t num_heads, int num_threads) {
  int64_t num_rows = 0;
  for (const Sequence& sequence : sequences) num_rows += sequence.num_rows * num_heads;
  return std::clamp(round_up(ceil_div(num_rows, int64_t{4} * num_threads), int64_t{4}), int64_t{8},
                    int64_t{64});
}

void run_items(device::ExecContext& context, std::vector<AttentionItem> items, int64_t tiles_per_item,
               const std::function<void(const AttentionItem&, std::vector<AttentionTile>&)>& work) {
  std::stable_sort(items.begin(), items.end(),
                   [](const AttentionItem& a, const AttentionItem& b) { return cost(a) > cost(b); });
  const auto num_items = static_cast<int64_t>(items.size());
  // Every thread takes the next item when it is done with one: their costs differ too much for fixed ranges.
  std::atomic<int64_t> next{0};
  context.parallel_for(std::min<int64_t>(context.num_threads(), num_items), 1, [&](int64_t, int64_t) {
    thread_local std::vector<AttentionTile> tiles;
    if (tiles.size() < static_cast<size_t>(tiles_per_item)) tiles.resize(static_cast<size_t>(tiles_per_item));
    for (int64_t i = next.fetch_add(1); i < num_items; i = next.fetch_add(1)) {
      work(items[static_cast<size_t>(i)], tiles);
    }
  });
}

}  // namespace weft::ops::cpu
