#include "runtime/page_allocator.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace weft::runtime {

PageAllocator::PageAllocator(int64_t num_pages) {
  WEFT_CHECK(num_pages >= 0, "num_pages={} must not be negative", num_pages);
  taken_.assign(static_cast<size_t>(num_pages), false);
  free_.resize(static_cast<size_t>(num_pages));
  std::iota(free_.begin(), free_.end(), 0);
  std::reverse(free_.begin(), free_.end());  // page 0 first
}

bool PageAllocator::reserve(int64_t count) {
  if (count > available()) return false;
  promised_ += count;
  return true;
}

void PageAllocator::cancel(int64_t count) {
  WEFT_CHECK(count <= promised_, "{} promised pages given back, {} were promised", count, promised_);
  promised_ -= count;
}

int32_t PageAllocator::take() {
  WEFT_CHECK(promised_ > 0, "a page was taken that nobody was promised; {} are free", free_.size());
  --promised_;
  const int32_t page = free_.back();
  free_.pop_back();
  taken_[static_cast<size_t>(page)] = true;
  return page;
}

void PageAllocator::release(int32_t page) {
  WEFT_CHECK(taken_.at(static_cast<size_t>(page)), "page {} is released but not taken", page);
  taken_[static_cast<size_t>(page)] = false;
  free_.push_back(page);
}

}  // namespace weft::runtime
