// Error values. Nothing in the player throws or aborts: whatever can fail returns a Status.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace zeropoint {

// The numbers are part of the C interface (zeropoint.h).
enum class Code : int32_t {
  kOk = 0,
  kInvalidArgument = 1,
  kInvalidProgram = 2,
  kIncompatible = 3,
  kOutOfMemory = 4,
  kDevice = 5,
  kNotFound = 6,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // The same error with "where: " before it.
  Status in(const std::string& where) const {
    return ok() ? Status() : Status(code_, where + ": " + message_);
  }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

__attribute__((format(printf, 1, 2))) std::string format(const char* text, ...);
__attribute__((format(printf, 2, 3))) Status fail(Code code, const char* text, ...);

// Text from a file, fit for one line of a message: at most 64 bytes, unprintable ones replaced.
std::string printable(std::string_view text);

// A JSON string literal with quotes. Safe on untrusted bytes.
std::string json_string(std::string_view text);

#define ZP_TRY(expression)                                                               \
  do {                                                                                   \
    if (::zeropoint::Status zp_status = (expression); !zp_status.ok()) return zp_status; \
  } while (false)

}  // namespace zeropoint
