#include "model/weight_coverage.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "model/tensor_block.h"

namespace weft::model {

namespace {

using Blocks = std::vector<const std::vector<Slice>*>;

/// The first index (row-major) of the box `shape` that no block covers, in dimensions `dim` and on.
std::optional<std::vector<int64_t>> find_hole(const Blocks& blocks, std::span<const int64_t> shape,
                                              size_t dim) {
  if (dim == shape.size()) {
    if (blocks.empty()) return std::vector<int64_t>(dim, 0);
    return std::nullopt;
  }
  std::vector<int64_t> cuts = {0, shape[dim]};
  for (const auto* block : blocks) {
    cuts.push_back((*block)[dim].begin);
    cuts.push_back((*block)[dim].end);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  // Between two cuts the same blocks are present.
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Blocks present;
    for (const auto* block : blocks) {
      if ((*block)[dim].begin <= cuts[i] && cuts[i] < (*block)[dim].end) present.push_back(block);
    }
    if (auto hole = find_hole(present, shape, dim + 1)) {
      (*hole)[dim] = cuts[i];
      return hole;
    }
  }
  return std::nullopt;
}

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  name.remove_prefix(star);
  pattern.remove_prefix(star + 1);
  for (size_t i = 0; i <= name.size(); ++i) {
    if (matches_pattern(name.substr(i), pattern)) return true;
  }
  return false;
}

void WeightCoverage::read(std::string_view name, std::span<const int64_t> full_shape,
                          std::span<const Slice> slices) {
  std::vector<Slice> block(slices.begin(), slices.end());
  block.resize(full_shape.size());
  for (size_t d = 0; d < block.size(); ++d) {
    if (block[d].end == -1) block[d].end = full_shape[d];
  }
  const auto same = [&block](const std::vector<Slice>& other) {
    return std::equal(block.begin(), block.end(), other.begin(), other.end(),
                      [](const Slice& a, const Slice& b) { return a.begin == b.begin && a.end == b.end; });
  };
  const std::lock_guard lock(mutex_);
  Reads& reads = reads_[std::string(name)];
  reads.full_shape.assign(full_shape.begin(), full_shape.end());
  if (std::none_of(reads.blocks.begin(), reads.blocks.end(), same)) reads.blocks.push_back(std::move(block));
}

void WeightCoverage::finish(const WeightSource& source, std::span<const std::string> ignore) const {
  constexpr size_t kShown = 8;
  const std::lock_guard lock(mutex_);
  std::vector<std::string> extra;
  size_t num_extra = 0;
  for (const std::string& name : source.names()) {
    if (std::any_of(ignore.begin(), ignore.end(),
                    [&](const auto& pattern) { return matches_pattern(name, pattern); })) {
      continue;
    }
    const auto it = reads_.find(name);
    if (it == reads_.end()) {
      if (++num_extra <= kShown) extra.push_back(json::excerpt(name));
      continue;
    }
    Blocks blocks;
    for (const auto& block : it->second.blocks) blocks.push_back(&block);
    if (const auto hole = find_hole(blocks, it->second.full_shape, 0)) {
      WEFT_THROW("tensor {} of shape {}: element {} was read by no rank", json::excerpt(name),
                 describe_shape(it->second.full_shape), describe_shape(*hole));
    }
  }
  WEFT_CHECK(num_extra == 0, "the checkpoint holds {} tensors that the model does not use: {}{}", num_extra,
             fmt::join(extra, ", "), num_extra > kShown ? ", ..." : "");
}

WeightDestination::WeightDestination(WeightSource& source, WeightCoverage& coverage, std::string name,
                                     const device::TensorView& whole)
    : source_(source), coverage_(coverage), name_(std::move(name)), whole_(whole) {
  for (int d = whole.rank - 1; d >= 0; --d) {
    const auto i = static_cast<size_t>(d);
    WEFT_CHECK(whole.shape[i] <= 1 || whole.stride[i] == numel_,
               "weight {}: the destination is not contiguous", name_);
    numel_ *= whole.shape[i];
  }
}

void WeightDestination::read(std::string_view name, std::span<const int64_t> full_shape,
                             std::span<const Slice> slices, const device::TensorView& part) {
  note(std::string(name), part);  // first, so that nothing is written outside `whole`
  source_.read(name, full_shape, slices, part);
  coverage_.read(name, full_shape, slices);
}

void WeightDestination::expect(std::string_view name, std::span<const int64_t> full_shape,
                               std::span<const Slice> slices, const device::TensorView& part) {
  note(std::string(name), part);
  coverage_.read(name, full_shape, slices);
}

void WeightDestination::zero(const device::TensorView& part) {
  const size_t first = ranges_.size();
  note("zeros", part);
  const size_t element = dtype_size(whole_.dtype);
  for (size_t i = first; i < ranges_.size(); ++i) {
    std::memset(whole_.as<char>() + static_cast<size_t>(ranges_[i].begin) * element, 0,
                static_cast<size_t>(ranges_[i].end - ranges_[i].begin) * element);
  }
}

void WeightDestination::note(std::string writer, const device::TensorView& part) {
  WEFT_CHECK(part.dtype == whole_.dtype, "weight {}: a part is {}, the whole {}", name_,
             dtype_name(part.dtype), dtype_name(whole_.dtype));
  const std::span<const int64_t> shape(part.shape.data(), static_cast<size_t>(part.rank));
  const std::vector<int64_t> zeros(shape.size(), 0);
  const auto element = static_cast<int64_t>(dtype_size(whole_.dtype));
  const int64_t row = shape.empty() ? 1 : shape.back();
  const size_t index = writers_.size();
  writers_.push_back(std::move(writer));
  for_each_row(TensorBlock{{shape.begin(), shape.end()}, zeros, {shape.begin(), shape.end()}}, part,
               [&](int64_t, const char* address) {
                 const int64_t offset = address - whole_.as<const char>();
                 WEFT_CHECK(offset >= 0 && offset % element == 0 && offset / element + row <= numel_,
                            "weight {}: {} would be written outside it", name_, writers_[index]);
                 const int64_t begin = offset / element;
                 if (!ranges_.empty() && ranges_.back().writer == index && ranges_.back().end == begin) {
                   ranges_.back().end += row;
                 } else {
                   ranges_.push_back({begin, begin + row, index});
                 }
               });
}

void WeightDestination::finish() {
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  int64_t end = 0;
  const Range* last = nullptr;
  for (const Range& range : ranges_) {
    WEFT_CHECK(range.begin >= end, "weight {}: element {} is written by {} and by {}", name_,
               describe_element(range.begin), json::excerpt(writers_[last == nullptr ? 0 : last->writer]),
               json::excerpt(writers_[range.writer]));
    WEFT_CHECK(range.begin == end, "weight {}: element {} is written by nothing", name_,
               describe_element(end));
    end = range.end;
    last = &range;
  }
  WEFT_CHECK(end == numel_, "weight {}: element {} is written by nothing", name_, describe_element(end));
}

std::string WeightDestination::describe_element(int64_t element) const {
  std::vector<int64_t> index(static_cast<size_t>(whole_.rank));
  for (size_t d = index.size(); d-- > 0;) {
    index[d] = element % whole_.shape[d];
    element /= whole_.shape[d];
  }
  return describe_shape(index);
}

}  // namespace weft::model
