#include "comm/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/math.h"

namespace weft::comm {
namespace {

using device::ExecContext;
using plan::DispatchMode;

constexpr int64_t kAlignment = 64;

/// What peers read of a rank while it is inside dispatch or combine. Lives in the rank's device memory.
struct Exchange {
  const char* x = nullptr;
  int64_t x_row_bytes = 0;
  const int32_t* ids = nullptr;
  const float* weights = nullptr;
  int32_t* send_count = nullptr;  // [world]: rows for each rank
  int32_t* send_row = nullptr;    // [world, C]: own rows for each rank, in order
  int32_t* send_index = nullptr;  // [C, world]: place of a row among those for a rank; -1: not sent
  int32_t* recv_begin = nullptr;  // [world]: first received row of each source
  const char* out = nullptr;      // the experts' sums, [capacity, hidden]
  int64_t received = 0;
};

/// Everything an op of one rank needs; trivially copyable, all pointers to device memory that lives with it.
struct Layout {
  Exchange* exchange = nullptr;      // own
  Exchange* const* peers = nullptr;  // [world]
  char* recv_x = nullptr;
  int32_t* recv_ids = nullptr;
  float* recv_weights = nullptr;
  char* recv_out = nullptr;
  int32_t* num_rows = nullptr;
  int64_t max_rows = 0;  // of one source, in one chunk
  int64_t hidden = 0, top_k = 0, num_local_experts = 0;
  int64_t row_bytes = 0;
  int32_t world = 0, rank = 0;
  DType dtype{};
};

struct DispatchArgs {
  Layout layout;
  PeerBarrier barrier;
  TensorView x, ids, weights;
  int64_t begin = 0, end = 0;  // own rows of this chunk
  int64_t max_rows = 0;        // C of the mode
  bool fixed = false;          // low latency: a fixed place for each source
};

struct CombineArgs {
  Layout layout;
  PeerBarrier barrier;
  TensorView out;
  int64_t begin = 0, end = 0;
};

/// Lists the chunk's rows for each rank that has one of their experts.
void make_send_lists(const DispatchArgs& a) {
  const Layout& l = a.layout;
  Exchange& own = *l.exchange;
  std::fill_n(own.send_count, l.world, 0);
  const auto* ids = a.ids.as<const int32_t>();
  for (int64_t row = a.begin; row < a.end; ++row) {
    int32_t* index = own.send_index + (row - a.begin) * l.world;
    std::fill_n(index, l.world, -1);
    for (int64_t k = 0; k < l.top_k; ++k) {
      const int32_t id = ids[row * l.top_k + k];
      if (id < 0) continue;
      const auto peer = id / l.num_local_experts;
      WEFT_CHECK(peer < l.world, "dispatch: row {} names expert {}, but there are {} experts", row, id,
                 l.world * l.num_local_experts);
      if (index[peer] >= 0) continue;
      index[peer] = own.send_count[peer]++;
      own.send_row[peer * l.max_rows + index[peer]] = static_cast<int32_t>(row);
    }
  }
}

void copy_rows(const DispatchArgs& a, const Exchange& source, int64_t count, int64_t first) {
  const Layout& l = a.layout;
  const auto first_expert = static_cast<int32_t>(l.rank * l.num_local_experts);
  for (int64_t j = 0; j < count; ++j) {
    const int64_t row = source.send_row[l.rank * l.max_rows + j];
    std::memcpy(l.recv_x + (first + j) * l.row_bytes, source.x + row * source.x_row_bytes,
                static_cast<size_t>(l.row_bytes));
    for (int64_t k = 0; k < l.top_k; ++k) {
      const int32_t local = source.ids[row * l.top_k + k] - first_expert;
      const bool here = local >= 0 && local < l.num_local_experts;
      l.recv_ids[(first + j) * l.top_k + k] = here ? local : -1;
      l.recv_weights[(first + j) * l.top_k + k] = here ? source.weights[row * l.top_k + k] : 0.0F;
    }
  }
}

void dispatch_op(const DispatchArgs& a, ExecContext&) {
  const Layout& l = a.layout;
  Exchange& own = *l.exchange;
  make_send_lists(a);
  own.x = a.x.as<const char>();
  own.x_row_bytes = a.x.stride[0] * static_cast<int64_t>(dtype_size(a.x.dtype));
  own.ids = a.ids.as<const int32_t>();
  own.weights = a.weights.as<const float>();
  const int64_t num_bytes = l.world * a.max_rows * l.row_bytes;
  a.barrier.wait(a.barrier.state, a.barrier.rank, "dispatch", num_bytes);
  int64_t total = 0;
  for (int32_t s = 0; s < l.world; ++s) {
    const Exchange& source = *l.peers[s];
    const int64_t count = source.send_count[l.rank];
    WEFT_CHECK(count <= a.max_rows,
               "dispatch: rank {} sends {} rows to rank {}, more than the capacity of {}", s, count, l.rank,
               a.max_rows);
    const int64_t first = a.fixed ? s * a.max_rows : total;
    l.exchange->recv_begin[s] = static_cast<int32_t>(first);
    copy_rows(a, source, count, first);
    if (a.fixed) {
      std::fill_n(l.recv_ids + (first + count) * l.top_k, (a.max_rows - count) * l.top_k, -1);
    }
    total += count;
  }
  *l.num_rows = static_cast<int32_t>(total);
  std::atomic_ref<int64_t>(own.received).fetch_add(total, std::memory_order_relaxed);
  // Peers may still read this rank's rows.
  a.barrier.wait(a.barrier.state, a.barrier.rank, "dispatch", num_bytes);
}

float load(const char* row, int64_t column, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return reinterpret_cast<const float*>(row)[column];
    case DType::kBF16:
      return to_f32(reinterpret_cast<const bf16*>(row)[column]);
    default:
      return to_f32(reinterpret_cast<const f16*>(row)[column]);
  }
}

void store(char* row, int64_t column, DType dtype, float value) {
  switch (dtype) {
    case DType::kF32:
      reinterpret_cast<float*>(row)[column] = value;
      break;
    case DType::kBF16:
      reinterpret_cast<bf16*>(row)[column] = to_bf16(value);
      break;
    default:
      reinterpret_cast<f16*>(row)[column] = to_f16(value);
  }
}

void combine_op(const CombineArgs& a, ExecContext&) {
  const Layout& l = a.layout;
  l.exchange->out = l.recv_out;
  const int64_t num_bytes = l.world * l.max_rows * l.row_bytes;
  a.barrier.wait(a.barrier.state, a.barrier.rank, "combine", num_bytes);
  std::vector<float> sum(static_cast<size_t>(l.hidden));
  const int64_t out_row_bytes = a.out.stride[0] * static_cast<int64_t>(dtype_size(l.dtype));
  for (int64_t row = a.begin; row < a.end; ++row) {
    std::fill(sum.begin(), sum.end(), 0.0F);
    for (int32_t p = 0; p < l.world; ++p) {
      const int32_t index = l.exchange->send_index[(row - a.begin) * l.world + p];
      if (index < 0) continue;
      const Exchange& peer = *l.peers[p];
      const char* from = peer.out + (peer.recv_begin[l.rank] + index) * l.row_bytes;
      for (int64_t c = 0; c < l.hidden; ++c) sum[static_cast<size_t>(c)] += load(from, c, l.dtype);
    }
    char* to = a.out.as<char>() + row * out_row_bytes;
    for (int64_t c = 0; c < l.hidden; ++c) store(to, c, l.dtype, sum[static_cast<size_t>(c)]);
  }
  a.barrier.wait(a.barrier.state, a.barrier.rank, "combine", num_bytes);
}

/// Cuts a rank's memory. With a null base it only measures.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    auto* result = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), kAlignment);
    return result;
  }
  [[nodiscard]] int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

struct Memory {
  Layout layout;
  Exchange* exchange = nullptr;
  Exchange** peers = nullptr;
  Exchange initial;
  DispatchBytes num_bytes;
};

Memory carve(const DispatchConfig& config, int world, void* control, void* row_memory) {
  Carver carver(control);
  Carver row_carver(row_memory);
  Memory m;
  const int64_t rows = std::max(config.normal_rows, config.low_latency_rows);
  const int64_t capacity = rows * world;
  const int64_t row_bytes = config.hidden * static_cast<int64_t>(dtype_size(config.dtype));
  m.exchange = carver.take<Exchange>(1);
  m.peers = carver.take<Exchange*>(world);
  m.initial.send_count = carver.take<int32_t>(world);
  m.initial.send_row = carver.take<int32_t>(world * rows);
  m.initial.send_index = carver.take<int32_t>(rows * world);
  m.initial.recv_begin = carver.take<int32_t>(world);
  m.layout.num_rows = carver.take<int32_t>(1);
  m.layout.recv_ids = row_carver.take<int32_t>(capacity * config.top_k);
  m.layout.recv_weights = row_carver.take<float>(capacity * config.top_k);
  m.layout.recv_x = row_carver.take<char>(capacity * row_bytes);
  m.layout.recv_out = row_carver.take<char>(capacity * row_bytes);
  m.layout.exchange = m.exchange;
  m.layout.peers = m.peers;
  m.layout.max_rows = rows;
  m.layout.hidden = config.hidden;
  m.layout.top_k = config.top_k;
  m.layout.num_local_experts = config.num_local_experts;
  m.layout.row_bytes = row_bytes;
  m.layout.world = world;
  m.layout.dtype = config.dtype;
  m.num_bytes = {carver.used(), row_carver.used()};
  return m;
}

class LocalDispatcher final : public Dispatcher {
 public:
  LocalDispatcher(const DispatchConfig& config, Communicator& communicator, void* control, void* rows)
      : config_(config), barrier_(communicator.peer_barrier()) {
    auto m = carve(config, communicator.size(), control, rows);
    m.layout.rank = communicator.rank();
    *m.exchange = m.initial;
    const auto peers = communicator.exchange_pointers(m.exchange);
    for (size_t p = 0; p < peers.size(); ++p) m.peers[p] = static_cast<Exchange*>(peers[p]);
    layout_ = m.layout;
    control_ = device::make_view(control, DType::kU8, {m.num_bytes.control});
    rows_ = device::make_view(rows, DType::kU8, {m.num_bytes.rows});
  }

  ReceivedRows dispatch(Stream& stream, DispatchMode mode, int64_t chunk, const SendRows& rows) override {
    const bool fixed = mode == DispatchMode::kLowLatency;
    const int64_t max_rows = fixed ? config_.low_latency_rows : config_.normal_rows;
    const int64_t num_rows = rows.x.shape[0];
    WEFT_CHECK(rows.x.dtype == config_.dtype && rows.x.shape[1] == config_.hidden &&
                   rows.ids.is_contiguous() && rows.weights.is_contiguous() &&
                   rows.ids.shape[0] == num_rows && rows.ids.shape[1] == config_.top_k &&
                   rows.weights.shape[0] == num_rows,
               "dispatch: x {}, ids {}, weights {} do not fit hidden={} top_k={}", rows.x.describe(),
               rows.ids.describe(), rows.weights.describe(), config_.hidden, config_.top_k);
    const DispatchArgs args{.layout = layout_,
                            .barrier = barrier_,
                            .x = rows.x,
                            .ids = rows.ids,
                            .weights = rows.weights,
                            .begin = std::min(chunk * max_rows, num_rows),
                            .end = std::min((chunk + 1) * max_rows, num_rows),
                            .max_rows = max_rows,
                            .fixed = fixed};
    stream.launch("dispatch", dispatch_op, args,
                  {device::read(rows.x), device::read(rows.ids), device::read(rows.weights),
                   device::write(control_), device::write(rows_)},
                  device::OpKind::kCollective);
    const int64_t capacity = max_rows * layout_.world;
    return {.x = device::make_view(layout_.recv_x, config_.dtype, {capacity, config_.hidden}),
            .ids = device::make_view(layout_.recv_ids, DType::kI32, {capacity, config_.top_k}),
            .weights = device::make_view(layout_.recv_weights, DType::kF32, {capacity, config_.top_k}),
            .out = device::make_view(layout_.recv_out, config_.dtype, {capacity, config_.hidden}),
            .num_rows = fixed ? nullptr : layout_.num_rows,
            .masked = fixed};
  }

  void combine(Stream& stream, DispatchMode mode, int64_t chunk, const SendRows& rows,
               const TensorView& out) override {
    const int64_t max_rows =
        mode == DispatchMode::kLowLatency ? config_.low_latency_rows : config_.normal_rows;
    const int64_t num_rows = rows.x.shape[0];
    const int64_t begin = std::min(chunk * max_rows, num_rows);
    const int64_t end = std::min((chunk + 1) * max_rows, num_rows);
    const CombineArgs args{.layout = layout_, .barrier = barrier_, .out = out, .begin = begin, .end = end};
    stream.launch("combine", combine_op, args,
                  {device::write(control_), device::read(rows_), device::write(out.rows(begin, end - begin))},
                  device::OpKind::kCollective);
  }

  [[nodiscard]] int64_t received_rows() const override {
    return std::atomic_ref<int64_t>(layout_.exchange->received).load(std::memory_order_relaxed);
  }

 private:
  DispatchConfig config_;
  PeerBarrier barrier_;
  Layout layout_;
  TensorView control_, rows_;
};

}  // namespace

DispatchBytes dispatch_bytes(const DispatchConfig& config, int world_size) {
  return carve(config, world_size, nullptr, nullptr).num_bytes;
}

std::unique_ptr<Dispatcher> make_dispatcher(const DispatchConfig& config, Communicator& communicator,
                                            void* control, void* rows) {
  return std::make_unique<LocalDispatcher>(config, communicator, control, rows);
}

}  // namespace weft::comm
