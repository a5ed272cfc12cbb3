#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/local/rendezvous.h"

namespace weft::comm::local {

constexpr int kMaxGroupSize = 64;

/// What the ranks of one group share on one channel. Ops and graphs hold a plain pointer to it, so the world
/// keeps it for as long as it lives itself.
struct Group {
  Group(const std::string& group_name, const std::vector<int>& ranks, int channel,
        std::chrono::milliseconds deadline, const AbortFlag& abort);

  const std::string name;
  Rendezvous ops;   // entered by running ops
  Rendezvous host;  // entered by host calls
};

class LocalCommunicator final : public Communicator {
 public:
  /// rank: index in the group. on_close: runs when the communicator is destroyed.
  LocalCommunicator(Group& group, int rank, std::function<void()> on_close);
  ~LocalCommunicator() override;

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return group_.ops.size(); }
  [[nodiscard]] const std::string& group() const override { return group_.name; }

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

  [[nodiscard]] std::vector<void*> exchange_pointers(void* mine) override;
  [[nodiscard]] PeerBarrier peer_barrier() override;

 private:
  Group& group_;
  const int rank_;
  const std::function<void()> on_close_;
};

}  // namespace weft::comm::local
