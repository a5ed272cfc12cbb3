#include "comm/null/null_communicator.h"

#include <numeric>

#include "base/error.h"
#include "plan/fnv.h"

namespace weft::comm::null {
namespace {

using device::ExecContext;
using device::OpKind;
using device::read;
using device::write;

void meeting(const NullCall& /*call*/, ExecContext& /*context*/) {}

NullCall with(NullCall call, Collective op, DType dtype, int64_t count, int32_t tag) {
  call.op = op;
  call.dtype = dtype;
  call.count = count;
  call.micro_batch = tag;
  return call;
}

}  // namespace

void (*meeting_function())() { return reinterpret_cast<void (*)()>(&meeting); }

void NullCommunicator::check_rows(Collective op, int64_t larger, int64_t smaller,
                                  std::span<const int64_t> rows) const {
  if (rows.empty()) {
    WEFT_CHECK(larger == smaller * size_, "{} in '{}' of {} ranks: {} rows against {} of each rank",
               collective_name(op), name_, size_, larger, smaller);
    return;
  }
  WEFT_CHECK(rows.size() == static_cast<size_t>(size_) &&
                 std::accumulate(rows.begin(), rows.end(), int64_t{0}) == larger &&
                 rows[static_cast<size_t>(template_.rank)] == smaller,
             "{} in '{}' of {} ranks: rows do not fit {} in all and {} of the own", collective_name(op),
             name_, size_, larger, smaller);
}

void NullCommunicator::meet(Stream& stream, Collective op, const TensorView& larger, const TensorView& out,
                            const TensorView& in, std::span<const int64_t> rows) {
  WEFT_CHECK(in.is_contiguous() && out.is_contiguous() && in.dtype == out.dtype,
             "{} in '{}': {} and {} must be contiguous and of one dtype", collective_name(op), name_,
             in.describe(), out.describe());
  NullCall call = with(template_, op, larger.dtype, larger.numel(), stream.tag());
  if (!rows.empty()) {
    plan::Fnv fnv;
    for (const int64_t count : rows) fnv.add(count);
    call.rows_hash = fnv.value();
  }
  stream.launch<NullCall>(collective_name(op), meeting, call, {read(in), write(out)}, OpKind::kCollective);
}

void NullCommunicator::all_reduce(Stream& stream, const TensorView& out, const TensorView& in) {
  WEFT_CHECK(in.numel() == out.numel(), "all_reduce in '{}': {} into {}", name_, in.describe(),
             out.describe());
  meet(stream, Collective::kAllReduce, in, out, in);
}

void NullCommunicator::reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) {
  check_rows(Collective::kReduceScatter, in.shape[0], out.shape[0], {});
  meet(stream, Collective::kReduceScatter, in, out, in);
}

void NullCommunicator::reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                                        std::span<const int64_t> rows) {
  check_rows(Collective::kReduceScatter, in.shape[0], out.shape[0], rows);
  meet(stream, Collective::kReduceScatter, in, out, in, rows);
}

void NullCommunicator::all_gather(Stream& stream, const TensorView& out, const TensorView& in) {
  check_rows(Collective::kAllGather, out.shape[0], in.shape[0], {});
  meet(stream, Collective::kAllGather, out, out, in);
}

void NullCommunicator::all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                                    std::span<const int64_t> rows) {
  check_rows(Collective::kAllGather, out.shape[0], in.shape[0], rows);
  meet(stream, Collective::kAllGather, out, out, in, rows);
}

void NullCommunicator::all_to_all(Stream& stream, const TensorView& out, const TensorView& in) {
  meet(stream, Collective::kAllToAll, in, out, in);
}

void NullCommunicator::broadcast(Stream& stream, const TensorView& data, int root) {
  NullCall call = with(template_, Collective::kBroadcast, data.dtype, data.numel(), stream.tag());
  call.root = root;
  const device::Access access = root == template_.rank ? read(data) : write(data);
  stream.launch<NullCall>(collective_name(call.op), meeting, call, {access}, OpKind::kCollective);
}

void NullCommunicator::barrier(Stream& stream) {
  const NullCall call = with(template_, Collective::kBarrier, DType::kU8, 0, stream.tag());
  stream.launch<NullCall>(collective_name(call.op), meeting, call, std::initializer_list<device::Access>{},
                          OpKind::kCollective);
}

void NullDispatcher::meet(Stream& stream, Collective op, plan::DispatchMode mode, int64_t chunk) const {
  NullCall call = with(template_, op, dtype_, count_, stream.tag());
  call.mode = static_cast<int32_t>(mode);
  call.chunk = chunk;
  stream.launch<NullCall>(collective_name(op), meeting, call, std::initializer_list<device::Access>{},
                          OpKind::kCollective);
}

ReceivedRows NullDispatcher::dispatch(Stream& stream, plan::DispatchMode mode, int64_t chunk,
                                      const SendRows& rows) {
  // The capacity is the inner dispatcher's to tell, so its op is enqueued first; nothing comes between the
  // two.
  ReceivedRows received = inner_->dispatch(stream, mode, chunk, rows);
  count_ = received.x.numel();
  dtype_ = received.x.dtype;
  meet(stream, Collective::kDispatch, mode, chunk);
  return received;
}

void NullDispatcher::combine(Stream& stream, plan::DispatchMode mode, int64_t chunk, const SendRows& rows,
                             const TensorView& out) {
  inner_->combine(stream, mode, chunk, rows, out);
  meet(stream, Collective::kCombine, mode, chunk);
}

}  // namespace weft::comm::null
