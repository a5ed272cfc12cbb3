#include "model/weight_staging.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace weft::model {
namespace {

/// Rows [row, row + num_rows) of a part, which fit into a block.
struct Piece {
  size_t part = 0;
  int64_t row = 0;
  int64_t num_rows = 0;
};

std::vector<Piece> cut(std::span<const WeightPart> parts, int64_t block_bytes) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < parts.size(); ++i) {
    const device::TensorView& to = parts[i].to;
    const int64_t rows = to.shape[0];
    if (to.numel() == 0) continue;
    const int64_t row_bytes = to.numel() / rows * static_cast<int64_t>(dtype_size(to.dtype));
    WEFT_CHECK(row_bytes <= block_bytes, "weight {}: a row of {} bytes exceeds a staging block of {}",
               parts[i].name, row_bytes, block_bytes);
    const int64_t step = block_bytes / row_bytes;
    for (int64_t row = 0; row < rows; row += step) pieces.push_back({i, row, std::min(step, rows - row)});
  }
  return pieces;
}

void fill(WeightSource& source, const WeightPart& part, const Piece& piece, void* block) {
  device::TensorView rows = part.to.rows(piece.row, piece.num_rows);
  rows.data = block;
  if (part.name.empty()) {
    std::memset(block, 0, rows.span_bytes());
    return;
  }
  std::vector<Slice> slices(part.slices.begin(), part.slices.end());
  if (slices.empty()) slices.emplace_back();
  const int64_t begin = slices[0].begin + piece.row;
  slices[0] = {begin, begin + piece.num_rows};
  source.read(part.name, part.full_shape, slices, rows);
}

}  // namespace

void load_staged(WeightSource& source, std::span<const WeightPart> parts, const WeightStaging& staging) {
  const std::vector<Piece> pieces = cut(parts, staging.block_bytes);
  std::atomic<size_t> next{0};
  std::mutex mutex;  // of `failure`, and for send()
  std::exception_ptr failure;
  const auto work = [&](size_t first_block, size_t num_blocks) {
    try {
      for (size_t turn = 0;; ++turn) {
        const size_t index = next.fetch_add(1);
        if (index >= pieces.size()) break;
        const size_t block = first_block + turn % num_blocks;
        const Piece& piece = pieces[index];
        const WeightPart& part = parts[piece.part];
        staging.wait(block);
        fill(source, part, piece, staging.blocks[block]);
        const device::TensorView to = part.to.rows(piece.row, piece.num_rows);
        const std::lock_guard lock(mutex);
        staging.send(block, to.data, static_cast<int64_t>(to.span_bytes()));
      }
      for (size_t block = first_block; block < first_block + num_blocks; ++block) staging.wait(block);
    } catch (...) {
      next = pieces.size();
      const std::lock_guard lock(mutex);
      if (failure == nullptr) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    size_t block = std::min<size_t>(2, staging.blocks.size());  // the first ones are this thread's
    for (; block + 1 < staging.blocks.size(); block += 2) threads.emplace_back(work, block, size_t{2});
    work(0, std::min<size_t>(2, staging.blocks.size()));
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

}  // namespace weft::model
