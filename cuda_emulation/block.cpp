#include "cuda_emulation/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <vector>

#include "base/error.h"

#if !defined(__x86_64__)
#error "the emulation of CUDA switches stacks by x86-64 code"
#endif

#if defined(__SANITIZE_ADDRESS__)
#define WEFT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEFT_ASAN 1
#endif
#endif
#if WEFT_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// Saves the callee-saved registers on the stack of `from`, and goes on where `to` did so.
extern "C" void weft_switch_stack(void** from, void* to);
asm(R"(
.text
.globl weft_switch_stack
.hidden weft_switch_stack
.type weft_switch_stack, @function
weft_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size weft_switch_stack, .-weft_switch_stack
)");

namespace weft::emulation {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = size_t{64} << 10;

struct Barrier {
  int live = 0;
  int arrived = 0;
  uint64_t generation = 0;

  // The last one to arrive lets all go on.
  void release_if_full() {
    if (arrived == 0 || arrived < live) return;
    arrived = 0;
    ++generation;
  }
};

struct Warp {
  Barrier barrier;
  int parity = 0;
  uint64_t parity_of = 0;  // generation
  alignas(16) std::byte slots[2][kWarp][kSlotBytes];
};

struct Fiber {
  void* stack = nullptr;  // saved stack pointer
  dim3 index;
  int block = 0;  // of the cluster
  int warp = 0;
  int lane = 0;
  uint64_t turns = 0;  // of the warp's slots
  const Barrier* waits_for = nullptr;
  uint64_t generation = 0;          // goes on when waits_for has passed it
  uint64_t cluster_generation = 0;  // in which it arrived at the cluster's barrier
  bool arrived_in_cluster = false;  // and did not wait since
  bool done = false;
};

/// The stacks of one host thread.
class Stacks {
 public:
  ~Stacks() {
    if (memory_ != nullptr) munmap(memory_, kStackBytes * kMaxThreads);
  }
  std::byte* of(size_t thread) {
    if (memory_ == nullptr) {
      void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      WEFT_CHECK(memory != MAP_FAILED, "no memory for the stacks of a block");
      memory_ = static_cast<std::byte*>(memory);
    }
    return memory_ + thread * kStackBytes;
  }
  static constexpr size_t kMaxThreads = size_t{8} * 1024;

 private:
  std::byte* memory_ = nullptr;
};

struct Block {
  dim3 index;
  std::vector<Warp> warps;
  Barrier barrier;
  std::unique_ptr<std::byte[]> shared;
};

/// Blocks that run at the same time: one, if the launch has no clusters.
struct Cluster {
  const std::function<void()>* thread = nullptr;
  std::vector<Block> blocks;
  std::vector<Fiber> fibers;
  Barrier barrier;
  void* scheduler = nullptr;  // saved stack pointer
  Fiber* current = nullptr;
  std::exception_ptr failure;
#if WEFT_ASAN
  const void* host_bottom = nullptr;
  size_t host_size = 0;
#endif

  Block& block_of(const Fiber& fiber) { return blocks[static_cast<size_t>(fiber.block)]; }
  Warp& warp_of(const Fiber& fiber) { return block_of(fiber).warps[static_cast<size_t>(fiber.warp)]; }
};
thread_local Cluster* running = nullptr;

void to_scheduler(bool for_good) {
  Cluster& cluster = *running;
#if WEFT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, cluster.host_bottom, cluster.host_size);
#else
  (void)for_good;
#endif
  weft_switch_stack(&cluster.current->stack, cluster.scheduler);
#if WEFT_ASAN
  __sanitizer_finish_switch_fiber(fake, &running->host_bottom, &running->host_size);
#endif
}

[[noreturn]] void fiber_main() {
#if WEFT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &running->host_bottom, &running->host_size);
#endif
  try {
    (*running->thread)();
  } catch (...) {
    running->failure = std::current_exception();
  }
  Fiber& self = *running->current;
  self.done = true;
  Barrier& block = running->block_of(self).barrier;
  --block.live;
  block.release_if_full();
  Barrier& warp = running->warp_of(self).barrier;
  --warp.live;
  warp.release_if_full();
  Barrier& cluster = running->barrier;
  --cluster.live;
  if (self.arrived_in_cluster && self.cluster_generation == cluster.generation) --cluster.arrived;
  cluster.release_if_full();
  to_scheduler(true);
  std::abort();
}

void resume(Cluster& cluster, Fiber& fiber, std::byte* stack_memory) {
  cluster.current = &fiber;
  threadIdx = fiber.index;
  blockIdx = cluster.block_of(fiber).index;
#if WEFT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, stack_memory, kStackBytes);
#else
  (void)stack_memory;
#endif
  weft_switch_stack(&cluster.scheduler, fiber.stack);
#if WEFT_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Until `barrier` has passed `generation`.
void wait_past(const Barrier& barrier, uint64_t generation) {
  if (barrier.generation != generation) return;
  Fiber& self = *running->current;
  self.generation = generation;
  self.waits_for = &barrier;
  to_scheduler(false);
  threadIdx = self.index;
  blockIdx = running->block_of(self).index;
}

void wait_at(Barrier& barrier) {
  const uint64_t generation = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_full();
  wait_past(barrier, generation);
}

void run_cluster(Cluster& cluster, Stacks& stacks) {
  const auto num_threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  const int num_fibers = num_threads * static_cast<int>(cluster.blocks.size());
  cluster.fibers.assign(static_cast<size_t>(num_fibers), Fiber{});
  cluster.barrier = Barrier{.live = num_fibers};
  for (Block& block : cluster.blocks) {
    block.warps = std::vector<Warp>(static_cast<size_t>((num_threads + kWarp - 1) / kWarp));
    block.barrier = Barrier{.live = num_threads};
  }
  for (int f = 0; f < num_fibers; ++f) {
    Fiber& fiber = cluster.fibers[static_cast<size_t>(f)];
    const int i = f % num_threads;
    const auto n = static_cast<unsigned>(i);
    fiber.index = dim3(n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y));
    fiber.block = f / num_threads;
    fiber.warp = i / kWarp;
    fiber.lane = i % kWarp;
    ++cluster.warp_of(fiber).barrier.live;
    // As weft_switch_stack leaves a stack: six registers, then where to return to; aligned as after a call.
    auto** top = reinterpret_cast<void**>(stacks.of(static_cast<size_t>(f)) + kStackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int r = 0; r < 6; ++r) *--top = nullptr;
    fiber.stack = top;
  }
  running = &cluster;
  int left = num_fibers;
  while (left > 0) {
    bool moved = false;
    for (size_t i = 0; i < cluster.fibers.size(); ++i) {
      Fiber& fiber = cluster.fibers[i];
      if (fiber.done) continue;
      if (fiber.waits_for != nullptr && fiber.waits_for->generation == fiber.generation) continue;
      fiber.waits_for = nullptr;
      moved = true;
      resume(cluster, fiber, stacks.of(i));
      if (fiber.done) --left;
      if (cluster.failure) {
        running = nullptr;
        std::rethrow_exception(cluster.failure);
      }
    }
    if (!moved) {
      running = nullptr;
      const dim3 first = cluster.blocks.front().index;
      WEFT_THROW("emulation: {} threads of block ({}, {}, {}) wait for barriers that not all will reach",
                 left, first.x, first.y, first.z);
    }
  }
  running = nullptr;
}

}  // namespace

void run_grid(dim3 grid, dim3 block_shape, unsigned cluster_blocks, size_t shared_bytes,
              const std::function<void()>& thread) {
  static thread_local Stacks stacks;
  WEFT_CHECK(
      grid.x > 0 && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 && block_shape.x > 0 &&
          block_shape.x * block_shape.y * block_shape.z <= 1024 && shared_bytes <= 227 * 1024 &&
          cluster_blocks >= 1 && cluster_blocks <= 8 && grid.x % cluster_blocks == 0,
      "emulation: a grid of ({}, {}, {}) blocks of ({}, {}, {}) threads with {} bytes of shared memory, {} "
      "blocks a cluster, cannot be launched",
      grid.x, grid.y, grid.z, block_shape.x, block_shape.y, block_shape.z, shared_bytes, cluster_blocks);
  gridDim = grid;
  blockDim = block_shape;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += cluster_blocks) {
        Cluster cluster;
        cluster.thread = &thread;
        cluster.blocks.resize(cluster_blocks);
        for (unsigned i = 0; i < cluster_blocks; ++i) {
          cluster.blocks[i].index = dim3(x + i, y, z);
          // New for each block, of the exact size, and full of NaN: what was not written is not there.
          cluster.blocks[i].shared = std::make_unique<std::byte[]>(shared_bytes + 16);
          std::fill_n(cluster.blocks[i].shared.get(), shared_bytes, std::byte{0xff});
        }
        run_cluster(cluster, stacks);
      }
    }
  }
}

void* dynamic_shared() { return running->block_of(*running->current).shared.get(); }

void* shared_of_block(void* shared, int rank) {
  const auto offset = static_cast<std::byte*>(shared) - static_cast<std::byte*>(dynamic_shared());
  return running->blocks.at(static_cast<size_t>(rank)).shared.get() + offset;
}

void cluster_arrive() {
  Fiber& self = *running->current;
  Barrier& barrier = running->barrier;
  WEFT_CHECK(!self.arrived_in_cluster, "emulation: a thread arrives twice at its cluster's barrier");
  self.cluster_generation = barrier.generation;
  self.arrived_in_cluster = true;
  ++barrier.arrived;
  barrier.release_if_full();
}

void cluster_wait() {
  Fiber& self = *running->current;
  WEFT_CHECK(self.arrived_in_cluster, "emulation: a thread waits at a barrier where it did not arrive");
  wait_past(running->barrier, self.cluster_generation);
  self.arrived_in_cluster = false;
}

int lane() { return running->current->lane; }

void* slot(int of) {
  const Fiber& self = *running->current;
  return running->warp_of(self).slots[self.turns % 2][of];
}

void turn() {
  Fiber& self = *running->current;
  wait_at(running->warp_of(self).barrier);
  ++self.turns;
}

void* last_slot(int of) {
  const Fiber& self = *running->current;
  return running->warp_of(self).slots[(self.turns + 1) % 2][of];
}

}  // namespace weft::emulation

void __syncthreads() {
  auto& cluster = *weft::emulation::running;
  weft::emulation::wait_at(cluster.block_of(*cluster.current).barrier);
}

void __syncwarp(unsigned) {
  auto& self = *weft::emulation::running->current;
  weft::emulation::wait_at(weft::emulation::running->warp_of(self).barrier);
}
