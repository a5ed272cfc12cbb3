#pragma once

#include <string>

#include "base/error.h"

namespace weft::test {

/// What the Error says that `function` throws; "no error" if it returns.
template <class Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace weft::test
