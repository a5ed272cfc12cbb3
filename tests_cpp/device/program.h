#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/backend.h"

namespace weft::device {

/// A pipeline over two streams in which every wait is needed: chunks go to and fro through one buffer each
/// way, as hidden states go between compute and communication.
class Pipeline {
 public:
  static constexpr int kRounds = 4;
  static constexpr int kWaits = 2 * kRounds;

  Pipeline(const TestBackend& backend, Device& device)
      : a(device.make_stream("compute")), b(device.make_stream("comm")), backend_(backend), device_(device) {}

  /// The work of one step; begins and ends on `a`. Events are new, so the order of the calls is all there is.
  void run(const TensorView& x, const TensorView& y) {
    backend_.affine(*a, x, 3, 1);
    for (int round = 0; round < kRounds; ++round) {
      hand_over(*a, *b);
      backend_.mix(*b, y, x);
      backend_.affine(*b, y, 7, round);
      hand_over(*b, *a);
      backend_.mix(*a, x, y);
    }
  }

  std::unique_ptr<Stream> a, b;

 private:
  void hand_over(Stream& from, Stream& to) {
    events_.push_back(device_.make_event());
    from.record(*events_.back());
    to.wait(*events_.back());
  }

  const TestBackend& backend_;
  Device& device_;
  std::vector<std::unique_ptr<Event>> events_;
};

}  // namespace weft::device
