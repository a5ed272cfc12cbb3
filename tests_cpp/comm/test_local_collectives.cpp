// Every collective of the local communicator against a reference, over sizes, dtypes and groups.
#include <random>

#include "comm/ranks.h"

namespace weft::comm {
namespace {

constexpr int64_t kColumns = 3;

/// How a value of a dtype is stored, and small integers as floats: sums of them are exact in f32.
template <class T>
T store(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(x);
  } else if constexpr (std::is_same_v<T, f16>) {
    return to_f16(x);
  } else {
    return static_cast<T>(x);
  }
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType kValue = DType::kF32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType kValue = DType::kBF16;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType kValue = DType::kF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType kValue = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType kValue = DType::kI64;
};

/// The value at `index` of rank `rank`'s input: differs from its neighbours and from other ranks'.
float value_at(int rank, int64_t index) { return static_cast<float>((index * 7 + rank * 31) % 97 - 40); }

template <class T>
std::vector<T> input(int rank, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[i] = store<T>(value_at(rank, i));
  return values;
}

template <class T>
std::vector<T> sum_of_inputs(int size, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    float total = 0;
    for (int r = 0; r < size; ++r) total += value_at(r, i);
    values[i] = store<T>(total);
  }
  return values;
}

template <class T>
void expect_same(const std::vector<T>& actual, const std::vector<T>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(T)), 0) << what << ": differs at " << i;
  }
}

template <class T>
std::vector<T> part(const std::vector<T>& values, int64_t begin, int64_t count) {
  return {values.begin() + begin, values.begin() + begin + count};
}

template <class T>
class LocalCollectives : public ::testing::Test {
 protected:
  static constexpr DType kDType = DTypeOf<T>::kValue;

  /// Runs body(rank, communicator) on worlds of 1 to 4 ranks.
  static void on_worlds(const std::function<void(Rank&, Communicator&)>& body) {
    for (int size = 1; size <= 4; ++size) {
      LocalWorld world(size, kLong);
      run_ranks_ok(size, [&](Rank& rank) {
        auto comm = world.make_communicator(rank.rank, "tp", all_ranks(size), 0);
        EXPECT_EQ(comm->size(), size);
        EXPECT_EQ(comm->rank(), rank.rank);
        EXPECT_EQ(comm->group(), "tp");
        body(rank, *comm);
        rank.stream->wait_idle(kLong);
      });
    }
  }
};

using DTypes = ::testing::Types<float, bf16, f16, int32_t, int64_t>;
class DTypeNames {
 public:
  template <class T>
  static std::string GetName(int) {
    return std::string(dtype_name(DTypeOf<T>::kValue));
  }
};
TYPED_TEST_SUITE(LocalCollectives, DTypes, DTypeNames);

TYPED_TEST(LocalCollectives, AllReduceSumsAnyNumberOfElements) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    for (const int64_t count : {0, 1, 2, 3, 5, 64, 1001, 20011}) {  // small and large paths, odd tails
      const Buffer in = rank.make(input<T>(rank.rank, count), "in");
      const Buffer out = rank.device->allocate(in.num_bytes(), "out");
      comm.all_reduce(*rank.stream, out.view(DTypeOf<T>::kValue, {count}),
                      in.view(DTypeOf<T>::kValue, {count}));
      expect_same(rank.values<T>(out), sum_of_inputs<T>(comm.size(), count),
                  fmt::format("{} elements", count));
      expect_same(rank.values<T>(in), input<T>(rank.rank, count), "in changed");
    }
  });
}

TYPED_TEST(LocalCollectives, AllReduceWorksInPlace) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    for (const int64_t count : {1, 100, 30001}) {
      const Buffer data = rank.make(input<T>(rank.rank, count), "data");
      const TensorView view = data.view(DTypeOf<T>::kValue, {count});
      comm.all_reduce(*rank.stream, view, view);
      expect_same(rank.values<T>(data), sum_of_inputs<T>(comm.size(), count),
                  fmt::format("{} elements", count));
    }
  });
}

TYPED_TEST(LocalCollectives, ReduceScatterLeavesEachRankItsSlice) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    for (const int64_t rows : {0, 1, 5, 700}) {
      const int64_t all = rows * comm.size();
      const Buffer in = rank.make(input<T>(rank.rank, all * kColumns), "in");
      const Buffer out = rank.device->allocate(static_cast<size_t>(rows * kColumns) * sizeof(T), "out");
      const TensorView in_view = in.view(DTypeOf<T>::kValue, {all, kColumns});
      const auto sum = sum_of_inputs<T>(comm.size(), all * kColumns);
      const auto mine = part(sum, rank.rank * rows * kColumns, rows * kColumns);
      comm.reduce_scatter(*rank.stream, out.view(DTypeOf<T>::kValue, {rows, kColumns}), in_view);
      expect_same(rank.values<T>(out), mine, fmt::format("{} rows", rows));

      comm.reduce_scatter(*rank.stream, in_view.rows(rank.rank * rows, rows), in_view);  // into its own slice
      expect_same(part(rank.values<T>(in), rank.rank * rows * kColumns, rows * kColumns), mine, "in place");
    }
  });
}

TYPED_TEST(LocalCollectives, AllGatherPutsRanksInOrder) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    for (const int64_t rows : {0, 1, 5, 700}) {
      const int64_t all = rows * comm.size();
      const Buffer in = rank.make(input<T>(rank.rank, rows * kColumns), "in");
      const Buffer out = rank.device->allocate(static_cast<size_t>(all * kColumns) * sizeof(T), "out");
      const TensorView out_view = out.view(DTypeOf<T>::kValue, {all, kColumns});
      std::vector<T> expected;
      for (int r = 0; r < comm.size(); ++r) {
        const auto theirs = input<T>(r, rows * kColumns);
        expected.insert(expected.end(), theirs.begin(), theirs.end());
      }
      comm.all_gather(*rank.stream, out_view, in.view(DTypeOf<T>::kValue, {rows, kColumns}));
      expect_same(rank.values<T>(out), expected, fmt::format("{} rows", rows));

      rank.stream->fill(out.data(), 0, out.num_bytes());
      const TensorView own = out_view.rows(rank.rank * rows, rows);
      rank.stream->copy(own.data, in.data(), in.num_bytes());
      comm.all_gather(*rank.stream, out_view, own);  // from its own slice
      expect_same(rank.values<T>(out), expected, "in place");
    }
  });
}

TYPED_TEST(LocalCollectives, UnequalCountsGatherAndScatterBack) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    std::mt19937 random(7);
    for (int trial = 0; trial < 8; ++trial) {
      std::vector<int64_t> rows;
      for (int r = 0; r < comm.size(); ++r) rows.push_back(random() % 3 == 0 ? 0 : random() % 50);
      const int64_t all = std::accumulate(rows.begin(), rows.end(), int64_t{0});
      const int64_t before = std::accumulate(rows.begin(), rows.begin() + rank.rank, int64_t{0});
      const int64_t mine = rows[rank.rank];
      const std::string what = fmt::format("rows [{}]", fmt::join(rows, ", "));

      const Buffer in = rank.make(input<T>(rank.rank, mine * kColumns), "in");
      const Buffer out = rank.device->allocate(static_cast<size_t>(all * kColumns) * sizeof(T), "out");
      comm.all_gather_v(*rank.stream, out.view(DTypeOf<T>::kValue, {all, kColumns}),
                        in.view(DTypeOf<T>::kValue, {mine, kColumns}), rows);
      std::vector<T> expected;
      for (int r = 0; r < comm.size(); ++r) {
        const auto theirs = input<T>(r, rows[r] * kColumns);
        expected.insert(expected.end(), theirs.begin(), theirs.end());
      }
      expect_same(rank.values<T>(out), expected, what);

      const Buffer whole = rank.make(input<T>(rank.rank, all * kColumns), "whole");
      const Buffer slice = rank.device->allocate(static_cast<size_t>(mine * kColumns) * sizeof(T), "slice");
      comm.reduce_scatter_v(*rank.stream, slice.view(DTypeOf<T>::kValue, {mine, kColumns}),
                            whole.view(DTypeOf<T>::kValue, {all, kColumns}), rows);
      const auto sum = sum_of_inputs<T>(comm.size(), all * kColumns);
      expect_same(rank.values<T>(slice), part(sum, before * kColumns, mine * kColumns), what);
    }
  });
}

TYPED_TEST(LocalCollectives, AllToAllTransposesSlices) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    for (const int64_t rows : {0, 1, 9}) {  // of one slice
      const int64_t all = rows * comm.size();
      const Buffer in = rank.make(input<T>(rank.rank, all * kColumns), "in");
      const Buffer out = rank.device->allocate(in.num_bytes(), "out");
      comm.all_to_all(*rank.stream, out.view(DTypeOf<T>::kValue, {all, kColumns}),
                      in.view(DTypeOf<T>::kValue, {all, kColumns}));
      std::vector<T> expected;
      for (int r = 0; r < comm.size(); ++r) {
        const auto slice = part(input<T>(r, all * kColumns), rank.rank * rows * kColumns, rows * kColumns);
        expected.insert(expected.end(), slice.begin(), slice.end());
      }
      expect_same(rank.values<T>(out), expected, fmt::format("{} rows", rows));
    }
  });
}

TYPED_TEST(LocalCollectives, BroadcastFromEveryRoot) {
  using T = TypeParam;
  this->on_worlds([](Rank& rank, Communicator& comm) {
    for (int root = 0; root < comm.size(); ++root) {
      const Buffer data = rank.make(input<T>(rank.rank, 333), "data");
      comm.broadcast(*rank.stream, data.view(DTypeOf<T>::kValue, {333}), root);
      expect_same(rank.values<T>(data), input<T>(root, 333), fmt::format("root {}", root));
    }
  });
}

TEST(LocalCommunicatorTest, FloatSumsRunInRankOrderAndAreRoundedOnce) {
  constexpr int kSize = 4;
  constexpr int64_t kCount = 9000;  // the large path; its first elements also go through the small one
  const auto value = [](int rank, int64_t i) {
    std::mt19937 random(static_cast<uint32_t>(rank * 100000 + i));
    return static_cast<float>(random()) * (rank % 2 == 0 ? 1e-3F : -1e-5F);
  };
  std::vector<float> expected;
  for (int64_t i = 0; i < kCount; ++i) {
    float total = value(0, i);
    for (int r = 1; r < kSize; ++r) total += value(r, i);
    expected.push_back(total);
  }
  LocalWorld world(kSize, kLong);
  run_ranks_ok(kSize, [&](Rank& rank) {
    auto comm = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 0);
    std::vector<float> mine;
    for (int64_t i = 0; i < kCount; ++i) mine.push_back(value(rank.rank, i));
    for (const int64_t count : {kCount, int64_t{100}}) {
      const Buffer data = rank.make(mine, "data");
      const TensorView view = data.view(DType::kF32, {kCount}).rows(0, count);
      comm->all_reduce(*rank.stream, view, view);
      expect_same(part(rank.values<float>(data), 0, count), part(expected, 0, count), "sum");
    }
  });
}

TEST(LocalCommunicatorTest, SumsInBf16AreAccumulatedInF32) {
  // 256 + 1 is 256 in bf16, so four ranks that round after every step would leave 256.
  constexpr int kSize = 3;
  LocalWorld world(kSize, kLong);
  run_ranks_ok(kSize, [&](Rank& rank) {
    auto comm = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 0);
    const Buffer data = rank.make(std::vector<bf16>{to_bf16(rank.rank == 0 ? 256.0F : 1.0F)}, "data");
    const TensorView view = data.view(DType::kBF16, {1});
    comm->all_reduce(*rank.stream, view, view);
    EXPECT_EQ(to_f32(rank.values<bf16>(data)[0]), 258.0F);
  });
}

TEST(LocalCommunicatorTest, GroupsOfAWorldWorkAtTheSameTime) {
  // A 2 x 2 grid: every rank sums over its row, then over its column, then over the world.
  constexpr int kSize = 4;
  LocalWorld world(kSize, kLong);
  run_ranks_ok(kSize, [&](Rank& rank) {
    const int row = rank.rank / 2;
    const int column = rank.rank % 2;
    auto rows = world.make_communicator(rank.rank, "attn_tp", {row * 2, row * 2 + 1}, 0);
    auto columns = world.make_communicator(rank.rank, "dp", {column, column + 2}, 0);
    auto all = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 0);
    EXPECT_EQ(rows->rank(), column);
    EXPECT_EQ(columns->rank(), row);
    const Buffer data = rank.make(std::vector<int32_t>{1 << rank.rank}, "data");
    const Buffer sums = rank.device->allocate(3 * sizeof(int32_t), "sums");
    const TensorView in = data.view(DType::kI32, {1});
    for (int i = 0; i < 200; ++i) {
      rows->all_reduce(*rank.stream, sums.view(DType::kI32, {1}, 0), in);
      columns->all_reduce(*rank.stream, sums.view(DType::kI32, {1}, 4), in);
      all->all_reduce(*rank.stream, sums.view(DType::kI32, {1}, 8), in);
    }
    const std::vector<int32_t> expected{row == 0 ? 3 : 12, column == 0 ? 5 : 10, 15};
    EXPECT_EQ(rank.values<int32_t>(sums), expected);
  });
}

TEST(LocalCommunicatorTest, ChannelsAreIndependent) {
  // Two streams of each rank; odd ranks enqueue the channels in the other order.
  constexpr int kSize = 4;
  LocalWorld world(kSize, kLong);
  run_ranks_ok(kSize, [&](Rank& rank) {
    auto second = rank.device->make_stream("second");
    auto comm0 = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 0);
    auto comm1 = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 1);
    const Buffer a = rank.make(std::vector<int64_t>{1}, "a");
    const Buffer b = rank.make(std::vector<int64_t>{rank.rank}, "b");
    const TensorView view_a = a.view(DType::kI64, {1});
    const TensorView view_b = b.view(DType::kI64, {1});
    constexpr int kRounds = 20;
    if (rank.rank % 2 == 0) {
      for (int i = 0; i < kRounds; ++i) comm0->all_reduce(*rank.stream, view_a, view_a);
      for (int i = 0; i < kRounds; ++i) comm1->all_reduce(*second, view_b, view_b);
    } else {
      for (int i = 0; i < kRounds; ++i) comm1->all_reduce(*second, view_b, view_b);
      for (int i = 0; i < kRounds; ++i) comm0->all_reduce(*rank.stream, view_a, view_a);
    }
    second->wait_idle(kLong);
    EXPECT_EQ(rank.values<int64_t>(a)[0], int64_t{1} << (2 * kRounds));
    EXPECT_EQ(rank.values<int64_t>(b)[0], int64_t{6} << (2 * (kRounds - 1)));
  });
}

struct CountArgs {
  PeerBarrier barrier;
  int32_t* const* peers;  // by rank
  int32_t size;
};

TEST(LocalCommunicatorTest, PeersReachEachOthersMemoryBetweenTwoBarriers) {
  constexpr int kSize = 3;
  LocalWorld world(kSize, kLong);
  run_ranks_ok(kSize, [&](Rank& rank) {
    auto comm = world.make_communicator(rank.rank, "ep", all_ranks(kSize), 0);
    const Buffer inbox = rank.make(std::vector<int32_t>(kSize, 0), "inbox");
    const auto pointers = comm->exchange_pointers(inbox.data());
    ASSERT_EQ(pointers.size(), static_cast<size_t>(kSize));
    EXPECT_EQ(pointers[rank.rank], inbox.data());
    const Buffer table = rank.make(pointers, "peers");
    const CountArgs args{comm->peer_barrier(), static_cast<int32_t* const*>(table.data()), kSize};
    for (int round = 0; round < 100; ++round) {
      rank.stream->launch<CountArgs>(
          "dispatch",
          [](const CountArgs& a, device::ExecContext&) {
            a.barrier.wait(a.barrier.state, a.barrier.rank, "dispatch", 4 * a.barrier.rank);
            for (int r = 0; r < a.size; ++r) a.peers[r][a.barrier.rank] += r + 1;
            a.barrier.wait(a.barrier.state, a.barrier.rank, "dispatch", 4 * a.barrier.rank);
          },
          args, {device::read(table.data(), table.num_bytes())}, device::OpKind::kCollective);
      comm->barrier(*rank.stream);  // matched in order with the barriers of the ops
    }
    EXPECT_EQ(rank.values<int32_t>(inbox), std::vector<int32_t>(kSize, 100 * (rank.rank + 1)));
    (void)comm->exchange_pointers(nullptr);  // nobody leaves while others may still write
  });
}

class LocalGraphTest : public ::testing::TestWithParam<uint64_t> {};  // the seed of random orders, 0: none

TEST_P(LocalGraphTest, CollectivesReplayInsideGraphsAndMixWithEagerOnes) {
  constexpr int kSize = 4;
  constexpr int64_t kCount = 6000;
  LocalWorld world(kSize, kLong);
  run_ranks_ok(
      kSize,
      [&](Rank& rank) {
        auto side = rank.device->make_stream("side");
        auto comm0 = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 0);
        auto comm1 = world.make_communicator(rank.rank, "tp", all_ranks(kSize), 1);
        const Buffer x = rank.make(input<int32_t>(rank.rank, kCount), "x");
        const Buffer y = rank.make(input<int32_t>(rank.rank, kCount * kSize), "y");
        const Buffer z = rank.make(input<int32_t>(rank.rank, kCount), "z");
        const TensorView vx = x.view(DType::kI32, {kCount});
        const TensorView vy = y.view(DType::kI32, {kCount * kSize});
        const TensorView vz = z.view(DType::kI32, {kCount});
        auto fork = rank.device->make_event();
        auto join = rank.device->make_event();
        const auto step = [&] {
          comm0->all_reduce(*rank.stream, vx, vx);
          rank.stream->record(*fork);
          side->wait(*fork);
          comm1->all_gather(*side, vy, vx);
          comm1->reduce_scatter(*side, vz, vy);
          side->record(*join);
          comm0->barrier(*rank.stream);
          rank.stream->wait(*join);
          comm0->all_reduce(*rank.stream, vz, vz);
        };
        rank.stream->begin_capture();
        step();
        auto graph = rank.stream->end_capture();
        EXPECT_EQ(graph->num_ops(), 5U);

        for (int i = 0; i < 3; ++i) step();
        for (int i = 0; i < 3; ++i) rank.stream->replay(*graph);
        step();
        const auto by_graph = rank.values<int32_t>(z);

        std::memcpy(x.data(), input<int32_t>(rank.rank, kCount).data(), x.num_bytes());
        for (int i = 0; i < 7; ++i) step();
        expect_same(rank.values<int32_t>(z), by_graph, "graph and eager");
      },
      GetParam());
}

INSTANTIATE_TEST_SUITE_P(Orders, LocalGraphTest, ::testing::Values(0, 1, 2, 3),
                         [](const auto& param) { return fmt::format("Seed{}", param.param); });

}  // namespace
}  // namespace weft::comm
