// What the local communicator says when ranks disagree, stay away or give up.
#include <gmock/gmock.h>

#include "comm/ranks.h"

namespace weft::comm {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr milliseconds kDeadline{100};

/// Ranks of one group, each of which runs body and then waits for its stream.
std::vector<std::string> errors_of(LocalWorld& world, int size,
                                   const std::function<void(Rank&, Communicator&)>& body) {
  return run_ranks(size, [&](Rank& rank) {
    auto comm = world.make_communicator(rank.rank, "tp", all_ranks(size), 3);
    body(rank, *comm);
    rank.stream->wait_idle(kLong);
  });
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(LocalFailureTest, DifferentOperationsAreNamed) {
  LocalWorld world(3, kLong);
  const auto errors = errors_of(world, 3, [](Rank& rank, Communicator& comm) {
    const Buffer data = rank.make(std::vector<float>(12, 1.0F), "data");
    const Buffer out = rank.device->allocate(48, "out");
    comm.barrier(*rank.stream);
    if (rank.rank == 1) {
      comm.all_to_all(*rank.stream, out.view(DType::kF32, {12}), data.view(DType::kF32, {12}));
    } else {
      comm.all_reduce(*rank.stream, out.view(DType::kF32, {12}), data.view(DType::kF32, {12}));
    }
    rank.stream->wait_idle(kLong);
  });
  EXPECT_THAT(errors, Each(AllOf(HasSubstr("group 'tp' (channel 3)"), HasSubstr("call 2"),
                                 HasSubstr("rank 0 calls all_reduce(f32, 12 elements)"),
                                 HasSubstr("rank 1 calls all_to_all(f32, 4 elements)"))));
}

TEST(LocalFailureTest, DifferentDTypesCountsRootsAndRowsAreNamed) {
  using Body = std::function<void(Rank&, Communicator&, const Buffer&)>;
  struct Case {
    Body body;
    std::string first, second;
  };
  const std::vector<Case> cases{
      {[](Rank& rank, Communicator& comm, const Buffer& data) {
         const TensorView view = data.view(rank.rank == 0 ? DType::kF32 : DType::kI32, {8});
         comm.all_reduce(*rank.stream, view, view);
       },
       "rank 0 calls all_reduce(f32, 8 elements)", "rank 1 calls all_reduce(i32, 8 elements)"},
      {[](Rank& rank, Communicator& comm, const Buffer& data) {
         const TensorView view = data.view(DType::kF32, {8 - rank.rank});
         comm.all_reduce(*rank.stream, view, view);
       },
       "8 elements", "7 elements"},
      {[](Rank& rank, Communicator& comm, const Buffer& data) {
         comm.broadcast(*rank.stream, data.view(DType::kF32, {8}), rank.rank);
       },
       "root 0", "root 1"},
      {[](Rank& rank, Communicator& comm, const Buffer& data) {
         const std::vector<int64_t> rows =
             rank.rank == 0 ? std::vector<int64_t>{2, 2} : std::vector<int64_t>{1, 3};
         const TensorView out = data.view(DType::kF32, {4});
         comm.all_gather_v(*rank.stream, out, data.view(DType::kF32, {rows[rank.rank]}, 32), rows);
       },
       "rows [2, 2]", "rows [1, 3]"},
  };
  for (const Case& test : cases) {
    LocalWorld world(2, kLong);
    const auto errors = errors_of(world, 2, [&](Rank& rank, Communicator& comm) {
      const Buffer data = rank.make(std::vector<float>(16, 1.0F), "data");
      test.body(rank, comm, data);
      rank.stream->wait_idle(kLong);
    });
    EXPECT_THAT(errors, Each(AllOf(HasSubstr(test.first), HasSubstr(test.second))));
  }
}

TEST(LocalFailureTest, ARankThatStaysAwayIsNamedToAllOthers) {
  LocalWorld world(4, kDeadline);
  const auto errors = run_ranks(4, [&](Rank& rank) {
    auto comm = world.make_communicator(rank.rank, "attn_tp", {0, 1, 2, 3}, 0);
    comm->barrier(*rank.stream);
    if (rank.rank == 2) return rank.stream->wait_idle(kLong);
    comm->barrier(*rank.stream);
    rank.stream->wait_idle(kLong);
  });
  EXPECT_EQ(errors[2], "");
  for (const int r : {0, 1, 3}) {
    EXPECT_THAT(errors[r], AllOf(HasSubstr("comm op 'barrier'"), HasSubstr("group 'attn_tp'"),
                                 HasSubstr("rank 2 (last call: barrier, call 1) did not come"),
                                 HasSubstr("call 2"), HasSubstr("100 ms")));
  }
}

TEST(LocalFailureTest, RanksAreNamedAsInTheWorld) {
  LocalWorld world(4, kDeadline);
  const auto errors = run_ranks(4, [&](Rank& rank) {
    if (rank.rank != 1) return;
    auto comm = world.make_communicator(1, "dp", {1, 3}, 0);
    comm->barrier(*rank.stream);
    rank.stream->wait_idle(kLong);
  });
  EXPECT_THAT(errors[1], HasSubstr("rank 3 (no call yet) did not come"));
}

TEST(LocalFailureTest, ABrokenGroupStaysBroken) {
  LocalWorld world(2, kDeadline);
  Rank rank = make_rank(0);
  auto comm = world.make_communicator(0, "tp", {0, 1}, 0);
  const std::string first = error_of([&] { (void)comm->exchange_pointers(nullptr); });
  EXPECT_THAT(first, AllOf(HasSubstr("exchange_pointers"), HasSubstr("rank 1"), HasSubstr("100 ms")));
  EXPECT_EQ(error_of([&] { (void)comm->exchange_pointers(nullptr); }), first);
}

TEST(LocalFailureTest, AnAbortFreesWaitersOfEveryGroupAndQuotesTheReason) {
  LocalWorld world(4, kLong);
  std::thread aborter([&] {
    std::this_thread::sleep_for(milliseconds(50));
    world.abort("rank 3 threw in op 'gemm'");
    world.abort("a second reason");
  });
  const auto errors = run_ranks(4, [&](Rank& rank) {
    if (rank.rank == 3) return;
    auto comm = world.make_communicator(rank.rank, "tp", all_ranks(4), 0);
    if (rank.rank == 2) {
      (void)comm->exchange_pointers(nullptr);
    } else {
      comm->barrier(*rank.stream);
      rank.stream->wait_idle(kLong);
    }
  });
  aborter.join();
  EXPECT_TRUE(world.aborted());
  EXPECT_THAT(errors[0], AllOf(HasSubstr("barrier, call 1"), HasSubstr("rank 3"), HasSubstr("op 'gemm'")));
  EXPECT_THAT(errors[1], AllOf(HasSubstr("rank 3"), HasSubstr("op 'gemm'")));
  EXPECT_THAT(errors[2], AllOf(HasSubstr("exchange_pointers"), HasSubstr("op 'gemm'")));
  Rank late = make_rank(0);
  auto comm = world.make_communicator(0, "late", {0, 1}, 0);
  comm->barrier(*late.stream);
  EXPECT_THAT(error_of([&] { late.stream->wait_idle(kLong); }), HasSubstr("op 'gemm'"));
}

TEST(LocalFailureTest, WhatCannotBeSentIsRefusedBeforeItIsEnqueued) {
  LocalWorld world(2, kDeadline);
  Rank rank = make_rank(0);
  auto comm = world.make_communicator(0, "tp", {0, 1}, 0);
  const Buffer data = rank.make(std::vector<float>(64, 0.0F), "data");
  auto& stream = *rank.stream;
  const TensorView f32 = data.view(DType::kF32, {8, 4});
  const TensorView other = data.view(DType::kF32, {8, 4}, 128);
  const auto expect = [&](const std::function<void()>& body, const std::string& text) {
    EXPECT_THAT(error_of(body), HasSubstr(text));
  };
  expect([&] { comm->all_reduce(stream, other, f32.rows(0, 4)); }, "differ in shape");
  expect([&] { comm->all_reduce(stream, data.view(DType::kI32, {8, 4}), f32); }, "dtypes must be equal");
  expect([&] { comm->all_reduce(stream, f32.columns(0, 2), f32.columns(0, 2)); }, "contiguous");
  expect([&] { comm->all_reduce(stream, f32.rows(1, 4), f32.rows(0, 4)); }, "overlap");
  const TensorView f8 = data.view(DType::kF8E4M3, {8});
  expect([&] { comm->all_reduce(stream, f8, f8); }, "f8_e4m3 has no sum");
  expect([&] { comm->reduce_scatter(stream, other.rows(0, 3), f32.rows(0, 7)); }, "over 2 ranks");
  expect([&] { comm->reduce_scatter(stream, f32.rows(4, 4), f32); }, "rank's slice");
  expect([&] { comm->all_gather(stream, f32, f32.rows(4, 4)); }, "rank's slice");
  expect([&] { comm->all_gather(stream, f32, other); }, "does not fill");
  expect([&] { comm->all_to_all(stream, f32, f32); }, "must be apart");
  expect([&] { comm->all_to_all(stream, other.rows(0, 7), f32.rows(0, 7)); }, "multiple of 2");
  expect([&] { comm->broadcast(stream, f32, 2); }, "root 2");
  const std::vector<int64_t> rows{3, 5};
  expect([&] { comm->all_gather_v(stream, f32, other.rows(0, 4), rows); }, "rows [3, 5]");
  expect([&] { comm->all_gather_v(stream, f32, other.rows(0, 3), std::vector<int64_t>{3}); }, "1 entries");
  expect(
      [&] {
        comm->reduce_scatter_v(stream, other.rows(0, 3), f32, std::vector<int64_t>{3, -5});
      },
      "negative");
  stream.wait_idle(kLong);  // nothing was enqueued, so nothing waits for rank 1
}

TEST(LocalFailureTest, GroupsMustMakeSense) {
  LocalWorld world(4, kLong);
  const auto expect = [&](int rank, const std::vector<int>& ranks, const std::string& text) {
    EXPECT_THAT(error_of([&] { (void)world.make_communicator(rank, "tp", ranks, 0); }), HasSubstr(text));
  };
  expect(0, {}, "0 ranks");
  expect(0, {1, 0}, "ascend");
  expect(0, {0, 0}, "ascend");
  expect(0, {0, 4}, "world of 4");
  expect(2, {0, 1}, "rank 2 is not in");
  auto held = world.make_communicator(0, "tp", {0, 1}, 0);
  expect(0, {0, 1}, "already");
  EXPECT_THAT(error_of([] { LocalWorld empty(0, kLong); }), HasSubstr("world_size"));
  EXPECT_THAT(error_of([] { LocalWorld hasty(1, milliseconds(0)); }), HasSubstr("deadline"));
}

TEST(LocalFailureTest, AGroupThatAllHaveLeftMayBeMadeAgain) {
  LocalWorld world(2, kLong);
  for (int round = 0; round < 3; ++round) {
    run_ranks_ok(2, [&](Rank& rank) {
      auto comm = world.make_communicator(rank.rank, "tp", {0, 1}, 0);
      (void)comm->exchange_pointers(nullptr);
      comm->barrier(*rank.stream);
      rank.stream->wait_idle(kLong);
    });
  }
}

}  // namespace
}  // namespace weft::comm
