// Paddle's errors, which become Python's: InvalidArgument ValueError, ResourceExhausted
// MemoryError, External OSError, Unimplemented NotImplementedError. Any other that leaves a kernel
// ends the process.
#pragma once

#include <string>

#if PADDLE_DCN_PADDLE_MAJOR >= 3
#include "paddle/common/enforce.h"
#else
#include "paddle/phi/core/enforce.h"
#endif

namespace dcn {
namespace binding {

#if PADDLE_DCN_PADDLE_MAJOR >= 3
using PaddleError = common::enforce::EnforceNotMet;
#else
using PaddleError = phi::enforce::EnforceNotMet;
#endif

[[noreturn]] inline void throw_value_error(const std::string& message) {
  PADDLE_THROW(phi::errors::InvalidArgument("%s", message));
}

[[noreturn]] inline void throw_type_error(const std::string& message) {
#if PADDLE_DCN_PADDLE_MAJOR >= 3
  PADDLE_THROW(phi::errors::InvalidType("%s", message));
#else
  throw_value_error(message);  // Paddle 2 has no TypeError
#endif
}

}  // namespace binding
}  // namespace dcn
