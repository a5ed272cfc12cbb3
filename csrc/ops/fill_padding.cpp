#include "ops/fill_padding.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {

void fill_padding(Stream& stream, const FillPaddingArgs& args) {
  WEFT_CHECK(args.x.rank == 2, "fill_padding: x is {}, expected two dimensions", args.x.describe());
  if (args.x.numel() == 0) return;
  stream.launch("fill_padding", WEFT_KERNEL(stream, fill_padding), args,
                {device::write(args.x), device::read(args.num_rows, 4)});
}

}  // namespace weft::ops
