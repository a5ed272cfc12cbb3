#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/error.h"
#include "ops/common.h"
#include "ops/cpu/attention_tile.h"

/// What attention ops share on the CPU: sequences read from the batch, and their work cut into items.
namespace weft::ops::cpu {

/// Where view[row, head] begins.
inline std::byte* row_of(const TensorView& view, int64_t row, int64_t head) {
  return view.as<std::byte>() +
         (row * view.stride[0] + head * view.stride[1]) * static_cast<int64_t>(dtype_size(view.dtype));
}

/// One sequence of a SequenceBatch as it stands when the op runs, checked.
struct Sequence {
  const char* op = "";
  int32_t index = 0;
  int64_t first_row = 0;  // of the query rows
  int64_t num_rows = 0;
  int64_t kv_len = 0;
  const int32_t* pages = nullptr;
  int64_t page_size = 1;
  int64_t num_slots = 0;  // of the cache

  /// Row j sees the positions [0, limit(j)), its own included.
  [[nodiscard]] int64_t limit(int64_t row) const { return kv_len - num_rows + row + 1; }
  /// Where `position` lies in the cache; throws if the page is none of the cache's.
  [[nodiscard]] int64_t slot(int64_t position) const {
    const int64_t page = pages[position / page_size];
    const int64_t slot = page * page_size + position % page_size;
    WEFT_CHECK(
        slot >= 0 && slot < num_slots,
        "{}: position {} of sequence {} is in page {}, outside the cache of {} slots; fill the page table "
        "up to kv_len",
        op, position, index, page, num_slots);
    return slot;
  }
};

/// The sequences [first, min(end, num_seqs)) that have query rows. `num_rows` are the rows of the query
/// tensor, `num_slots` those of the cache. Throws if the batch contradicts them or itself.
std::vector<Sequence> read_sequences(const char* op, const SequenceBatch& batch, int64_t first, int64_t end,
                                     int64_t num_rows, int64_t num_slots);

/// Some rows and heads of a sequence: what one thread does at a time. Which heads, query's or keys', is the
/// op's affair.
struct AttentionItem {
  Sequence sequence;
  int64_t row_begin = 0;  // rows [row_begin, row_end) of the sequence
  int64_t row_end = 0;
  int64_t head_begin = 0;
  int64_t head_end = 0;
};

/// Appends the items of one sequence: at most `heads_per_item` of its `num_heads` heads and `rows_per_item`
/// of its rows at a time.
void cut_into_items(const Sequence& sequence, int64_t num_heads, int64_t heads_per_item,
                    int64_t rows_per_item, std::vector<AttentionItem>& items);

/// Rows (of one head) that an item should have, so that there is work for each thread, but a block of keys is
/// used often once it has been fetched: 8 to 64.
int64_t rows_of_an_item(const std::vector<Sequence>& sequences, int64_t num_heads, int num_threads);

/// Calls work(item, tiles) for each item on all threads of `context`, the costly ones first. `tiles` belong
/// to the thread: `tiles_per_item` or more, in any state.
void run_items(device::ExecContext& context, std::vector<AttentionItem> items, int64_t tiles_per_item,
               const std::function<void(const AttentionItem&, std::vector<AttentionTile>&)>& work);

}  // namespace weft::ops::cpu
