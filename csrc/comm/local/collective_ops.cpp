#include "comm/local/collective_ops.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "base/math.h"
#include "comm/local/sum.h"

namespace weft::comm::local {
namespace {

using device::ExecContext;

constexpr int64_t kCopyGrain = 1 << 18;  // bytes; less is not worth a second thread
constexpr size_t kSmallReduce = size_t{16}
                                << 10;  // bytes; below it a meeting costs more than summing all on each rank

const std::byte* at(const void* data, int64_t element, DType dtype) {
  return static_cast<const std::byte*>(data) + element * static_cast<int64_t>(dtype_size(dtype));
}
std::byte* at(void* data, int64_t element, DType dtype) {
  return static_cast<std::byte*>(data) + element * static_cast<int64_t>(dtype_size(dtype));
}

void copy_elements(void* dst, const void* src, int64_t count, DType dtype, ExecContext& context) {
  if (dst == src || count == 0) return;
  context.parallel_for(
      count * static_cast<int64_t>(dtype_size(dtype)), kCopyGrain, [&](int64_t begin, int64_t end) {
        std::memcpy(static_cast<std::byte*>(dst) + begin, static_cast<const std::byte*>(src) + begin,
                    static_cast<size_t>(end - begin));
      });
}

Call make_call(Collective op, const CollectiveArgs& args) {
  return {.name = collective_name(op),
          .sized = true,
          .dtype = args.dtype,
          .count = args.count,
          .root = args.root,
          .rows = {},
          .in = args.in,
          .out = args.out};
}

Call make_call(Collective op, const CollectiveVArgs& args) {
  Call call = make_call(op, args.base);
  call.rows = std::span(args.rows.data(), static_cast<size_t>(args.base.group->ops.size()));
  return call;
}

/// Elements [begin, begin + count) of every rank's `in`, summed into out.
void sum_ranks(const CollectiveArgs& args, void* out, int64_t begin, int64_t count, ExecContext& context) {
  if (count == 0) return;
  std::array<const void*, kMaxGroupSize> inputs{};
  const int size = args.group->ops.size();
  for (int r = 0; r < size; ++r) inputs[r] = at(args.group->ops.call(r).in, begin, args.dtype);
  sum(args.dtype, out, std::span(inputs.data(), static_cast<size_t>(size)), count, context);
}

int64_t elements_before(const CollectiveVArgs& args, int rank) {
  int64_t rows = 0;
  for (int r = 0; r < rank; ++r) rows += args.rows[r];
  return rows * args.row_elements;
}

}  // namespace

void run_all_reduce(const CollectiveArgs& args, ExecContext& context) {
  Rendezvous& ops = args.group->ops;
  const int size = ops.size();
  ops.meet(args.rank, make_call(Collective::kAllReduce, args));
  const size_t num_bytes = static_cast<size_t>(args.count) * dtype_size(args.dtype);
  if (num_bytes <= kSmallReduce) {
    // In place is legal, so the sum waits beside until all ranks have read the inputs.
    alignas(64) std::array<std::byte, kSmallReduce> total;
    sum_ranks(args, total.data(), 0, args.count, context);
    ops.meet_again(args.rank);
    if (num_bytes != 0) std::memcpy(args.out, total.data(), num_bytes);
    return;
  }
  // Rank r sums slice r of all inputs, then everyone fetches the other slices. Slices are whole cache lines,
  // and in place no rank writes a slice that another one still has to read.
  const int64_t slice = round_up(ceil_div(args.count, int64_t{size}), int64_t{64});
  const auto begin_of = [&](int r) { return std::min(args.count, r * slice); };
  const int64_t mine = begin_of(args.rank);
  sum_ranks(args, at(args.out, mine, args.dtype), mine, begin_of(args.rank + 1) - mine, context);
  ops.meet_again(args.rank);
  for (int step = 1; step < size; ++step) {
    const int r = (args.rank + step) % size;  // not all from one rank at once
    copy_elements(at(args.out, begin_of(r), args.dtype), at(ops.call(r).out, begin_of(r), args.dtype),
                  begin_of(r + 1) - begin_of(r), args.dtype, context);
  }
  ops.meet_again(args.rank);
}

void run_reduce_scatter(const CollectiveArgs& args, ExecContext& context) {
  args.group->ops.meet(args.rank, make_call(Collective::kReduceScatter, args));
  sum_ranks(args, args.out, args.rank * args.count, args.count, context);
  args.group->ops.meet_again(args.rank);
}

void run_reduce_scatter_v(const CollectiveVArgs& args, ExecContext& context) {
  const CollectiveArgs& base = args.base;
  base.group->ops.meet(base.rank, make_call(Collective::kReduceScatter, args));
  sum_ranks(base, base.out, elements_before(args, base.rank), args.rows[base.rank] * args.row_elements,
            context);
  base.group->ops.meet_again(base.rank);
}

void run_all_gather(const CollectiveArgs& args, ExecContext& context) {
  Rendezvous& ops = args.group->ops;
  ops.meet(args.rank, make_call(Collective::kAllGather, args));
  for (int step = 0; step < ops.size(); ++step) {
    const int r = (args.rank + step) % ops.size();
    copy_elements(at(args.out, r * args.count, args.dtype), ops.call(r).in, args.count, args.dtype, context);
  }
  ops.meet_again(args.rank);
}

void run_all_gather_v(const CollectiveVArgs& args, ExecContext& context) {
  const CollectiveArgs& base = args.base;
  Rendezvous& ops = base.group->ops;
  ops.meet(base.rank, make_call(Collective::kAllGather, args));
  for (int step = 0; step < ops.size(); ++step) {
    const int r = (base.rank + step) % ops.size();
    copy_elements(at(base.out, elements_before(args, r), base.dtype), ops.call(r).in,
                  args.rows[r] * args.row_elements, base.dtype, context);
  }
  ops.meet_again(base.rank);
}

void run_all_to_all(const CollectiveArgs& args, ExecContext& context) {
  Rendezvous& ops = args.group->ops;
  ops.meet(args.rank, make_call(Collective::kAllToAll, args));
  for (int step = 0; step < ops.size(); ++step) {
    const int r = (args.rank + step) % ops.size();
    copy_elements(at(args.out, r * args.count, args.dtype),
                  at(ops.call(r).in, args.rank * args.count, args.dtype), args.count, args.dtype, context);
  }
  ops.meet_again(args.rank);
}

void run_broadcast(const CollectiveArgs& args, ExecContext& context) {
  Rendezvous& ops = args.group->ops;
  ops.meet(args.rank, make_call(Collective::kBroadcast, args));
  copy_elements(args.out, ops.call(args.root).in, args.count, args.dtype, context);
  ops.meet_again(args.rank);
}

void run_barrier(const CollectiveArgs& args, ExecContext& /*context*/) {
  args.group->ops.meet(args.rank, Call{.name = collective_name(Collective::kBarrier), .rows = {}});
}

}  // namespace weft::comm::local
