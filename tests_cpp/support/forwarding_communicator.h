#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace weft::test {

/// Passes every call on: what tests derive from to make some calls go wrong.
class ForwardingCommunicator : public comm::Communicator {
 public:
  using Stream = comm::Stream;
  using TensorView = comm::TensorView;

  explicit ForwardingCommunicator(std::unique_ptr<comm::Communicator> inner) : inner_(std::move(inner)) {}

  [[nodiscard]] int rank() const override { return inner_->rank(); }
  [[nodiscard]] int size() const override { return inner_->size(); }
  [[nodiscard]] const std::string& group() const override { return inner_->group(); }
  void all_reduce(Stream& stream, const TensorView& out, const TensorView& in) override {
    inner_->all_reduce(stream, out, in);
  }
  void reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) override {
    inner_->reduce_scatter(stream, out, in);
  }
  void reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                        std::span<const int64_t> rows) override {
    inner_->reduce_scatter_v(stream, out, in, rows);
  }
  void all_gather(Stream& stream, const TensorView& out, const TensorView& in) override {
    inner_->all_gather(stream, out, in);
  }
  void all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                    std::span<const int64_t> rows) override {
    inner_->all_gather_v(stream, out, in, rows);
  }
  void all_to_all(Stream& stream, const TensorView& out, const TensorView& in) override {
    inner_->all_to_all(stream, out, in);
  }
  void broadcast(Stream& stream, const TensorView& data, int root) override {
    inner_->broadcast(stream, data, root);
  }
  void barrier(Stream& stream) override { inner_->barrier(stream); }
  [[nodiscard]] std::vector<void*> exchange_pointers(void* mine) override {
    return inner_->exchange_pointers(mine);
  }
  [[nodiscard]] comm::PeerBarrier peer_barrier() override { return inner_->peer_barrier(); }

 protected:
  std::unique_ptr<comm::Communicator> inner_;
};

}  // namespace weft::test
