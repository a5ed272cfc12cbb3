#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/rope_write.h"
#include "support/stream_ops.h"

namespace weft::ops {
namespace {

using test::available_isas;
using test::bit_equal;
using test::HostTensor;
using test::InlineContext;
using test::near;
using test::StreamOps;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// cos and sin of position * 10000^(-2i / rope_dim).
HostTensor make_table(int64_t positions, int64_t rope_dim) {
  HostTensor table(DType::kF32, {positions, rope_dim});
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < rope_dim / 2; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim);
      const double angle = static_cast<double>(p) * std::pow(10000.0, exponent);
      table.set({p, i}, std::cos(angle));
      table.set({p, rope_dim / 2 + i}, std::sin(angle));
    }
  }
  return table;
}

/// x rotated for the token's position, if it has one.
std::vector<double> rotated(const HostTensor& x, const std::vector<double>& positions,
                            const HostTensor& table, bool interleaved) {
  const int64_t dim = x.shape(2);
  const int64_t half = dim / 2;
  std::vector<double> out(static_cast<size_t>(x.numel()));
  for (int64_t t = 0; t < x.shape(0); ++t) {
    const auto position = static_cast<int64_t>(positions[static_cast<size_t>(t)]);
    for (int64_t h = 0; h < x.shape(1); ++h) {
      const int64_t row = (t * x.shape(1) + h) * dim;
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = row + (interleaved ? 2 * i : i);
        const int64_t second = row + (interleaved ? 2 * i + 1 : half + i);
        const double cos = position < 0 ? 1.0 : table.at({position, i});
        const double sin = position < 0 ? 0.0 : table.at({position, half + i});
        out[static_cast<size_t>(first)] = x.get(first) * cos - x.get(second) * sin;
        out[static_cast<size_t>(second)] = x.get(second) * cos + x.get(first) * sin;
      }
    }
  }
  return out;
}

/// As rms_norm leaves it; x itself if there is no weight.
HostTensor normed(const HostTensor& x, const TensorView& weight, float eps) {
  HostTensor out(x);
  InlineContext context;
  if (weight.defined()) {
    cpu::rms_norm({.out = out.view(), .x = x.view(), .weight = weight, .eps = eps}, context);
  }
  return out;
}

/// What a cache holds after rows went to their slots: NaN where nothing was written.
std::vector<double> in_slots(const std::vector<double>& rows, const std::vector<double>& slots,
                             int64_t num_slots) {
  const size_t width = rows.size() / slots.size();
  std::vector<double> cache(static_cast<size_t>(num_slots) * width, std::nan(""));
  for (size_t t = 0; t < slots.size(); ++t) {
    if (slots[t] < 0) continue;
    std::copy_n(rows.begin() + static_cast<int64_t>(t * width), width,
                cache.begin() + static_cast<int64_t>(slots[t]) * static_cast<int64_t>(width));
  }
  return cache;
}

const std::vector<double> kPositions = {0, 31, -1, 7, 12};
const std::vector<double> kSlots = {5, 0, 2, -1, 3};
constexpr int64_t kNumSlots = 7;

HostTensor positions_tensor() { return HostTensor(DType::kI32, {5}).fill_from(kPositions); }
HostTensor slots_tensor() { return HostTensor(DType::kI32, {5}).fill_from(kSlots); }

/// Runs body(dtype, dim, interleaved) on every instruction set.
template <class Body>
void for_each_case(const Body& body) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int64_t dim : {2, 6, 32, 34, 64}) {
        for (const bool interleaved : {false, true}) {
          SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " " + std::string(dtype_name(dtype)) +
                       " dim=" + std::to_string(dim) + (interleaved ? " interleaved" : ""));
          body(dtype, dim, interleaved);
        }
      }
    }
  }
}

TEST(RopeWriteTest, HeadsAreNormedRotatedAndWritten) {
  for_each_case([](DType dtype, int64_t dim, bool interleaved) {
    for (const bool with_norm : {false, true}) {
      const HostTensor table = make_table(32, dim);
      const auto weight = HostTensor(dtype, {dim}).fill_normal(1);
      auto q = HostTensor(dtype, {5, 3, dim}, {7 * dim + 1, dim, 1}).fill_normal(2);
      const auto k = HostTensor(dtype, {5, 2, dim}, {7 * dim + 1, dim, 1}).fill_normal(3);
      const auto v = HostTensor(dtype, {5, 2, dim}).fill_normal(4);
      HostTensor k_cache(dtype, {kNumSlots, 2, dim});
      HostTensor v_cache(dtype, {kNumSlots, 2, dim}, {2 * dim + 3, dim, 1});
      const TensorView norm = with_norm ? weight.view() : TensorView{};
      const auto expected_q = rotated(normed(q, norm, 1e-5F), kPositions, table, interleaved);
      const auto expected_k = rotated(normed(k, norm, 1e-5F), kPositions, table, interleaved);
      const HostTensor k_before(k);
      const HostTensor positions = positions_tensor();
      const HostTensor slots = slots_tensor();
      InlineContext context(2);
      cpu::qk_norm_rope_write({.q = q.view(),
                               .k = k.view(),
                               .v = v.view(),
                               .q_norm = norm,
                               .k_norm = norm,
                               .k_cache = k_cache.view(),
                               .v_cache = v_cache.view(),
                               .positions = positions.view(),
                               .slots = slots.view(),
                               .cos_sin = table.view(),
                               .eps = 1e-5F,
                               .interleaved = interleaved},
                              context);
      const double bound = test::unit_roundoff(dtype);
      std::vector<double> values;
      for (int64_t i = 0; i < v.numel(); ++i) values.push_back(v.get(i));
      EXPECT_TRUE(near(q, expected_q, bound, 1e-6));
      EXPECT_TRUE(near(k_cache, in_slots(expected_k, kSlots, kNumSlots), bound, 1e-6));
      EXPECT_TRUE(near(v_cache, in_slots(values, kSlots, kNumSlots), 0.0, 0.0));
      EXPECT_TRUE(bit_equal(k, k_before));
    }
  });
}

TEST(RopeWriteTest, LatentsAreNormedAndTheSharedKeyIsRotated) {
  for_each_case([](DType dtype, int64_t dim, bool interleaved) {
    constexpr int64_t kRank = 19;
    const HostTensor table = make_table(32, dim);
    const auto weight = HostTensor(dtype, {kRank}).fill_normal(1);
    // The rope columns behind the others of each head.
    auto q = HostTensor(dtype, {5, 3, dim}, {3 * (dim + 5), dim + 5, 1}).fill_normal(2);
    const auto latents = HostTensor(dtype, {5, kRank + dim}, {kRank + dim + 2, 1}).fill_normal(3);
    HostTensor cache(dtype, {kNumSlots, kRank + dim});
    const auto expected_q = rotated(q, kPositions, table, interleaved);
    HostTensor compressed(dtype, {5, kRank});
    HostTensor key(dtype, {5, 1, dim});
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t c = 0; c < kRank; ++c) compressed.set({t, c}, latents.at({t, c}));
      for (int64_t c = 0; c < dim; ++c) key.set({t, 0, c}, latents.at({t, kRank + c}));
    }
    const HostTensor expected_compressed = normed(compressed, weight.view(), 1e-5F);
    const auto expected_key = rotated(key, kPositions, table, interleaved);
    std::vector<double> rows;
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t c = 0; c < kRank; ++c) rows.push_back(expected_compressed.at({t, c}));
      for (int64_t c = 0; c < dim; ++c) rows.push_back(expected_key[static_cast<size_t>(t * dim + c)]);
    }
    const HostTensor positions = positions_tensor();
    const HostTensor slots = slots_tensor();
    InlineContext context(2);
    cpu::mla_norm_rope_write({.q_rope = q.view(),
                              .latents = latents.view(),
                              .kv_norm = weight.view(),
                              .cache = cache.view(),
                              .positions = positions.view(),
                              .slots = slots.view(),
                              .cos_sin = table.view(),
                              .eps = 1e-5F,
                              .interleaved = interleaved},
                             context);
    EXPECT_TRUE(near(q, expected_q, test::unit_roundoff(dtype), 1e-6));
    EXPECT_TRUE(near(cache, in_slots(rows, kSlots, kNumSlots), test::unit_roundoff(dtype), 1e-6));
  });
}

/// Arguments of a call on a stream: heads of 8, two for q and one for k and v; 6 slots and 4 positions.
QkNormRopeWriteArgs small_call(StreamOps& ops, const HostTensor& positions, const HostTensor& slots) {
  const int64_t rows = positions.shape(0);
  const auto heads = [&](int64_t n, uint64_t seed) {
    return ops.upload(HostTensor(DType::kF32, {rows, n, 8}).fill_normal(seed));
  };
  return {.q = heads(2, 1),
          .k = heads(1, 2),
          .v = heads(1, 3),
          .q_norm = {},
          .k_norm = {},
          .k_cache = ops.upload(HostTensor(DType::kF32, {6, 1, 8})),
          .v_cache = ops.upload(HostTensor(DType::kF32, {6, 1, 8})),
          .positions = ops.upload(positions),
          .slots = ops.upload(slots),
          .cos_sin = ops.upload(make_table(4, 8))};
}

/// The same for latents of 5 + 8.
MlaNormRopeWriteArgs small_mla_call(StreamOps& ops, const HostTensor& positions, const HostTensor& slots) {
  const int64_t rows = positions.shape(0);
  return {.q_rope = ops.upload(HostTensor(DType::kF32, {rows, 2, 8}).fill_normal(1)),
          .latents = ops.upload(HostTensor(DType::kF32, {rows, 13}).fill_normal(2)),
          .kv_norm = ops.upload(HostTensor(DType::kF32, {5}).fill_normal(3)),
          .cache = ops.upload(HostTensor(DType::kF32, {6, 13})),
          .positions = ops.upload(positions),
          .slots = ops.upload(slots),
          .cos_sin = ops.upload(make_table(4, 8))};
}

TEST(RopeWriteTest, ARowDependsOnNothingButItself) {
  const auto positions = HostTensor(DType::kI32, {20}).fill_integers(5, 0, 3);
  HostTensor slots(DType::kI32, {20});
  for (int64_t t = 0; t < 20; ++t) slots.set(t, static_cast<double>(19 - t));
  const HostTensor table = make_table(4, 64);
  const auto weight = HostTensor(DType::kBF16, {64}).fill_normal(1);
  const auto q = HostTensor(DType::kBF16, {20, 16, 64}).fill_normal(3);
  const auto kv = HostTensor(DType::kBF16, {20, 2, 64}).fill_normal(4);
  struct Result {
    HostTensor q, k_cache, v_cache;
  };
  const auto run = [&](int64_t rows_at_once, int num_threads) {
    Result r{HostTensor(q), HostTensor(DType::kBF16, {20, 2, 64}), HostTensor(DType::kBF16, {20, 2, 64})};
    InlineContext context(num_threads);
    for (int64_t t = 0; t < 20; t += rows_at_once) {
      const auto part = [&](const HostTensor& x) { return x.view().rows(t, rows_at_once); };
      cpu::qk_norm_rope_write({.q = part(r.q),
                               .k = part(kv),
                               .v = part(kv),
                               .q_norm = weight.view(),
                               .k_norm = weight.view(),
                               .k_cache = r.k_cache.view(),
                               .v_cache = r.v_cache.view(),
                               .positions = part(positions),
                               .slots = part(slots),
                               .cos_sin = table.view()},
                              context);
    }
    return r;
  };
  const Result all = run(20, 3);
  const Result single = run(1, 1);
  EXPECT_TRUE(bit_equal(all.q, single.q));
  EXPECT_TRUE(bit_equal(all.k_cache, single.k_cache));
  EXPECT_TRUE(bit_equal(all.v_cache, single.v_cache));
}

TEST(RopeWriteTest, RunsOnAStreamAndFailsOnWhatLiesOutside) {
  const auto index = [](double a, double b) { return HostTensor(DType::kI32, {2}).fill_from({a, b}); };
  const auto failure = [&](const HostTensor& positions, const HostTensor& slots) {
    return [&] {
      StreamOps ops;
      qk_norm_rope_write(ops.stream(), small_call(ops, positions, slots));
      ops.wait();
    };
  };
  EXPECT_NO_THROW(failure(index(3, 1), index(5, 0))());
  EXPECT_THAT(
      failure(index(3, 4), index(5, 0)),
      ThrowsMessage<Error>(HasSubstr("qk_norm_rope_write: positions[1]=4 is outside cos_sin = f32[4, 8]")));
  EXPECT_THAT(
      failure(index(3, 1), index(1, 6)),
      ThrowsMessage<Error>(HasSubstr("qk_norm_rope_write: slots[1]=6 is outside the cache = f32[6, 1, 8]")));
  const auto mla_failure = [&](const HostTensor& positions, const HostTensor& slots) {
    return [&] {
      StreamOps ops;
      mla_norm_rope_write(ops.stream(), small_mla_call(ops, positions, slots));
      ops.wait();
    };
  };
  EXPECT_NO_THROW(mla_failure(index(3, -1), index(5, -1))());
  EXPECT_THAT(
      mla_failure(index(-2, 0), index(5, 0)),
      ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: positions[0]=-2 is outside cos_sin = f32[4, 8]")));
  EXPECT_THAT(
      mla_failure(index(3, 1), index(1, 6)),
      ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: slots[1]=6 is outside the cache = f32[6, 13]")));
}

TEST(RopeWriteTest, NoTokensIsNoOp) {
  StreamOps ops;
  const HostTensor none(DType::kI32, {0});
  const QkNormRopeWriteArgs args = small_call(ops, none, none);
  const MlaNormRopeWriteArgs mla = small_mla_call(ops, none, none);
  ops.stream().begin_capture();
  qk_norm_rope_write(ops.stream(), args);
  mla_norm_rope_write(ops.stream(), mla);
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

TEST(RopeWriteTest, RejectsArgumentsThatDoNotFit) {
  StreamOps ops;
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, dtype, shape);
  };
  const auto two = HostTensor(DType::kI32, {2}).fill(0);
  const QkNormRopeWriteArgs good = small_call(ops, two, two);
  const auto run = [&](const auto& change) {
    return [&ops, good, change] {
      QkNormRopeWriteArgs args = good;
      change(args);
      qk_norm_rope_write(ops.stream(), args);
    };
  };
  EXPECT_THAT(run([&](auto& a) {
                a.k = view(DType::kF32, {2, 1, 6});
              }),
              ThrowsMessage<Error>(
                  HasSubstr("qk_norm_rope_write: k is f32[2, 1, 6]; its shape must be [2, any, 8]")));
  EXPECT_THAT(
      run([&](auto& a) {
        a.cos_sin = view(DType::kBF16, {16, 8});
      }),
      ThrowsMessage<Error>(HasSubstr("qk_norm_rope_write: cos_sin is bf16[16, 8]; its dtype must be f32")));
  EXPECT_THAT(run([&](auto& a) { a.k_norm = view(DType::kF32, {7}); }),
              ThrowsMessage<Error>(HasSubstr("qk_norm_rope_write: k_norm is f32[7]; its shape must be [8]")));
}

TEST(RopeWriteTest, RejectsLatentsThatDoNotFit) {
  StreamOps ops;
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, dtype, shape);
  };
  const auto two = HostTensor(DType::kI32, {2}).fill(0);
  const MlaNormRopeWriteArgs good = small_mla_call(ops, two, two);
  const auto run = [&](const auto& change) {
    return [&ops, good, change] {
      MlaNormRopeWriteArgs args = good;
      change(args);
      mla_norm_rope_write(ops.stream(), args);
    };
  };
  EXPECT_THAT(run([&](auto& a) {
                a.latents = view(DType::kF32, {3, 13});
              }),
              ThrowsMessage<Error>(
                  HasSubstr("mla_norm_rope_write: latents is f32[3, 13]; its shape must be [2, any]")));
  EXPECT_THAT(run([&](auto& a) {
                a.latents = view(DType::kF32, {2, 7});
              }),
              ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: latents is f32[2, 7]; it must have more "
                                             "than the 8 columns of q_rope")));
  EXPECT_THAT(
      run([&](auto& a) {
        a.latents = view(DType::kBF16, {2, 13});
      }),
      ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: latents is bf16[2, 13]; its dtype must be f32")));
  EXPECT_THAT(run([&](auto& a) {
                a.cache = view(DType::kF32, {6, 12});
              }),
              ThrowsMessage<Error>(
                  HasSubstr("mla_norm_rope_write: cache is f32[6, 12]; its shape must be [any, 13]")));
  EXPECT_THAT(
      run([&](auto& a) { a.kv_norm = view(DType::kF32, {6}); }),
      ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: kv_norm is f32[6]; its shape must be [5]")));
  EXPECT_THAT(run([&](auto& a) { a.slots = view(DType::kI32, {3}); }),
              ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: slots is i32[3]; its shape must be [2]")));
  EXPECT_THAT(run([&](auto& a) {
                a.cos_sin = view(DType::kF32, {4, 6});
              }),
              ThrowsMessage<Error>(
                  HasSubstr("mla_norm_rope_write: cos_sin is f32[4, 6]; its shape must be [any, 8]")));
  EXPECT_THAT(run([&](auto& a) {
                a.q_rope = view(DType::kF32, {2, 2, 7});
                a.kv_norm = view(DType::kF32, {6});
              }),
              ThrowsMessage<Error>(HasSubstr("mla_norm_rope_write: rope_dim=7 must be even")));
}

}  // namespace
}  // namespace weft::ops
