#include "tests_cpp/support/cuda_emulation/block.h"

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
  int warp = 0;
  int lane = 0;
  uint64_t turns = 0;  // of the warp's slots
  const Barrier* waits_for = nullptr;
  uint64_t generation = 0;  // goes on when waits_for has passed it
  uint64_t cluster_arrivals = 0;
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
  static constexpr size_t kMaxThreads = 16 * 1024;  // of a cluster

 private:
  std::byte* memory_ = nullptr;
};

struct Cluster;

struct Block {
  const std::function<void()>* thread = nullptr;
  Cluster* cluster = nullptr;
  dim3 index;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  void* scheduler = nullptr;  // saved stack pointer
  Fiber* current = nullptr;
  std::byte* shared = nullptr;
  std::exception_ptr failure;
#if WEFT_ASAN
  const void* host_bottom = nullptr;
  size_t host_size = 0;
#endif
};
thread_local Block* running = nullptr;

/// Blocks that run at the same time.
struct Cluster {
  std::vector<Block> blocks;
  Barrier barrier;
};

void to_scheduler(bool for_good) {
  Block& block = *running;
#if WEFT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, block.host_bottom, block.host_size);
#else
  (void)for_good;
#endif
  weft_switch_stack(&block.current->stack, block.scheduler);
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
  Block& block = *running;
  --block.barrier.live;
  block.barrier.release_if_full();
  Barrier& warp = block.warps[static_cast<size_t>(self.warp)].barrier;
  --warp.live;
  warp.release_if_full();
  Barrier& cluster = block.cluster->barrier;
  --cluster.live;
  if (self.cluster_arrivals > cluster.generation) --cluster.arrived;
  cluster.release_if_full();
  to_scheduler(true);
  std::abort();
}

void resume(Block& block, Fiber& fiber, std::byte* stack_memory) {
  running = &block;
  block.current = &fiber;
  blockIdx = block.index;
  threadIdx = fiber.index;
#if WEFT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, stack_memory, kStackBytes);
#else
  (void)stack_memory;
#endif
  weft_switch_stack(&block.scheduler, fiber.stack);
#if WEFT_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void wait_at(Barrier& barrier) {
  Fiber& self = *running->current;
  self.generation = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_full();
  if (barrier.generation != self.generation) return;
  self.waits_for = &barrier;
  to_scheduler(false);
  threadIdx = self.index;
}

/// The threads of `block`, not yet begun; its stacks are those from first_stack on.
void prepare(Block& block, Stacks& stacks, size_t first_stack) {
  const auto num_threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  block.fibers.assign(static_cast<size_t>(num_threads), Fiber{});
  block.warps = std::vector<Warp>(static_cast<size_t>((num_threads + kWarp - 1) / kWarp));
  block.barrier = Barrier{.live = num_threads};
  for (int i = 0; i < num_threads; ++i) {
    Fiber& fiber = block.fibers[static_cast<size_t>(i)];
    const auto n = static_cast<unsigned>(i);
    fiber.index = dim3(n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y));
    fiber.warp = i / kWarp;
    fiber.lane = i % kWarp;
    ++block.warps[static_cast<size_t>(fiber.warp)].barrier.live;
    // As weft_switch_stack leaves a stack: six registers, then where to return to; aligned as after a call.
    auto** top = reinterpret_cast<void**>(stacks.of(first_stack + static_cast<size_t>(i)) + kStackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int r = 0; r < 6; ++r) *--top = nullptr;
    fiber.stack = top;
  }
}

/// Runs the threads of `block` that can go on. True if there were any.
bool run_some(Block& block, Stacks& stacks, size_t first_stack, int& left) {
  bool moved = false;
  for (size_t i = 0; i < block.fibers.size(); ++i) {
    Fiber& fiber = block.fibers[i];
    if (fiber.done) continue;
    if (fiber.waits_for != nullptr && fiber.waits_for->generation == fiber.generation) continue;
    fiber.waits_for = nullptr;
    moved = true;
    resume(block, fiber, stacks.of(first_stack + i));
    if (fiber.done) --left;
    if (block.failure) {
      running = nullptr;
      std::rethrow_exception(block.failure);
    }
  }
  return moved;
}

void run_cluster(Cluster& cluster, Stacks& stacks) {
  const size_t num_threads = size_t{blockDim.x} * blockDim.y * blockDim.z;
  auto left = static_cast<int>(num_threads * cluster.blocks.size());
  cluster.barrier = Barrier{.live = left};
  for (size_t b = 0; b < cluster.blocks.size(); ++b) prepare(cluster.blocks[b], stacks, b * num_threads);
  while (left > 0) {
    bool moved = false;
    for (size_t b = 0; b < cluster.blocks.size(); ++b)
      moved |= run_some(cluster.blocks[b], stacks, b * num_threads, left);
    if (!moved) {
      running = nullptr;
      WEFT_THROW("emulation: {} threads of block ({}, {}, {}) wait for barriers that not all will reach",
                 left, blockIdx.x, blockIdx.y, blockIdx.z);
    }
  }
  running = nullptr;
}

}  // namespace

void run_grid(dim3 grid, dim3 block_shape, unsigned cluster_size, size_t shared_bytes,
              const std::function<void()>& thread) {
  static thread_local Stacks stacks;
  WEFT_CHECK(grid.x > 0 && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 &&
                 block_shape.x > 0 && block_shape.x * block_shape.y * block_shape.z <= 1024 &&
                 shared_bytes <= 227 * 1024 && cluster_size > 0 && cluster_size <= 8 &&
                 grid.x % cluster_size == 0,
             "emulation: a grid of ({}, {}, {}) blocks, {} a cluster, of ({}, {}, {}) threads with {} bytes "
             "of shared "
             "memory cannot be launched",
             grid.x, grid.y, grid.z, cluster_size, block_shape.x, block_shape.y, block_shape.z, shared_bytes);
  gridDim = grid;
  blockDim = block_shape;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += cluster_size) {
        Cluster cluster;
        cluster.blocks.resize(cluster_size);
        std::vector<std::unique_ptr<std::byte[]>> shared;
        for (unsigned b = 0; b < cluster_size; ++b) {
          // New for each block, of the exact size, and full of NaN: what was not written is not there.
          shared.push_back(std::make_unique<std::byte[]>(shared_bytes + 16));
          std::fill_n(shared.back().get(), shared_bytes, std::byte{0xff});
          Block& block = cluster.blocks[b];
          block.thread = &thread;
          block.cluster = &cluster;
          block.index = dim3(x + b, y, z);
          block.shared = shared.back().get();
        }
        run_cluster(cluster, stacks);
      }
    }
  }
}

void* dynamic_shared() { return running->shared; }

void* shared_of_block(const void* shared, int rank) {
  const auto offset = static_cast<const std::byte*>(shared) - running->shared;
  return running->cluster->blocks[static_cast<size_t>(rank)].shared + offset;
}

void cluster_arrive() {
  Barrier& barrier = running->cluster->barrier;
  running->current->cluster_arrivals = barrier.generation + 1;
  ++barrier.arrived;
  barrier.release_if_full();
}

void cluster_wait() {
  const Barrier& barrier = running->cluster->barrier;
  Fiber& self = *running->current;
  if (barrier.generation >= self.cluster_arrivals) return;
  self.waits_for = &barrier;
  self.generation = barrier.generation;
  to_scheduler(false);
}

int lane() { return running->current->lane; }

void* slot(int of) {
  const Fiber& self = *running->current;
  return running->warps[static_cast<size_t>(self.warp)].slots[self.turns % 2][of];
}

void turn() {
  Fiber& self = *running->current;
  wait_at(running->warps[static_cast<size_t>(self.warp)].barrier);
  ++self.turns;
}

void* last_slot(int of) {
  const Fiber& self = *running->current;
  return running->warps[static_cast<size_t>(self.warp)].slots[(self.turns + 1) % 2][of];
}

}  // namespace weft::emulation

void __syncthreads() { weft::emulation::wait_at(weft::emulation::running->barrier); }

void __syncwarp(unsigned) {
  auto& self = *weft::emulation::running->current;
  weft::emulation::wait_at(weft::emulation::running->warps[static_cast<size_t>(self.warp)].barrier);
}
