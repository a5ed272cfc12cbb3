// sample: a cluster of blocks a row (row_slice.cuh), which reads the row once, and draws from it (draw.cuh).
#include "kernels/sampling/draw.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr char kBadSampleRows[] = "sample: num_rows={}, but the tensors hold {} rows";
constexpr char kBadSlot[] = "sample: row {} names slot {} of {}";

struct SampleTexts {
  const char* bad_rows;
  const char* bad_slot;
};
constexpr SampleTexts kSampleTexts{kBadSampleRows, kBadSlot};

/// What becomes of tokens, besides that they are written down.
struct Commit {
  int32_t* tokens;
  int64_t tokens_stride;
  int32_t* last_tokens;  // null: nothing is kept
  const int32_t* slots;
  const int32_t* wanted;
  int32_t* targets;
  int64_t num_slots;

  __device__ void row(const OpSite& site, const SampleTexts& texts, int64_t r, int32_t token) const {
    tokens[r * tokens_stride] = token;
    if (last_tokens == nullptr) return;
    const int32_t slot = slots[r];
    if (slot >= num_slots) fail(site, texts.bad_slot, r, slot, num_slots);
    if (slot >= 0 && slot < num_slots) last_tokens[slot] = token;
    targets[r] = wanted[r] >= 0 ? wanted[r] : wanted[r] == -1 ? token : -1;
  }
};

template <bool kStaged>
__global__ void __launch_bounds__(kSliceThreads, 2)
    sample_kernel(OpSite site, SampleTexts texts, LogitRows rows, const SamplingRow* params, Commit commit) {
  let_next_start();
  wait_for_inputs(site);
  if (!row_exists(site, texts.bad_rows, rows)) return;
  rows.staged = kStaged;  // as it is: the compiler knows
  auto& shared = *dynamic_shared<DrawShared>();
  RowSlice slice(rows, reinterpret_cast<float*>(&shared + 1), shared.exchange);
  const int64_t r = RowSlice::row_of(rows);
  if (threadIdx.x == 0) shared.params = params[r];
  Draw<kStaged>::clear(shared);
  const unsigned long long best = slice.reduce(slice.load_largest(), Max{});
  const float maximum = logit_at(best);
  int32_t token = -1;
  if (best >> 32 != kNanStandsFirst && isfinite(maximum)) {
    if (shared.params.temperature > 0.0F) {
      Draw<kStaged> draw(slice, shared, maximum, shared.params.temperature);
      token = draw.run(shared.params);
    } else {
      token = id_at(best);
    }
  }
  if (slice.rank() == 0 && threadIdx.x == 0) commit.row(site, texts, r, token);
  slice.end();
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void sample(const SampleArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const LogitRows rows = logit_rows(args.logits, args.num_rows, sizeof(DrawShared));
  Commit commit{.tokens = args.tokens.as<int32_t>(),
                .tokens_stride = args.tokens.stride[0],
                .last_tokens = nullptr,
                .slots = nullptr,
                .wanted = nullptr,
                .targets = nullptr,
                .num_slots = 0};
  if (args.last_tokens.defined()) {
    commit.last_tokens = args.last_tokens.as<int32_t>();
    commit.slots = args.slots.as<int32_t>();
    commit.wanted = args.wanted.as<int32_t>();
    commit.targets = args.targets.as<int32_t>();
    commit.num_slots = args.last_tokens.shape[0];
  }
  const auto run = [&]<bool kStaged>() {
    launch<&sample_kernel<kStaged>>(cuda, shape_of(rows, sizeof(DrawShared)), cuda.site, kSampleTexts, rows,
                                    args.params, commit);
  };
  if (rows.staged) {
    run.template operator()<true>();
  } else {
    run.template operator()<false>();
  }
}

}  // namespace weft::ops::cuda
