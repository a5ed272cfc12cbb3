// logprobs: a cluster of blocks a row (row_slice.cuh); rows of which nothing is wanted are not read.
#include "kernels/sampling/row_slice.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr char kBadLogprobRows[] = "logprobs: num_rows={}, but the tensors hold {} rows";
constexpr char kBadTarget[] = "logprobs: targets[{}] is {}, but the vocabulary has {} tokens";
constexpr char kBadNumTop[] =
    "logprobs: num_top[{}] is {}, but top_ids has {} columns and the vocabulary has {} tokens";

struct LogprobTexts {
  const char* bad_rows;
  const char* bad_target;
  const char* bad_num_top;
};
constexpr LogprobTexts kLogprobTexts{kBadLogprobRows, kBadTarget, kBadNumTop};

struct LogprobOut {
  float* logprobs;
  const int32_t* targets;
  const int32_t* num_top;  // null: none
  int32_t* top_ids;
  float* top_logprobs;
  int64_t logprobs_stride, targets_stride, top_ids_stride, top_logprobs_stride;
  int64_t max_top;
};

__global__ void __launch_bounds__(kSliceThreads, 2)
    logprobs_kernel(OpSite site, LogprobTexts texts, LogitRows rows, LogprobOut out) {
  let_next_start();
  wait_for_inputs(site);
  if (!row_exists(site, texts.bad_rows, rows)) return;
  auto& exchange = *dynamic_shared<Exchange>();
  RowSlice slice(rows, reinterpret_cast<float*>(&exchange + 1), exchange);
  const int64_t r = RowSlice::row_of(rows);
  const bool writes = slice.rank() == 0 && threadIdx.x == 0;
  int32_t target = out.targets[r * out.targets_stride];
  int32_t num_top = out.num_top == nullptr ? 0 : out.num_top[r];
  if (target < -1 || target >= rows.vocab) {
    if (writes) fail(site, texts.bad_target, r, target, rows.vocab);
    target = -1;
  }
  if (num_top < 0 || num_top > out.max_top || num_top > rows.vocab) {
    if (writes) fail(site, texts.bad_num_top, r, num_top, out.max_top, rows.vocab);
    num_top = 0;
  }
  if (target < 0 && num_top == 0) return;
  constexpr uint32_t kNanIsNone = 0;
  unsigned long long best = 0;
  slice.load([&](int32_t id, float logit) { best = Max{}(place_of(logit, id, kNanIsNone), best); });
  best = slice.reduce(best, Max{});
  const float maximum = best >> 32 == kNanIsNone ? -INFINITY : logit_at(best);
  double sum = 0.0;
  slice.for_each([&](int32_t, float logit) { sum += static_cast<double>(expf(logit - maximum)); });
  sum = slice.reduce(sum, Sum{});
  const double log_sum = static_cast<double>(maximum) + log(sum);
  if (writes && target >= 0) {
    const float logit = rows.logits[r * rows.stride + target];
    out.logprobs[r * out.logprobs_stride] = static_cast<float>(static_cast<double>(logit) - log_sum);
  }
  for (int32_t i = 0; i < num_top && best >> 32 != kNanIsNone; ++i) {
    if (writes) {
      out.top_ids[r * out.top_ids_stride + i] = id_at(best);
      out.top_logprobs[r * out.top_logprobs_stride + i] =
          static_cast<float>(static_cast<double>(logit_at(best)) - log_sum);
    }
    if (i + 1 == num_top) break;
    const unsigned long long last = best;
    best = 0;
    slice.for_each([&](int32_t id, float logit) {
      const unsigned long long place = place_of(logit, id, kNanIsNone);
      if (place < last) best = Max{}(place, best);
    });
    best = slice.reduce(best, Max{});
  }
  slice.end();
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void logprobs(const LogprobArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const LogitRows rows = logit_rows(args.logits, args.num_rows, sizeof(Exchange));
  const bool tops = args.top_ids.defined();
  const LogprobOut out{.logprobs = args.logprobs.as<float>(),
                       .targets = args.targets.as<int32_t>(),
                       .num_top = args.num_top,
                       .top_ids = tops ? args.top_ids.as<int32_t>() : nullptr,
                       .top_logprobs = tops ? args.top_logprobs.as<float>() : nullptr,
                       .logprobs_stride = args.logprobs.stride[0],
                       .targets_stride = args.targets.stride[0],
                       .top_ids_stride = tops ? args.top_ids.stride[0] : 0,
                       .top_logprobs_stride = tops ? args.top_logprobs.stride[0] : 0,
                       .max_top = tops ? args.top_ids.shape[1] : 0};
  launch<&logprobs_kernel>(cuda, shape_of(rows, sizeof(Exchange)), cuda.site, kLogprobTexts, rows, out);
}

}  // namespace weft::ops::cuda
