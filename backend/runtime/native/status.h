// Error values and the text of messages. Nothing in the player throws or aborts: what can fail returns a Status.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace zeropoint {

template <typename T> void append(std::string& text, const T& part) {
  if constexpr (std::is_integral_v<T> || std::is_enum_v<T>)
    text += std::to_string(+static_cast<std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>(part));
  else
    text += part;
}

// Strings and integers, one after the other.
template <typename... Parts> std::string cat(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

// The numbers are part of the C interface (zeropoint.h).
enum class Code : int32_t { kOk, kInvalidArgument, kInvalidProgram, kIncompatible, kOutOfMemory, kDevice, kNotFound };

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // The same error with "where: " before it.
  template <typename... Where> Status in(const Where&... where) const {
    return ok() ? Status() : Status(code_, cat(where..., ": ", message_));
  }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

template <typename... Parts> Status fail(Code code, const Parts&... parts) { return Status(code, cat(parts...)); }
template <typename... Parts> Status bad_argument(const Parts&... parts) {
  return fail(Code::kInvalidArgument, parts...);
}

// Text from a file, fit for one line of a message: unprintable bytes are replaced.
inline std::string printable(std::string_view text, size_t most = 64) {
  std::string result(text.substr(0, most));
  std::replace_if(result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > most ? result + "..." : result;
}

inline std::string hex(const uint8_t* bytes, size_t n) {
  std::string result;
  for (size_t i = 0; i < n; ++i) (result += "0123456789abcdef"[bytes[i] >> 4]) += "0123456789abcdef"[bytes[i] & 15];
  return result;
}

// A JSON string literal with quotes. Safe on untrusted bytes.
inline std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c < ' ' || c > '~' ? "\\u00" + hex(reinterpret_cast<const uint8_t*>(&c), 1) : std::string(1, c);
  }
  return result + '"';
}

// "a, b, c": the items of a list, or their texts; none of them is empty.
struct AsIs {
  template <typename T> const T& operator()(const T& item) const { return item; }
};
template <typename List, typename Text = AsIs>
std::string join(const List& list, Text text = {}, const char* separator = ", ") {
  std::string result;
  for (const auto& item : list) result += cat(result.empty() ? "" : separator, text(item));
  return result;
}

template <typename List, typename Text> std::string json_list(const List& list, Text text) {
  return cat("[", join(list, text, ","), "]");
}

#define ZP_TRY(expression)                                                               \
  do {                                                                                   \
    if (::zeropoint::Status zp_status = (expression); !zp_status.ok()) return zp_status; \
  } while (false)

}  // namespace zeropoint
