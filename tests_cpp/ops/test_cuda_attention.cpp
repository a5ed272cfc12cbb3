// Attention on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include "ops/attention.h"
#include "ops/paged_batch.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

using ::testing::HasSubstr;
using CudaAttentionTest = CudaOpTest;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr double kAbsolute = 2e-5;
/// Tensor cores round a softmax's weights to the dtype of the values, which lie in [-1, 1).
double absolute_of(DType dtype) { return dtype == DType::kF32 ? kAbsolute : 2 * unit_roundoff(dtype); }

/// `batch` in the memory of a side.
ops::SequenceBatch on_side(Side& side, PagedBatch& batch) {
  ops::SequenceBatch b = batch.batch();
  b.cu_q = side.array(batch.cu_q());
  b.kv_len = side.array(batch.kv_len());
  b.page_table = side.array(batch.page_table());
  b.num_seqs = side.array(batch.num_seqs());
  b.order = batch.order().empty() ? nullptr : side.array(batch.order());
  return b;
}

/// Rows [num_slots, width] whose live slots hold what their position says; all else is NaN.
HostTensor cache_of(const PagedBatch& batch, DType dtype, int64_t width, uint64_t salt) {
  HostTensor cache(dtype, {batch.num_slots(), width});
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    for (int64_t p = 0; p < batch.sequences()[s].kv_len; ++p) {
      const auto seq = static_cast<int64_t>(s);
      for (int64_t c = 0; c < width; ++c) cache.set({batch.slot(seq, p), c}, content(salt, seq, p, c));
    }
  }
  return cache;
}

TensorView with_heads(TensorView view, int64_t heads) {
  return view.reshape({view.shape[0], heads, view.shape[1] / heads});
}

const std::vector<std::vector<SequenceLengths>> kBatches = {
    {{1, 1}},
    {{1, 33}, {1, 64}, {1, 7}},                   // decode
    {{40, 40}, {9, 50}},                          // prefill, and a chunk behind a prefix
    {{5, 70}, {0, 0}, {1, 1}, {1, 100}, {3, 3}},  // mixed
};

TEST_F(CudaAttentionTest, PagedAttentionMatches) {
  struct Heads {
    int64_t q, kv, dim;
  };
  for (const DType dtype : kDTypes) {
    for (const Heads& h : {Heads{4, 2, 16}, Heads{3, 3, 64}, Heads{20, 1, 33}, Heads{2, 1, 200}}) {
      for (size_t i = 0; i < kBatches.size(); ++i) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + " dim=" + std::to_string(h.dim) +
                     " batch=" + std::to_string(i));
        PagedBatch batch(kBatches[i], i % 2 == 0 ? 16 : 3, 1);
        const int64_t rows = batch.num_rows() + 3;  // padding rows belong to no sequence
        const auto q = HostTensor(dtype, {rows, h.q, h.dim}, {(h.q + 1) * h.dim, h.dim, 1}).fill_normal(2);
        const HostTensor k = cache_of(batch, dtype, h.kv * h.dim, 3);
        const HostTensor v = cache_of(batch, dtype, h.kv * h.dim, 4);
        const HostTensor out(dtype, {rows, h.q, h.dim});
        expect_twins(
            [&](Side& s) {
              ops::paged_attention(s.stream(), {.out = s.out(out),
                                                .q = s.in(q),
                                                .k_cache = with_heads(s.in(k), h.kv),
                                                .v_cache = with_heads(s.in(v), h.kv),
                                                .batch = on_side(s, batch),
                                                .scale = 0.3F});
            },
            2 * unit_roundoff(dtype), absolute_of(dtype));
      }
    }
  }
}

struct Heads {
  int64_t q, kv, dim;
};
/// paged_attention of `batch` on a side, with padding rows and NaN where nothing may be read.
void enqueue_attention(Side& s, PagedBatch& batch, DType dtype, const Heads& h, int32_t num_prefill_seqs) {
  const int64_t rows = batch.num_rows() + 3;
  const auto q = HostTensor(dtype, {rows, h.q, h.dim}, {(h.q + 1) * h.dim, h.dim, 1}).fill_normal(2);
  const HostTensor out(dtype, {rows, h.q, h.dim});
  ops::paged_attention(s.stream(),
                       {.out = s.out(out),
                        .q = s.in(q),
                        .k_cache = with_heads(s.in(cache_of(batch, dtype, h.kv * h.dim, 3)), h.kv),
                        .v_cache = with_heads(s.in(cache_of(batch, dtype, h.kv * h.dim, 4)), h.kv),
                        .batch = on_side(s, batch),
                        .num_prefill_seqs = num_prefill_seqs,
                        .scale = 0.2F});
}
void expect_attention_matches(PagedBatch& batch, DType dtype, const Heads& h, int32_t num_prefill_seqs = 0) {
  SCOPED_TRACE(std::string(dtype_name(dtype)) + " q=" + std::to_string(h.q) + " kv=" + std::to_string(h.kv) +
               " dim=" + std::to_string(h.dim));
  expect_twins([&](Side& s) { enqueue_attention(s, batch, dtype, h, num_prefill_seqs); },
               2 * unit_roundoff(dtype), absolute_of(dtype));
}

const std::vector<SequenceLengths> kDecode = {{1, 1},   {1, 16}, {1, 17}, {1, 64},  {1, 65}, {0, 0},
                                              {1, 130}, {4, 4},  {3, 90}, {2, 513}, {1, 600}};

TEST_F(CudaAttentionTest, DecodeRowsOfAnyGroupMatch) {
  for (const int64_t group : {1, 2, 3, 4, 5, 7, 8, 16, 20}) {
    PagedBatch batch(kDecode, group % 2 == 0 ? 16 : 3, 21);
    expect_attention_matches(batch, DType::kBF16, {group * 2, 2, 128});
  }
}

TEST_F(CudaAttentionTest, DecodeRowsOfAnyWidthMatch) {
  for (const int64_t dim : {64, 128, 256}) {
    for (const int64_t group : {2, 16}) {
      for (const DType dtype : {DType::kBF16, DType::kF16}) {
        PagedBatch batch(kDecode, dim == 64 ? 1 : 64, 22);
        expect_attention_matches(batch, dtype, {group, 1, dim});
      }
    }
  }
}

TEST_F(CudaAttentionTest, DecodeRowsMatchHoweverManyBlocksShareASequence) {
  for (const int64_t kv_heads : {1, 3, 9, 20, 40}) {
    PagedBatch batch({{1, 300}, {1, 40}, {1, 129}}, 16, 23, 4);
    expect_attention_matches(batch, DType::kBF16, {kv_heads * 2, kv_heads, 64});
  }
  for (const int64_t dim : {128, 256}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      PagedBatch batch({{1, 300}, {4, 40}, {1, 17}, {0, 0}}, 16, 25, 4);
      expect_attention_matches(batch, dtype, {40, 40, dim});
      expect_attention_matches(batch, dtype, {33 * 10, 33, dim});
    }
  }
  for (const int64_t kv_len : {1, 64, 129, 1100}) {
    PagedBatch batch({{1, kv_len}}, 16, 23, 0);
    expect_attention_matches(batch, DType::kBF16, {12, 1, 128});
  }
}

TEST_F(CudaAttentionTest, TheOrderOfSequencesChangesNoBit) {
  const std::vector<SequenceLengths> sequences = {{3, 3}, {1, 40}, {2, 300}, {1, 1}, {0, 0}, {1, 170}};
  const std::vector<int32_t> order = {0, 2, 5, 1, 3, 4, 999, -999};  // garbage behind num_seqs
  const auto run = [](PagedBatch& batch) {
    return on_cuda([&](Side& s) { enqueue_attention(s, batch, DType::kBF16, {80, 40, 64}, 1); }).at(0);
  };
  for (const int64_t spare_pages : {1, 300}) {  // short contexts, and others
    PagedBatch plain(sequences, 16, 26, 2, spare_pages);
    PagedBatch ordered(sequences, 16, 26, 2, spare_pages);
    ordered.order() = order;
    EXPECT_TRUE(bit_equal(run(ordered), run(plain)));
  }
  PagedBatch ordered(sequences, 16, 26, 2);
  ordered.order() = order;
  for (const int32_t bad : {0, 6, 7, -1}) {
    ordered.order()[2] = bad;
    EXPECT_THAT(cuda_failure([&](Side& s) {
                  enqueue_attention(s, ordered, DType::kBF16, {80, 40, 64}, 1);
                }),
                HasSubstr("paged_attention: order[2] is " + std::to_string(bad) +
                          ", but the sequences behind the prompts are 1 to 5"));
  }
}

TEST_F(CudaAttentionTest, PromptsBeforeADecodeTailMatch) {
  PagedBatch batch({{40, 40}, {70, 200}, {1, 33}, {1, 300}}, 16, 24);
  for (const int32_t num_prefill_seqs : {0, 1, 2, 4, 100}) {
    expect_attention_matches(batch, DType::kBF16, {8, 2, 128}, num_prefill_seqs);
  }
}

TEST_F(CudaAttentionTest, PromptsOfAnyWidthMatch) {
  for (const Heads& h : {Heads{3, 1, 64}, Heads{8, 2, 64}, Heads{2, 2, 256}, Heads{5, 1, 256}}) {
    PagedBatch batch({{70, 70}, {0, 0}, {1, 90}, {33, 161}}, h.kv == 1 ? 3 : 16, 26);
    expect_attention_matches(batch, h.q == 3 ? DType::kF16 : DType::kBF16, h, 6);
  }
}

TEST_F(CudaAttentionTest, ARowHasTheSameBitsInEveryBatchOnEachSideOfTheTail) {
  const Heads h{8, 2, 128};
  int32_t num_prefill_seqs = 0;
  const auto run = [&](std::vector<SequenceLengths> sequences, int64_t page_size, int64_t first_position) {
    const auto spare = static_cast<int32_t>(6 - sequences.size());
    PagedBatch batch(std::move(sequences), page_size, 25, spare);
    HostTensor q(DType::kBF16, {batch.num_rows(), h.q, h.dim});
    for (int64_t r = 0; r < batch.num_rows(); ++r) {
      for (int64_t c = 0; c < h.q * h.dim; ++c)
        q.set(r * h.q * h.dim + c, content(6, 0, first_position + r, c));
    }
    const HostTensor out(DType::kBF16, {batch.num_rows(), h.q, h.dim});
    return on_cuda([&](Side& s) {
      ops::paged_attention(s.stream(),
                           {.out = s.out(out),
                            .q = s.in(q),
                            .k_cache = with_heads(s.in(cache_of(batch, DType::kBF16, h.kv * h.dim, 7)), h.kv),
                            .v_cache = with_heads(s.in(cache_of(batch, DType::kBF16, h.kv * h.dim, 8)), h.kv),
                            .batch = on_side(s, batch),
                            .num_prefill_seqs = num_prefill_seqs,
                            .scale = 0.2F});
    })[0];
  };
  const int64_t width = h.q * h.dim;
  for (const int32_t prefill : {0, 6}) {
    num_prefill_seqs = prefill;
    const HostTensor alone = run({{1, 301}}, 16, 300);
    const auto expect_row = [&](const HostTensor& other, int64_t row) {
      for (int64_t c = 0; c < width; ++c) ASSERT_EQ(other.bits(row * width + c), alone.bits(c)) << c;
    };
    expect_row(run({{1, 301}}, 16, 300), 0);
    expect_row(run({{1, 301}, {1, 3}, {1, 700}, {1, 64}}, 1, 300), 0);
    expect_row(run({{3, 301}, {2, 17}}, 64, 298), 2);
    expect_row(run({{70, 301}}, 16, 231), 69);
  }
}

TEST_F(CudaAttentionTest, ARowHasTheSameBitsInEveryBatchAndChunking) {
  const auto run = [](std::vector<SequenceLengths> sequences, int64_t page_size, int64_t first_position) {
    PagedBatch batch(std::move(sequences), page_size, 5);
    HostTensor q(DType::kBF16, {batch.num_rows(), 4, 32});
    for (int64_t r = 0; r < batch.num_rows(); ++r) {
      // Sequence 0 comes first, and its rows end at its kv_len.
      for (int64_t c = 0; c < 128; ++c) q.set(r * 128 + c, content(6, 0, first_position + r, c));
    }
    const HostTensor k = cache_of(batch, DType::kBF16, 64, 7);
    const HostTensor v = cache_of(batch, DType::kBF16, 64, 8);
    const HostTensor out(DType::kBF16, {batch.num_rows(), 4, 32});
    return on_cuda([&](Side& s) {
      ops::paged_attention(s.stream(), {.out = s.out(out),
                                        .q = s.in(q),
                                        .k_cache = with_heads(s.in(k), 2),
                                        .v_cache = with_heads(s.in(v), 2),
                                        .batch = on_side(s, batch),
                                        .scale = 0.2F});
    })[0];
  };
  const HostTensor whole = run({{90, 90}}, 16, 0);
  const auto expect_last_row = [&](const HostTensor& other, int64_t row) {
    for (int64_t c = 0; c < 128; ++c) ASSERT_EQ(other.bits(row * 128 + c), whole.bits(89 * 128 + c)) << c;
  };
  expect_last_row(run({{1, 90}}, 4, 89), 0);
  expect_last_row(run({{1, 90}, {1, 3}, {1, 200}}, 16, 89), 0);
  expect_last_row(run({{30, 90}, {7, 8}}, 1, 60), 29);
}

TEST_F(CudaAttentionTest, MlaMatches) {
  struct Widths {
    int64_t heads, latent, rope, nope, v;
  };
  for (const DType dtype : kDTypes) {
    for (const Widths& w : {Widths{3, 40, 6, 10, 12}, Widths{20, 130, 64, 32, 16}}) {
      for (size_t i = 0; i < kBatches.size(); ++i) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + " latent=" + std::to_string(w.latent) +
                     " batch=" + std::to_string(i));
        PagedBatch batch(kBatches[i], 8, 9);
        const int64_t rows = batch.num_rows() + 2;
        const HostTensor cache = cache_of(batch, dtype, w.latent + w.rope, 10);
        const auto q_rope = HostTensor(dtype, {rows, w.heads, w.rope}).fill_normal(11);
        const auto absorbed = HostTensor(dtype, {rows, w.heads, w.latent}).fill_normal(12, 0.3);
        const HostTensor latent_out(dtype, {rows, w.heads, w.latent});
        for (const int32_t first_seq : {0, 1}) {
          expect_twins(
              [&](Side& s) {
                ops::mla_decode(s.stream(), {.out = s.out(latent_out),
                                             .q_nope = s.in(absorbed),
                                             .q_rope = s.in(q_rope),
                                             .cache = s.in(cache),
                                             .batch = on_side(s, batch),
                                             .first_seq = first_seq,
                                             .scale = 0.2F});
              },
              2 * unit_roundoff(dtype), kAbsolute);
        }
        const auto q_nope =
            HostTensor(dtype, {rows, w.heads, w.nope}, {w.heads * (w.nope + 3), w.nope + 3, 1})
                .fill_normal(13);
        const auto w_kv_b = HostTensor(dtype, {w.heads, w.nope + w.v, w.latent}).fill_normal(14, 0.1);
        const HostTensor out(dtype, {rows, w.heads, w.v});
        expect_twins(
            [&](Side& s) {
              ops::mla_prefill(s.stream(), {.out = s.out(out),
                                            .q_nope = s.in(q_nope),
                                            .q_rope = s.in(q_rope),
                                            .cache = s.in(cache),
                                            .w_kv_b = s.in(w_kv_b),
                                            .batch = on_side(s, batch),
                                            .num_prefill_seqs = 2,
                                            .scale = 0.2F});
            },
            2 * unit_roundoff(dtype), kAbsolute);
      }
    }
  }
}

TEST_F(CudaAttentionTest, MlaDecodeOfDeepSeekWidthsMatches) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int64_t heads : {16, 5, 40}) {
      for (const int32_t first_seq : {0, 2}) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + " heads=" + std::to_string(heads) +
                     " first_seq=" + std::to_string(first_seq));
        PagedBatch batch({{5, 5}, {1, 1}, {1, 33}, {0, 0}, {3, 70}, {1, 300}}, heads == 16 ? 16 : 3, 31);
        const int64_t rows = batch.num_rows() + 2;
        const auto q = HostTensor(dtype, {rows, heads, 512 + 64}).fill_normal(32, 0.3);
        const HostTensor out(dtype, {rows, heads, 512});
        expect_twins(
            [&](Side& s) {
              const TensorView queries = s.in(q);
              TensorView nope = queries;
              nope.shape[2] = 512;
              TensorView rope = queries;
              rope.shape[2] = 64;
              rope.data = static_cast<char*>(queries.data) + 512 * dtype_size(dtype);
              ops::mla_decode(s.stream(), {.out = s.out(out),
                                           .q_nope = nope,
                                           .q_rope = rope,
                                           .cache = s.in(cache_of(batch, dtype, 512 + 64, 10)),
                                           .batch = on_side(s, batch),
                                           .first_seq = first_seq,
                                           .scale = 0.2F});
            },
            2 * unit_roundoff(dtype), absolute_of(dtype));
      }
    }
  }
}

TEST_F(CudaAttentionTest, ABatchThatContradictsItselfIsAFailure) {
  const auto run = [](const std::function<void(PagedBatch&)>& break_it) {
    PagedBatch batch({{2, 20}, {1, 9}}, 8, 15);
    const HostTensor k = cache_of(batch, DType::kBF16, 16, 16);
    const auto q = HostTensor(DType::kBF16, {3, 2, 16}).fill_normal(17);
    break_it(batch);
    return cuda_failure([&](Side& s) {
      ops::paged_attention(s.stream(), {.out = s.in(q),
                                        .q = s.in(q),
                                        .k_cache = with_heads(s.in(k), 1),
                                        .v_cache = with_heads(s.in(k), 1),
                                        .batch = on_side(s, batch)});
    });
  };
  EXPECT_EQ(run([](PagedBatch&) {}), "");
  EXPECT_THAT(run([](PagedBatch& b) { b.num_seqs()[0] = 5; }), HasSubstr("num_seqs=5"));
  EXPECT_THAT(run([](PagedBatch& b) { b.cu_q()[2] = 4; }), HasSubstr("sequence 1 owns rows [2, 4) of 3"));
  EXPECT_THAT(run([](PagedBatch& b) { b.kv_len()[0] = 1; }), HasSubstr("sequence 0 has kv_len=1"));
  EXPECT_THAT(run([](PagedBatch& b) { b.page_table()[0] = 1000; }),
              HasSubstr("of sequence 0 is in page 1000"));
}

}  // namespace
}  // namespace weft::test
#endif
