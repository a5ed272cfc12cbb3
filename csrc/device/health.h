#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>

namespace weft::device {

/// The first failure of a device. Thread-safe.
class Health {
 public:
  [[nodiscard]] const std::atomic<bool>& failed() const { return failed_; }
  [[nodiscard]] std::string message() const;
  /// Throws the failure, if there is one.
  void check() const;
  /// Keeps the first message and tells the handler; later ones are consequences and are dropped.
  void fail(const std::string& message);
  void on_failure(std::function<void(const std::string&)> handler);
  /// Runs after every first failure, before the handler: it frees host threads that sleep.
  void set_wake(std::function<void()> wake);

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> failed_{false};
  std::string message_;
  std::function<void(const std::string&)> handler_;
  std::function<void()> wake_;
};

}  // namespace weft::device
