// Prompts on a GPU: the plan that cuts them into tiles, and attention that runs the tiles.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "../../kernels/attention/prefill_plan.h"
#include "ops/attention.h"
#include "ops/paged_batch.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

using kernels::PrefillPlanLayout;
using kernels::PrefillTile;
using ::testing::HasSubstr;

/// `batch` in the memory of a side.
ops::SequenceBatch on_side(Side& side, PagedBatch& batch) {
  ops::SequenceBatch b = batch.batch();
  b.cu_q = side.array(batch.cu_q());
  b.kv_len = side.array(batch.kv_len());
  b.page_table = side.array(batch.page_table());
  b.num_seqs = side.array(batch.num_seqs());
  return b;
}

HostTensor empty_plan(const PagedBatch& batch, int64_t rows) {
  return {DType::kI32, {ops::prefill_plan_size(rows, batch.batch().max_seqs)}};
}

void plan(Side& side, PagedBatch& batch, const TensorView& memory, int32_t num_prefill_seqs, int64_t rows) {
  ops::plan_prefill(side.stream(), {.plan = memory,
                                    .batch = on_side(side, batch),
                                    .num_prefill_seqs = num_prefill_seqs,
                                    .num_tokens = rows,
                                    .num_slots = batch.num_slots()});
}

std::vector<PrefillTile> tiles_of(PagedBatch& batch, int32_t num_prefill_seqs) {
  const int64_t rows = batch.num_rows() + 5;
  const HostTensor memory =
      on_cuda([&](Side& s) { plan(s, batch, s.out(empty_plan(batch, rows)), num_prefill_seqs, rows); })[0];
  int32_t count = 0;
  std::memcpy(&count, memory.bytes().data(), sizeof(count));
  std::vector<PrefillTile> tiles(static_cast<size_t>(count));
  std::memcpy(tiles.data(), memory.bytes().data() + PrefillPlanLayout::tiles() * sizeof(int32_t),
              tiles.size() * sizeof(PrefillTile));
  return tiles;
}

/// Keys that the last row of a tile sees.
int64_t keys_of(const PrefillTile& tile) {
  return tile.kv_len - tile.q_len + std::min((tile.index + 1) * PrefillPlanLayout::kTileRows, tile.q_len);
}

using CudaPrefillPlanTest = CudaOpTest;

TEST_F(CudaPrefillPlanTest, HasEveryTileOnceLongestFirst) {
  PagedBatch batch({{300, 300}, {1, 900}, {0, 70}, {128, 128}, {129, 2000}, {1, 50}}, 16, 1);
  const auto tiles = tiles_of(batch, 5);
  std::set<std::pair<int32_t, int32_t>> seen;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const PrefillTile& tile = tiles[i];
    seen.insert({tile.seq, tile.index});
    const auto& lengths = batch.sequences().at(static_cast<size_t>(tile.seq));
    EXPECT_EQ(tile.q_begin, batch.first_row(tile.seq));
    EXPECT_EQ(tile.q_len, lengths.q_len);
    EXPECT_EQ(tile.kv_len, lengths.kv_len);
    EXPECT_GE(keys_of(tiles[i == 0 ? 0 : i - 1]), keys_of(tile)) << i;
  }
  using Pair = std::pair<int32_t, int32_t>;
  EXPECT_THAT(seen, ::testing::ElementsAre(Pair{0, 0}, Pair{0, 1}, Pair{0, 2}, Pair{1, 0}, Pair{3, 0},
                                           Pair{4, 0}, Pair{4, 1}));
  EXPECT_EQ(tiles.size(), seen.size());
}

TEST_F(CudaPrefillPlanTest, PacksTheKeysOfSequencesWithRows) {
  PagedBatch batch({{3, 10}, {0, 70}, {2, 20}, {1, 1}}, 4, 1);
  for (const PrefillTile& tile : tiles_of(batch, 4)) {
    EXPECT_EQ(tile.kv_begin, tile.seq == 0 ? 0 : tile.seq == 2 ? 10 : 30);
  }
}

TEST_F(CudaPrefillPlanTest, TakesMoreSequencesThanThreads) {
  std::vector<SequenceLengths> sequences;
  for (int64_t s = 0; s < 1300; ++s) sequences.push_back({s % 3, 1 + s % 7 + s % 3});
  PagedBatch batch(sequences, 2, 1);
  int64_t expected = 0;
  for (int64_t s = 0; s < 1200; ++s) expected += s % 3 > 0 ? 1 : 0;
  EXPECT_EQ(static_cast<int64_t>(tiles_of(batch, 1200).size()), expected);
}

TEST_F(CudaPrefillPlanTest, LeavesOutWhatIsBadAndSaysSo) {
  const auto run = [](const std::function<void(PagedBatch&)>& break_it) {
    PagedBatch batch({{2, 20}, {1, 9}}, 8, 15);
    break_it(batch);
    return cuda_failure([&](Side& s) { plan(s, batch, s.out(empty_plan(batch, 3)), 2, 3); });
  };
  EXPECT_EQ(run([](PagedBatch&) {}), "");
  EXPECT_THAT(run([](PagedBatch& b) { b.num_seqs()[0] = 5; }), HasSubstr("num_seqs=5"));
  EXPECT_THAT(run([](PagedBatch& b) { b.cu_q()[2] = 4; }), HasSubstr("sequence 1 owns rows [2, 4) of 3"));
  EXPECT_THAT(run([](PagedBatch& b) { b.kv_len()[0] = 1; }), HasSubstr("sequence 0 has kv_len=1"));
  EXPECT_THAT(run([](PagedBatch& b) { b.page_table()[1] = 1000; }),
              HasSubstr("of sequence 0 is in page 1000"));
}

/// Kernels for prompts, on GPUs and in builds that have them.
class CudaPrefillAttentionTest : public CudaOpTest {
 protected:
  void SetUp() override {
    CudaOpTest::SetUp();
    if (IsSkipped()) return;
    const auto device = device::make_cuda_device({.name = "cuda:test"});
    if (!ops::has_prefill_plan(*device)) GTEST_SKIP() << "this build has no kernels that need a plan";
  }
};

struct Heads {
  int64_t q, kv;
};

/// Keys or values [num_slots, kv heads, 128]; NaN where no token is.
HostTensor cache_of(const PagedBatch& batch, int64_t heads, uint64_t salt) {
  HostTensor cache(DType::kBF16, {batch.num_slots(), heads, 128});
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    for (int64_t p = 0; p < batch.sequences()[s].kv_len; ++p) {
      const auto seq = static_cast<int64_t>(s);
      const int64_t at = batch.slot(seq, p) * heads * 128;
      for (int64_t c = 0; c < heads * 128; ++c) cache.set(at + c, content(salt, seq, p, c));
    }
  }
  return cache;
}

/// Attention of a batch whose first `num_prefill_seqs` sequences are planned where that is possible. Rows
/// hold what their position says, in a tensor with gaps.
Enqueue attention_of(PagedBatch& batch, const Heads& heads, int32_t num_prefill_seqs) {
  const int64_t rows = batch.num_rows() + 3;  // padding rows belong to no sequence
  HostTensor q(DType::kBF16, {rows, heads.q, 128}, {(heads.q + 2 * heads.kv) * 128, 128, 1});
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    const auto seq = static_cast<int64_t>(s);
    const auto& lengths = batch.sequences()[s];
    for (int64_t r = 0; r < lengths.q_len; ++r) {
      const int64_t position = lengths.kv_len - lengths.q_len + r;
      for (int64_t h = 0; h < heads.q; ++h) {
        for (int64_t c = 0; c < 128; ++c) {
          q.set({batch.first_row(seq) + r, h, c}, content(2, seq, position, h * 128 + c));
        }
      }
    }
  }
  const HostTensor k = cache_of(batch, heads.kv, 3);
  const HostTensor v = cache_of(batch, heads.kv, 4);
  const HostTensor out(DType::kBF16, {rows, heads.q, 128});
  return [=, &batch](Side& s) {
    ops::PagedAttentionArgs args{.out = s.out(out),
                                 .q = s.in(q),
                                 .k_cache = s.in(k),
                                 .v_cache = s.in(v),
                                 .batch = on_side(s, batch),
                                 .num_prefill_seqs = num_prefill_seqs,
                                 .scale = 0.3F};
    if (s.stream().device().backend() == device::Backend::kCuda && num_prefill_seqs > 0) {
      args.plan = s.in(empty_plan(batch, rows));
      plan(s, batch, args.plan, num_prefill_seqs, rows);
    }
    ops::paged_attention(s.stream(), args);
  };
}

// Weights are rounded to bf16 before they meet the values, which are below 1.
constexpr double kAbsolute = 4e-3;

TEST_F(CudaPrefillAttentionTest, PlannedPromptsMatch) {
  for (const Heads& heads : {Heads{4, 2}, Heads{8, 1}, Heads{3, 3}}) {
    for (const int64_t page_size : {1, 16, 64}) {
      for (const auto& sequences : std::vector<std::vector<SequenceLengths>>{
               {{1, 1}},
               {{300, 300}},
               {{128, 500}, {0, 40}, {1, 700}, {257, 257}, {96, 96}},
           }) {
        SCOPED_TRACE("heads=" + std::to_string(heads.q) + " page=" + std::to_string(page_size) +
                     " sequences=" + std::to_string(sequences.size()));
        PagedBatch batch(sequences, page_size, 1);
        expect_twins(attention_of(batch, heads, static_cast<int32_t>(sequences.size())), 1e-2, kAbsolute);
      }
    }
  }
}

TEST_F(CudaPrefillAttentionTest, TheDecodeTailIsComputedToo) {
  PagedBatch batch({{200, 350}, {7, 7}, {1, 90}, {1, 1000}, {1, 1}}, 16, 2);
  expect_twins(attention_of(batch, {4, 1}, 2), 1e-2, kAbsolute);
}

TEST_F(CudaPrefillAttentionTest, ARowHasTheSameBitsInEveryBatchAndChunking) {
  const auto last_row = [](std::vector<SequenceLengths> sequences, int64_t page_size) {
    const auto num_prefill_seqs = static_cast<int32_t>(sequences.size());
    PagedBatch batch(std::move(sequences), page_size, 5);
    const HostTensor out = on_cuda(attention_of(batch, {4, 2}, num_prefill_seqs))[0];
    const int64_t row = batch.sequences()[0].q_len - 1;
    std::vector<uint64_t> bits;
    for (int64_t c = 0; c < 4 * 128; ++c) bits.push_back(out.bits(row * 4 * 128 + c));
    return bits;
  };
  const auto whole = last_row({{700, 700}}, 16);
  EXPECT_EQ(last_row({{700, 700}}, 16), whole);
  EXPECT_EQ(last_row({{1, 700}}, 1), whole);
  EXPECT_EQ(last_row({{60, 700}, {500, 800}}, 64), whole);
  EXPECT_EQ(last_row({{350, 700}, {1, 1}, {140, 140}}, 16), whole);
}

/// mla_prefill with DeepSeek's heads; planned where that is possible, with a workspace for `kv_tokens` keys.
Enqueue mla_of(PagedBatch& batch, int64_t heads, int64_t latent, int32_t num_prefill_seqs) {
  const int64_t rows = batch.num_rows() + 2;
  int64_t kv_tokens = 0;
  for (int32_t s = 0; s < num_prefill_seqs; ++s)
    kv_tokens += batch.sequences()[static_cast<size_t>(s)].kv_len;
  HostTensor cache(DType::kBF16, {batch.num_slots(), latent + 64});
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    for (int64_t p = 0; p < batch.sequences()[s].kv_len; ++p) {
      const auto seq = static_cast<int64_t>(s);
      for (int64_t c = 0; c < latent + 64; ++c) cache.set({batch.slot(seq, p), c}, content(10, seq, p, c));
    }
  }
  const auto q = HostTensor(DType::kBF16, {rows, heads, 192}).fill_normal(11);
  const auto w_kv_b = HostTensor(DType::kBF16, {heads, 256, latent}).fill_normal(12, 0.1);
  const HostTensor out(DType::kBF16, {rows, heads, 128});
  return [=, &batch](Side& s) {
    const TensorView query = s.in(q);
    ops::MlaPrefillArgs args{.out = s.out(out),
                             .q_nope = query.columns(0, 128),
                             .q_rope = query.columns(128, 64),
                             .cache = s.in(cache),
                             .w_kv_b = s.in(w_kv_b),
                             .batch = on_side(s, batch),
                             .num_prefill_seqs = num_prefill_seqs,
                             .scale = 0.1F,
                             .num_kv_tokens = kv_tokens};
    if (s.stream().device().backend() == device::Backend::kCuda) {
      // 0xff: NaN to begin with.
      const HostTensor workspace(DType::kU8, {ops::mla_prefill_workspace(kv_tokens, heads, latent)});
      args.workspace = s.in(workspace);
      s.stream().fill(args.workspace.data, 0xff, args.workspace.span_bytes());
      args.plan = s.in(empty_plan(batch, rows));
      plan(s, batch, args.plan, num_prefill_seqs, rows);
    }
    ops::mla_prefill(s.stream(), args);
  };
}

TEST_F(CudaPrefillAttentionTest, PlannedMlaMatches) {
  for (const int64_t heads : {1, 3}) {
    for (const int64_t page_size : {1, 64}) {
      for (const auto& sequences : std::vector<std::vector<SequenceLengths>>{
               {{1, 1}}, {{300, 300}}, {{128, 400}, {0, 40}, {1, 300}, {130, 130}, {1, 77}}}) {
        SCOPED_TRACE("heads=" + std::to_string(heads) + " page=" + std::to_string(page_size) +
                     " sequences=" + std::to_string(sequences.size()));
        PagedBatch batch(sequences, page_size, 1);
        const auto num_prefill_seqs = static_cast<int32_t>(std::min<size_t>(sequences.size(), 4));
        expect_twins(mla_of(batch, heads, 72, num_prefill_seqs), 1e-2, 1e-2);
      }
    }
  }
}

}  // namespace
}  // namespace weft::test
#endif
