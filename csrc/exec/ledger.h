#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "plan/trace.h"

namespace weft::exec {

/// What one rank enqueues in a step, in order: compared with the plan's trace.
class Ledger {
 public:
  void at(int micro_batch, int layer) {
    micro_batch_ = micro_batch;
    layer_ = layer;
  }
  void add(Collective op, plan::Group group, DType dtype, int64_t count) {
    records_.push_back({op, group, dtype, count, micro_batch_, layer_});
  }
  void clear() { records_.clear(); }
  [[nodiscard]] std::vector<plan::CollectiveRecord> take() { return std::exchange(records_, {}); }

 private:
  std::vector<plan::CollectiveRecord> records_;
  int micro_batch_ = 0;
  int layer_ = -1;
};

/// Records each call in a Ledger and passes it on; leaves out what no rank of the group needs: a group of
/// one, or a tensor without elements.
class LedgerCommunicator final : public comm::Communicator {
 public:
  using Stream = comm::Stream;
  using TensorView = comm::TensorView;

  LedgerCommunicator(std::unique_ptr<comm::Communicator> inner, plan::Group group, Ledger& ledger)
      : inner_(std::move(inner)), group_(group), ledger_(ledger) {}

  [[nodiscard]] int rank() const override { return inner_->rank(); }
  [[nodiscard]] int size() const override { return inner_->size(); }
  [[nodiscard]] const std::string& group() const override { return inner_->group(); }

  void all_reduce(Stream& stream, const TensorView& out, const TensorView& in) override {
    if (record(Collective::kAllReduce, in)) inner_->all_reduce(stream, out, in);
  }
  void reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) override {
    if (record(Collective::kReduceScatter, in)) inner_->reduce_scatter(stream, out, in);
  }
  void reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                        std::span<const int64_t> rows) override {
    if (record(Collective::kReduceScatter, in)) inner_->reduce_scatter_v(stream, out, in, rows);
  }
  void all_gather(Stream& stream, const TensorView& out, const TensorView& in) override {
    if (record(Collective::kAllGather, out)) inner_->all_gather(stream, out, in);
  }
  void all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                    std::span<const int64_t> rows) override {
    if (record(Collective::kAllGather, out)) inner_->all_gather_v(stream, out, in, rows);
  }
  void all_to_all(Stream& stream, const TensorView& out, const TensorView& in) override {
    if (record(Collective::kAllToAll, in)) inner_->all_to_all(stream, out, in);
  }
  void broadcast(Stream& stream, const TensorView& data, int root) override {
    if (record(Collective::kBroadcast, data)) inner_->broadcast(stream, data, root);
  }
  void barrier(Stream& stream) override { inner_->barrier(stream); }
  std::vector<void*> exchange_pointers(void* mine) override { return inner_->exchange_pointers(mine); }
  comm::PeerBarrier peer_barrier() override { return inner_->peer_barrier(); }

 private:
  bool record(Collective op, const TensorView& larger) {
    const int64_t count = larger.numel();
    if (inner_->size() == 1 || count == 0) return false;
    ledger_.add(op, group_, larger.dtype, count);
    return true;
  }

  std::unique_ptr<comm::Communicator> inner_;
  plan::Group group_;
  Ledger& ledger_;
};

}  // namespace weft::exec
