// sample and logprobs: one block a row of logits, several passes over it (it stays in L2), no workspace.
//
// The order of falling probability is never made: weights are floats in [0, 1], whose bits rise with them, so
// the token at which a count or a mass is reached is found by a radix descent over histograms of the bits, a
// byte at a time. Masses are whole numbers (of 2^-44, less for vocabularies past 2^18), so sums are exact and
// do not depend on the order in which threads add.
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"
#include "ops/philox.h"

namespace weft::kernels {
namespace {

using ops::SamplingRow;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kBins = 256;

struct Scratch {
  unsigned long long bins[kBins];
  unsigned long long sums[kWarps];
  double reals[kWarps];
  float floats[kWarps];
  int32_t ints[kWarps];
  unsigned long long before;
  unsigned long long found;
  uint32_t prefix;
};

/// Tokens that are still in: those above `bits`, and those at `bits` up to `last_tie`.
struct Kept {
  uint32_t bits = 0;  // weight 0 is out from the start
  int32_t last_tie = -1;
  __device__ bool has(uint32_t weight_bits, int64_t id) const {
    return weight_bits > bits || (weight_bits == bits && id <= last_tie);
  }
};

/// A token by its rank: the `tie`-th (from 1) of those whose weight has these bits.
struct Place {
  uint32_t bits;
  unsigned long long tie;
};

struct Row {
  const float* logits;
  int64_t vocab;
  float maximum;
  float temperature;
  double scale;  // masses are weight * scale

  __device__ uint32_t bits(int64_t i) const {
    return __float_as_uint(expf((logits[i] - maximum) / temperature));
  }
  __device__ unsigned long long mass(uint32_t weight_bits) const {
    return static_cast<unsigned long long>(static_cast<double>(__uint_as_float(weight_bits)) * scale);
  }
};

// kMass: tokens weigh their mass, else 1.
template <bool kMass>
__device__ unsigned long long measure(const Row& row, uint32_t bits) {
  if constexpr (kMass) return row.mass(bits);
  return 1;
}

template <bool kMass>
__device__ unsigned long long total_of(const Row& row, const Kept& kept, Scratch& scratch) {
  unsigned long long sum = 0;
  for (int64_t i = threadIdx.x; i < row.vocab; i += kThreads) {
    const uint32_t bits = row.bits(i);
    if (kept.has(bits, i)) sum += measure<kMass>(row, bits);
  }
  return block_reduce(sum, scratch.sums, Sum{});
}

/// The kept token at which the sum of measures, in falling order, reaches `target`; the last one that has a
/// measure if none does.
template <bool kMass>
__device__ Place find(const Row& row, const Kept& kept, unsigned long long target, Scratch& scratch) {
  if (threadIdx.x == 0) {
    scratch.before = 0;
    scratch.prefix = 0;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < kBins) scratch.bins[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t prefix = scratch.prefix;
    for (int64_t i = threadIdx.x; i < row.vocab; i += kThreads) {
      const uint32_t bits = row.bits(i);
      if (!kept.has(bits, i) || (shift < 24 && bits >> (shift + 8) != prefix)) continue;
      const unsigned long long m = measure<kMass>(row, bits);
      if (m != 0) atomicAdd(&scratch.bins[bits >> shift & 0xffU], m);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long before = scratch.before;
      unsigned long long before_last = before;
      int bin = 0;
      for (int b = kBins - 1; b >= 0; --b) {
        if (scratch.bins[b] == 0) continue;
        bin = b;
        before_last = before;
        before += scratch.bins[b];
        if (before >= target) break;
      }
      scratch.before = before_last;
      scratch.prefix = prefix << 8 | static_cast<uint32_t>(bin);
      scratch.found = scratch.bins[bin];
    }
  }
  __syncthreads();
  const unsigned long long m = measure<kMass>(row, scratch.prefix);
  const unsigned long long missing = target > scratch.before ? target - scratch.before : 0;
  const unsigned long long ties = m == 0 ? 1 : scratch.found / m;
  unsigned long long tie = m == 0 ? 1 : (missing + m - 1) / m;
  tie = tie < 1 ? 1 : tie > ties ? ties : tie;
  return {scratch.prefix, tie};
}

/// The id of a token by its place: ties stand in order of id.
__device__ inline int32_t id_at(const Row& row, const Kept& kept, const Place& place, Scratch& scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  unsigned long long seen = 0;
  for (int64_t first = 0; first < row.vocab; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    bool is_tie = false;
    if (i < row.vocab) {
      const uint32_t bits = row.bits(i);
      is_tie = bits == place.bits && kept.has(bits, i);
    }
    const unsigned ballot = __ballot_sync(kAllLanes, is_tie);
    __syncthreads();
    if (lane == 0) scratch.ints[warp] = __popc(ballot);
    if (threadIdx.x == 0) scratch.prefix = 0;
    __syncthreads();
    unsigned long long before = seen;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += static_cast<unsigned long long>(scratch.ints[w]);
      seen += static_cast<unsigned long long>(scratch.ints[w]);
    }
    before += static_cast<unsigned long long>(__popc(ballot & ((1U << lane) - 1U)));
    if (is_tie && before + 1 == place.tie) scratch.prefix = static_cast<uint32_t>(i) + 1;
    __syncthreads();
    if (scratch.prefix != 0) break;
  }
  const auto id = static_cast<int32_t>(scratch.prefix) - 1;
  __syncthreads();
  return id;
}

__device__ inline Kept up_to(const Row& row, const Kept& kept, const Place& place, Scratch& scratch) {
  return {place.bits, id_at(row, kept, place, scratch)};
}

__device__ inline unsigned long long share_of(double share, unsigned long long total) {
  return static_cast<unsigned long long>(ceil(share * static_cast<double>(total)));
}

__device__ inline int32_t draw(const Row& row, const SamplingRow& params, Scratch& scratch) {
  Kept kept;
  if (params.top_k > 0 &&
      total_of<false>(row, kept, scratch) > static_cast<unsigned long long>(params.top_k)) {
    kept = up_to(row, kept, find<false>(row, kept, static_cast<unsigned long long>(params.top_k), scratch),
                 scratch);
  }
  if (params.top_p < 1.0F) {
    const unsigned long long target =
        share_of(static_cast<double>(params.top_p), total_of<true>(row, kept, scratch));
    kept = up_to(row, kept, find<true>(row, kept, target, scratch), scratch);
  }
  if (params.min_p > 0.0F) {
    // Keeps what is at least `least`: all above the number just below it. The largest weight is 1.
    const uint32_t below = __float_as_uint(params.min_p < 1.0F ? params.min_p : 1.0F) - 1;
    if (below >= kept.bits) kept = {below, -1};
  }
  const double random = ops::philox_uniform(params.seed, params.position);
  const unsigned long long target = share_of(random, total_of<true>(row, kept, scratch));
  return id_at(row, kept, find<true>(row, kept, target, scratch), scratch);
}

constexpr char kBadSampleRows[] = "sample: num_rows={}, but the tensors hold {} rows";

struct LogitShape {
  const int32_t* num_rows;  // device [1], or null: all
  int64_t rows;
  int64_t vocab;
  int64_t stride;
};

// True if the row of this block exists. Reports a count that cannot be.
__device__ inline bool row_exists(const OpSite& site, const char* bad_rows, const LogitShape& shape) {
  if (shape.num_rows == nullptr) return true;
  const int64_t n = *shape.num_rows;
  if ((n < 0 || n > shape.rows) && blockIdx.x == 0 && threadIdx.x == 0) fail(site, bad_rows, n, shape.rows);
  return blockIdx.x < n;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(OpSite site, const char* bad_rows, LogitShape shape, int32_t* tokens, int64_t tokens_stride,
                  const float* logits, const SamplingRow* params) {
  __shared__ Scratch scratch;
  let_next_start();
  wait_for_inputs(site);
  if (!row_exists(site, bad_rows, shape)) return;
  const float* x = logits + blockIdx.x * shape.stride;
  float maximum = -INFINITY;
  int32_t nans = 0;
  for (int64_t i = threadIdx.x; i < shape.vocab; i += kThreads) {
    nans += isnan(x[i]) ? 1 : 0;
    maximum = Max{}(x[i], maximum);
  }
  nans = block_reduce(nans, scratch.ints, Sum{});
  maximum = block_reduce(maximum, scratch.floats, Max{});
  int32_t token = -1;
  if (nans == 0 && isfinite(maximum)) {
    const SamplingRow row_params = params[blockIdx.x];
    if (row_params.temperature > 0.0F) {
      int bits_of_vocab = 0;
      while (shape.vocab >> bits_of_vocab != 0) ++bits_of_vocab;
      const int digits = 62 - bits_of_vocab < 44 ? 62 - bits_of_vocab : 44;
      const Row row{x, shape.vocab, maximum, row_params.temperature, static_cast<double>(1ULL << digits)};
      token = draw(row, row_params, scratch);
    } else {
      int32_t first = INT32_MAX;
      for (int64_t i = threadIdx.x; i < shape.vocab; i += kThreads) {
        if (x[i] == maximum) {
          first = static_cast<int32_t>(i);
          break;
        }
      }
      token = -block_reduce(-first, scratch.ints, Max{});
    }
  }
  if (threadIdx.x == 0) tokens[blockIdx.x * tokens_stride] = token;
}

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

struct Largest {
  float value;
  int32_t id;  // -1: none
};
__device__ inline bool stands_before(const Largest& a, const Largest& b) {
  if (a.id < 0 || b.id < 0) return a.id >= 0 && b.id < 0;
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/// The first token, in falling order of logit, that stands after `last`.
__device__ inline Largest next_largest(const float* x, int64_t vocab, const Largest& last, Scratch& scratch) {
  Largest best{0.0F, -1};
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const Largest here{x[i], static_cast<int32_t>(i)};
    if ((last.id < 0 || stands_before(last, here)) && stands_before(here, best)) best = here;
  }
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const Largest other{__shfl_xor_sync(kAllLanes, best.value, step),
                        __shfl_xor_sync(kAllLanes, best.id, step)};
    if (stands_before(other, best)) best = other;
  }
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) {
    scratch.floats[threadIdx.x / kWarpSize] = best.value;
    scratch.ints[threadIdx.x / kWarpSize] = best.id;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    const Largest other{scratch.floats[w], scratch.ints[w]};
    if (stands_before(other, best)) best = other;
  }
  return best;
}

__global__ void __launch_bounds__(kThreads)
    logprobs_kernel(OpSite site, LogprobTexts texts, LogitShape shape, LogprobOut out, const float* logits) {
  __shared__ Scratch scratch;
  let_next_start();
  wait_for_inputs(site);
  if (!row_exists(site, texts.bad_rows, shape)) return;
  const int64_t r = blockIdx.x;
  int32_t target = out.targets[r * out.targets_stride];
  int32_t num_top = out.num_top == nullptr ? 0 : out.num_top[r];
  if (target < -1 || target >= shape.vocab) {
    if (threadIdx.x == 0) fail(site, texts.bad_target, r, target, shape.vocab);
    target = -1;
  }
  if (num_top < 0 || num_top > out.max_top || num_top > shape.vocab) {
    if (threadIdx.x == 0) fail(site, texts.bad_num_top, r, num_top, out.max_top, shape.vocab);
    num_top = 0;
  }
  if (target < 0 && num_top == 0) return;
  const float* x = logits + r * shape.stride;
  float maximum = -INFINITY;
  for (int64_t i = threadIdx.x; i < shape.vocab; i += kThreads) maximum = Max{}(x[i], maximum);
  maximum = block_reduce(maximum, scratch.floats, Max{});
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < shape.vocab; i += kThreads)
    sum += static_cast<double>(expf(x[i] - maximum));
  sum = block_reduce(sum, scratch.reals, Sum{});
  const double log_sum = static_cast<double>(maximum) + log(sum);
  if (target >= 0 && threadIdx.x == 0) {
    out.logprobs[r * out.logprobs_stride] = static_cast<float>(static_cast<double>(x[target]) - log_sum);
  }
  Largest last{0.0F, -1};
  for (int32_t i = 0; i < num_top; ++i) {
    last = next_largest(x, shape.vocab, last, scratch);
    if (last.id < 0) break;  // only NaNs are left
    if (threadIdx.x == 0) {
      out.top_ids[r * out.top_ids_stride + i] = last.id;
      out.top_logprobs[r * out.top_logprobs_stride + i] =
          static_cast<float>(static_cast<double>(last.value) - log_sum);
    }
  }
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void sample(const SampleArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const LogitShape shape{args.num_rows, args.logits.shape[0], args.logits.shape[1], args.logits.stride[0]};
  launch<&sample_kernel>(cuda, {.grid = dim3(grid_x(shape.rows)), .block = dim3(kThreads)}, cuda.site,
                         kBadSampleRows, shape, args.tokens.as<int32_t>(), args.tokens.stride[0],
                         args.logits.as<float>(), args.params);
}

void logprobs(const LogprobArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const LogitShape shape{args.num_rows, args.logits.shape[0], args.logits.shape[1], args.logits.stride[0]};
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
  launch<&logprobs_kernel>(cuda, {.grid = dim3(grid_x(shape.rows)), .block = dim3(kThreads)}, cuda.site,
                           kLogprobTexts, shape, out, args.logits.as<float>());
}

}  // namespace weft::ops::cuda
