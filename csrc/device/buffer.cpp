#include "base/error.h"
#include "device/buffer_impl.h"

namespace weft::device {

Buffer::Buffer() = default;
Buffer::Buffer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Buffer::Buffer(Buffer&&) noexcept = default;
Buffer& Buffer::operator=(Buffer&&) noexcept = default;
Buffer::~Buffer() = default;

void* Buffer::data() const { return impl_ == nullptr ? nullptr : impl_->data; }

size_t Buffer::num_bytes() const { return impl_ == nullptr ? 0 : impl_->num_bytes; }

const std::string& Buffer::name() const {
  static const std::string kNone = "(no buffer)";
  return impl_ == nullptr ? kNone : impl_->name;
}

TensorView Buffer::view(DType dtype, std::initializer_list<int64_t> shape, size_t offset) const {
  TensorView view = make_view(nullptr, dtype, shape);
  const size_t bytes = static_cast<size_t>(view.numel()) * dtype_size(dtype);
  WEFT_CHECK(offset <= num_bytes() && bytes <= num_bytes() - offset,
             "buffer '{}' has {} bytes; {} at byte {} needs {}", name(), num_bytes(), view.describe(), offset,
             offset + bytes);
  WEFT_CHECK(offset % dtype_size(dtype) == 0, "buffer '{}': {} at byte {} is not aligned", name(),
             view.describe(), offset);
  if (impl_ != nullptr) view.data = static_cast<std::byte*>(impl_->data) + offset;
  return view;
}

}  // namespace weft::device
