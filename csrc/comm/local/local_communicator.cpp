#include "comm/local/local_communicator.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "comm/local/collective_ops.h"
#include "comm/local/sum.h"

namespace weft::comm::local {
namespace {

using device::OpKind;
using device::read;
using device::write;

void check_pair(Collective op, const TensorView& out, const TensorView& in) {
  const auto name = collective_name(op);
  WEFT_CHECK(out.dtype == in.dtype, "{}: out is {} and in is {}; the dtypes must be equal", name,
             out.describe(), in.describe());
  WEFT_CHECK(out.is_contiguous() && in.is_contiguous(), "{}: out {} and in {} must be contiguous", name,
             out.describe(), in.describe());
}

void check_sum(Collective op, DType dtype) {
  WEFT_CHECK(can_sum(dtype), "{}: dtype {} has no sum; use f32, bf16, f16, i32 or i64", collective_name(op),
             dtype_name(dtype));
}

/// Elements of one row of `view`; the rows of an empty tensor have none.
int64_t row_elements(const TensorView& view) {
  return view.rank == 0 || view.shape[0] == 0 ? 0 : view.numel() / view.shape[0];
}

int64_t num_rows(const TensorView& view) { return view.rank == 0 ? 0 : view.shape[0]; }

/// The byte ranges are disjoint, or `part` is exactly the part of `whole` from byte `offset`.
void check_overlap(Collective op, const TensorView& part, const TensorView& whole, size_t offset,
                   const char* rule) {
  const auto* p = static_cast<const std::byte*>(part.data);
  const auto* w = static_cast<const std::byte*>(whole.data);
  const size_t part_bytes = part.span_bytes();
  const size_t whole_bytes = whole.span_bytes();
  if (part_bytes == 0 || whole_bytes == 0 || p + part_bytes <= w || w + whole_bytes <= p) return;
  WEFT_CHECK(rule[0] != '\0' && p == w + offset, "{}: out {} and in {} overlap; {}", collective_name(op),
             part.describe(), whole.describe(), rule[0] != '\0' ? rule : "they must be apart");
}

/// Checks one `rows` against the tensors of a call with unequal counts; returns the elements of a row.
int64_t check_rows(Collective op, const TensorView& part, const TensorView& whole,
                   std::span<const int64_t> rows, int rank, int size) {
  const auto name = collective_name(op);
  WEFT_CHECK(rows.size() == static_cast<size_t>(size), "{}: rows has {} entries for {} ranks", name,
             rows.size(), size);
  WEFT_CHECK(std::all_of(rows.begin(), rows.end(), [](int64_t n) { return n >= 0; }),
             "{}: rows [{}] has a negative count", name, fmt::join(rows, ", "));
  const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  WEFT_CHECK(num_rows(part) == rows[rank] && num_rows(whole) == total,
             "{}: rows [{}] of rank {} do not fit {} and {}", name, fmt::join(rows, ", "), rank,
             part.describe(), whole.describe());
  const int64_t elements = row_elements(whole);
  WEFT_CHECK(rows[rank] == 0 || row_elements(part) == elements, "{}: rows of {} and {} differ in size", name,
             part.describe(), whole.describe());
  return elements;
}

CollectiveVArgs make_v_args(const CollectiveArgs& base, int64_t elements, std::span<const int64_t> rows) {
  CollectiveVArgs args{.base = base, .row_elements = elements, .rows = {}};
  std::copy(rows.begin(), rows.end(), args.rows.begin());
  return args;
}

size_t byte_offset(const TensorView& view, int64_t elements) {
  return static_cast<size_t>(elements) * dtype_size(view.dtype);
}

void enter_barrier(void* state, int32_t rank, std::string_view op, int64_t /*num_bytes*/) {
  // Ranks may move different numbers of bytes, so these do not have to agree.
  static_cast<Group*>(state)->ops.meet(rank, Call{.name = op, .rows = {}});
}

}  // namespace

Group::Group(const std::string& group_name, const std::vector<int>& ranks, int channel,
             std::chrono::milliseconds deadline, const AbortFlag& abort)
    : name(group_name),
      ops(fmt::format("group '{}' (channel {})", group_name, channel), ranks, deadline, abort),
      host(fmt::format("group '{}' (channel {}, host)", group_name, channel), ranks, deadline, abort) {}

LocalCommunicator::LocalCommunicator(Group& group, int rank, std::function<void()> on_close)
    : group_(group), rank_(rank), on_close_(std::move(on_close)) {}

LocalCommunicator::~LocalCommunicator() { on_close_(); }

void LocalCommunicator::all_reduce(Stream& stream, const TensorView& out, const TensorView& in) {
  constexpr auto kOp = Collective::kAllReduce;
  check_pair(kOp, out, in);
  check_sum(kOp, in.dtype);
  WEFT_CHECK(out.rank == in.rank && out.shape == in.shape, "all_reduce: out {} and in {} differ in shape",
             out.describe(), in.describe());
  check_overlap(kOp, out, in, 0, "out may only be all of in");
  const CollectiveArgs args{&group_, rank_, -1, in.dtype, in.numel(), in.data, out.data};
  stream.launch<CollectiveArgs>(collective_name(kOp), run_all_reduce, args, {read(in), write(out)},
                                OpKind::kCollective);
}

void LocalCommunicator::reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) {
  constexpr auto kOp = Collective::kReduceScatter;
  check_pair(kOp, out, in);
  check_sum(kOp, in.dtype);
  WEFT_CHECK(num_rows(in) % size() == 0 && num_rows(out) * size() == num_rows(in) &&
                 out.numel() * size() == in.numel(),
             "reduce_scatter: in {} over {} ranks does not leave out {}", in.describe(), size(),
             out.describe());
  check_overlap(kOp, out, in, byte_offset(in, rank_ * out.numel()), "out may only be the rank's slice of in");
  const CollectiveArgs args{&group_, rank_, -1, in.dtype, out.numel(), in.data, out.data};
  stream.launch<CollectiveArgs>(collective_name(kOp), run_reduce_scatter, args, {read(in), write(out)},
                                OpKind::kCollective);
}

void LocalCommunicator::reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                                         std::span<const int64_t> rows) {
  constexpr auto kOp = Collective::kReduceScatter;
  check_pair(kOp, out, in);
  check_sum(kOp, in.dtype);
  const int64_t elements = check_rows(kOp, out, in, rows, rank_, size());
  const int64_t before = std::accumulate(rows.begin(), rows.begin() + rank_, int64_t{0}) * elements;
  check_overlap(kOp, out, in, byte_offset(in, before), "out may only be the rank's slice of in");
  const auto args =
      make_v_args({&group_, rank_, -1, in.dtype, in.numel(), in.data, out.data}, elements, rows);
  stream.launch<CollectiveVArgs>(collective_name(kOp), run_reduce_scatter_v, args, {read(in), write(out)},
                                 OpKind::kCollective);
}

void LocalCommunicator::all_gather(Stream& stream, const TensorView& out, const TensorView& in) {
  constexpr auto kOp = Collective::kAllGather;
  check_pair(kOp, out, in);
  WEFT_CHECK(num_rows(in) * size() == num_rows(out) && in.numel() * size() == out.numel(),
             "all_gather: in {} of {} ranks does not fill out {}", in.describe(), size(), out.describe());
  check_overlap(kOp, in, out, byte_offset(out, rank_ * in.numel()), "in may only be the rank's slice of out");
  const CollectiveArgs args{&group_, rank_, -1, in.dtype, in.numel(), in.data, out.data};
  stream.launch<CollectiveArgs>(collective_name(kOp), run_all_gather, args, {read(in), write(out)},
                                OpKind::kCollective);
}

void LocalCommunicator::all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                                     std::span<const int64_t> rows) {
  constexpr auto kOp = Collective::kAllGather;
  check_pair(kOp, out, in);
  const int64_t elements = check_rows(kOp, in, out, rows, rank_, size());
  const int64_t before = std::accumulate(rows.begin(), rows.begin() + rank_, int64_t{0}) * elements;
  check_overlap(kOp, in, out, byte_offset(out, before), "in may only be the rank's slice of out");
  const auto args =
      make_v_args({&group_, rank_, -1, in.dtype, out.numel(), in.data, out.data}, elements, rows);
  stream.launch<CollectiveVArgs>(collective_name(kOp), run_all_gather_v, args, {read(in), write(out)},
                                 OpKind::kCollective);
}

void LocalCommunicator::all_to_all(Stream& stream, const TensorView& out, const TensorView& in) {
  constexpr auto kOp = Collective::kAllToAll;
  check_pair(kOp, out, in);
  WEFT_CHECK(num_rows(in) % size() == 0 && num_rows(in) == num_rows(out) && in.numel() == out.numel(),
             "all_to_all: in {} and out {} must have the same rows, a multiple of {}", in.describe(),
             out.describe(), size());
  check_overlap(kOp, out, in, 0, "");
  const CollectiveArgs args{&group_, rank_, -1, in.dtype, in.numel() / size(), in.data, out.data};
  stream.launch<CollectiveArgs>(collective_name(kOp), run_all_to_all, args, {read(in), write(out)},
                                OpKind::kCollective);
}

void LocalCommunicator::broadcast(Stream& stream, const TensorView& data, int root) {
  constexpr auto kOp = Collective::kBroadcast;
  check_pair(kOp, data, data);
  WEFT_CHECK(root >= 0 && root < size(), "broadcast: root {} is not a rank of {}", root, size());
  const CollectiveArgs args{&group_, rank_, root, data.dtype, data.numel(), data.data, data.data};
  const device::Access access = rank_ == root ? read(data) : write(data);
  stream.launch<CollectiveArgs>(collective_name(kOp), run_broadcast, args, {access}, OpKind::kCollective);
}

void LocalCommunicator::barrier(Stream& stream) {
  const CollectiveArgs args{&group_, rank_, -1, DType::kU8, 0, nullptr, nullptr};
  stream.launch<CollectiveArgs>(collective_name(Collective::kBarrier), run_barrier, args,
                                std::initializer_list<device::Access>{}, OpKind::kCollective);
}

std::vector<void*> LocalCommunicator::exchange_pointers(void* mine) {
  Call call{.name = "exchange_pointers", .rows = {}};
  call.out = mine;
  group_.host.meet(rank_, call);
  std::vector<void*> pointers;
  for (int r = 0; r < size(); ++r) pointers.push_back(group_.host.call(r).out);
  group_.host.meet_again(rank_);
  return pointers;
}

PeerBarrier LocalCommunicator::peer_barrier() {
  return {.state = &group_, .rank = rank_, .wait = enter_barrier};
}

}  // namespace weft::comm::local
