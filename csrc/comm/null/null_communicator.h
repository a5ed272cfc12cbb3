#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/null/null_world.h"

namespace weft::comm::null {

/// What marks an op as a NullCall.
[[nodiscard]] void (*meeting_function())();

/// Enqueues each call as an op that says what it is, with the ranges that the call reads and writes.
class NullCommunicator final : public Communicator {
 public:
  NullCommunicator(std::string name, int32_t group, int32_t rank, int size)
      : name_(std::move(name)), size_(size), template_{.group = group, .rank = rank} {}

  [[nodiscard]] int rank() const override { return template_.rank; }
  [[nodiscard]] int size() const override { return size_; }
  [[nodiscard]] const std::string& group() const override { return name_; }
  /// Group and rank, nothing else.
  [[nodiscard]] const NullCall& call_template() const { return template_; }

  void all_reduce(Stream& stream, const TensorView& out, const TensorView& in) override;
  void reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) override;
  void reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                        std::span<const int64_t> rows) override;
  void all_gather(Stream& stream, const TensorView& out, const TensorView& in) override;
  void all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                    std::span<const int64_t> rows) override;
  void all_to_all(Stream& stream, const TensorView& out, const TensorView& in) override;
  void broadcast(Stream& stream, const TensorView& data, int root) override;
  void barrier(Stream& stream) override;
  /// Nobody follows them here: the own pointer in every place.
  [[nodiscard]] std::vector<void*> exchange_pointers(void* mine) override {
    return std::vector<void*>(static_cast<size_t>(size_), mine);
  }
  [[nodiscard]] PeerBarrier peer_barrier() override { return {.rank = template_.rank}; }

 private:
  void meet(Stream& stream, Collective op, const TensorView& larger, const TensorView& out,
            const TensorView& in, std::span<const int64_t> rows = {});
  void check_rows(Collective op, int64_t larger, int64_t smaller, std::span<const int64_t> rows) const;

  const std::string name_;
  const int size_;
  const NullCall template_;
};

/// Enqueues a call behind each of the inner dispatcher's ops.
class NullDispatcher final : public Dispatcher {
 public:
  NullDispatcher(std::unique_ptr<Dispatcher> inner, const NullCall& call_template)
      : inner_(std::move(inner)), template_(call_template) {}

  ReceivedRows dispatch(Stream& stream, plan::DispatchMode mode, int64_t chunk,
                        const SendRows& rows) override;
  void combine(Stream& stream, plan::DispatchMode mode, int64_t chunk, const SendRows& rows,
               const TensorView& out) override;
  [[nodiscard]] int64_t received_rows() const override { return inner_->received_rows(); }

 private:
  void meet(Stream& stream, Collective op, plan::DispatchMode mode, int64_t chunk) const;

  std::unique_ptr<Dispatcher> inner_;
  const NullCall template_;
  int64_t count_ = 0;  // of the last dispatch: rows of all sources * hidden
  DType dtype_{};
};

}  // namespace weft::comm::null
