#include "ops/token_feed.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/cpu/token_feed.h"
#include "ops/localize.h"

namespace weft::ops {
void fill_padding(Stream& stream, const FillPaddingArgs& args) {
  WEFT_CHECK(args.x.rank == 2, "fill_padding: x is {}, expected two dimensions", args.x.describe());
  if (args.x.numel() == 0) return;
  stream.launch("fill_padding", WEFT_KERNEL(stream, fill_padding), args,
                {device::write(args.x), device::read(args.num_rows, 4)});
}

void localize_experts(Stream& stream, const LocalizeArgs& args) {
  WEFT_CHECK(args.out.dtype == DType::kI32 && args.ids.dtype == DType::kI32 && args.out.is_contiguous() &&
                 args.ids.is_contiguous() && args.out.numel() == args.ids.numel(),
             "localize_experts: out is {}, ids is {}; expected contiguous i32 of one shape",
             args.out.describe(), args.ids.describe());
  if (args.out.numel() == 0) return;
  stream.launch("localize_experts", WEFT_KERNEL(stream, localize_experts), args,
                {device::write(args.out), device::read(args.ids)});
}

}  // namespace weft::ops
