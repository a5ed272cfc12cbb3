#pragma once

#include <array>
#include <cstdint>

#include "comm/local/local_communicator.h"
#include "device/device.h"

/// What a collective does when its op runs. Every function returns only after all ranks are done with this
/// rank's memory.
namespace weft::comm::local {

struct CollectiveArgs {
  Group* group;
  int32_t rank;
  int32_t root;
  DType dtype;
  int64_t count;  // elements of the part that is equal on all ranks; see each function
  const void* in;
  void* out;
};

/// The same with rows of unequal number.
struct CollectiveVArgs {
  CollectiveArgs base;
  int64_t row_elements;
  std::array<int64_t, kMaxGroupSize> rows;
};

/// count: of in and of out.
void run_all_reduce(const CollectiveArgs& args, device::ExecContext& context);
/// count: of out.
void run_reduce_scatter(const CollectiveArgs& args, device::ExecContext& context);
/// count: of all rows.
void run_reduce_scatter_v(const CollectiveVArgs& args, device::ExecContext& context);
/// count: of in.
void run_all_gather(const CollectiveArgs& args, device::ExecContext& context);
/// count: of all rows.
void run_all_gather_v(const CollectiveVArgs& args, device::ExecContext& context);
/// count: of one slice.
void run_all_to_all(const CollectiveArgs& args, device::ExecContext& context);
/// count: of in, which is out.
void run_broadcast(const CollectiveArgs& args, device::ExecContext& context);
void run_barrier(const CollectiveArgs& args, device::ExecContext& context);

}  // namespace weft::comm::local
