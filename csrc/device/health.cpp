#include "device/health.h"

#include <utility>

#include "base/error.h"

namespace weft::device {

std::string Health::message() const {
  const std::lock_guard lock(mutex_);
  return message_;
}

void Health::check() const {
  if (failed_.load()) throw Error(message());
}

void Health::fail(const std::string& message) {
  std::function<void(const std::string&)> handler;
  std::function<void()> wake;
  {
    const std::lock_guard lock(mutex_);
    if (failed_.load()) return;
    message_ = message;
    failed_.store(true);
    handler = handler_;
    wake = wake_;
  }
  if (wake) wake();
  if (handler) handler(message);
}

void Health::on_failure(std::function<void(const std::string&)> handler) {
  const std::lock_guard lock(mutex_);
  handler_ = std::move(handler);
}

void Health::set_wake(std::function<void()> wake) {
  const std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
}

}  // namespace weft::device
