#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/null/null_world.h"

namespace weft::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class NullWorldTest : public ::testing::Test {
 protected:
  static constexpr int kRanks = 3;

  NullWorldTest() {
    for (int rank = 0; rank < kRanks; ++rank) {
      devices_.push_back(device::make_null_device({.name = fmt::format("null:{}", rank)}));
      world_.set_device(rank, *devices_.back());
      streams_.push_back(devices_.back()->make_stream("compute"));
      buffers_.push_back(devices_.back()->allocate(1024, "buffer"));
      tp_.push_back(world_.make_communicator(rank, "tp", {0, 1, 2}, 0));
    }
    for (int rank = 0; rank < 2; ++rank) pair_.push_back(world_.make_communicator(rank, "pair", {0, 1}, 0));
  }

  TensorView view(int rank, int64_t elements) {
    return buffers_[static_cast<size_t>(rank)].view(DType::kF32, {elements});
  }
  void all_reduce(std::vector<std::unique_ptr<Communicator>>& group, int rank, int64_t elements) {
    group[static_cast<size_t>(rank)]->all_reduce(*streams_[static_cast<size_t>(rank)], view(rank, elements),
                                                 view(rank, elements));
  }
  std::string run() {
    try {
      world_.run();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  NullWorld world_{kRanks};
  std::vector<std::unique_ptr<device::NullDevice>> devices_;
  std::vector<std::unique_ptr<device::Stream>> streams_;
  std::vector<device::Buffer> buffers_;
  std::vector<std::unique_ptr<Communicator>> tp_, pair_;
};

TEST_F(NullWorldTest, CallsThatAgreeMeetInOrder) {
  for (int rank = 0; rank < kRanks; ++rank) {
    if (rank < 2) all_reduce(pair_, rank, 8);
    all_reduce(tp_, rank, 16);
    all_reduce(tp_, rank, 32);
  }
  ASSERT_EQ(world_.enqueued(0).size(), 3U);
  EXPECT_EQ(world_.enqueued(0)[0]->describe(), "all_reduce(f32, 8 elements)");
  EXPECT_EQ(world_.group_name(*world_.enqueued(0)[0]), "pair");
  EXPECT_EQ(run(), "");
  EXPECT_EQ(world_.num_meetings(), 3);
}

TEST_F(NullWorldTest, UnlikeCountsNameBothRanks) {
  for (int rank = 0; rank < kRanks; ++rank) all_reduce(tp_, rank, rank == 2 ? 16 : 8);
  EXPECT_EQ(
      run(),
      "tp (channel 0): rank 0 comes with all_reduce(f32, 8 elements), but rank 2 with all_reduce(f32, 16 "
      "elements)");
}

TEST_F(NullWorldTest, UnlikeMicroBatchesDoNotMeet) {
  for (int rank = 0; rank < kRanks; ++rank) {
    streams_[static_cast<size_t>(rank)]->set_tag(rank == 1 ? 1 : 0);
    all_reduce(tp_, rank, 8);
  }
  EXPECT_THAT(run(), HasSubstr("micro-batch 1"));
}

TEST_F(NullWorldTest, ARankThatDoesNotComeIsNamed) {
  all_reduce(tp_, 0, 8);
  all_reduce(tp_, 2, 8);
  EXPECT_EQ(run(),
            "tp (channel 0): rank 0, 2 waits for ever in all_reduce(f32, 8 elements); rank 1 does not come: "
            "compute at "
            "its end");
}

TEST_F(NullWorldTest, GroupsInUnlikeOrdersHang) {
  all_reduce(tp_, 0, 8);
  all_reduce(pair_, 0, 8);
  all_reduce(pair_, 1, 8);
  all_reduce(tp_, 1, 8);
  all_reduce(tp_, 2, 8);
  EXPECT_THAT(run(),
              AllOf(HasSubstr("tp (channel 0): rank 0, 2 waits for ever"), HasSubstr("rank 1 does not come"),
                    HasSubstr("pair (channel 0): rank 1 waits for ever"), HasSubstr("rank 0 does not come")));
}

TEST_F(NullWorldTest, TwoCallsOfOneCommunicatorAtOnceAreRefused) {
  const auto other = devices_[0]->make_stream("comm");
  all_reduce(tp_, 0, 8);
  tp_[0]->all_reduce(*other, view(0, 8), view(0, 8));
  EXPECT_THAT(run(), HasSubstr("the calls of one communicator are matched in order"));
}

}  // namespace
}  // namespace weft::comm
