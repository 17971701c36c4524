#include "status.h"

#include <algorithm>
#include <cstdio>

namespace zeropoint {
namespace {

std::string format_list(const char* text, va_list arguments) {
  va_list copy;
  va_copy(copy, arguments);
  int length = std::vsnprintf(nullptr, 0, text, copy);
  va_end(copy);
  std::string result(length > 0 ? static_cast<size_t>(length) : 0, '\0');
  if (length > 0) std::vsnprintf(result.data(), result.size() + 1, text, arguments);
  return result;
}

}  // namespace

std::string format(const char* text, ...) {
  va_list arguments;
  va_start(arguments, text);
  std::string result = format_list(text, arguments);
  va_end(arguments);
  return result;
}

Status fail(Code code, const char* text, ...) {
  va_list arguments;
  va_start(arguments, text);
  Status result(code, format_list(text, arguments));
  va_end(arguments);
  return result;
}

std::string printable(std::string_view text) {
  std::string result(text.substr(0, 64));
  std::replace_if(result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > 64 ? result + "..." : result;
}

std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (c < ' ' || c > '~') {
      result += format("\\u%04x", static_cast<unsigned char>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

}  // namespace zeropoint
