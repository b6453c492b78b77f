// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/api_keys.h"

#include <algorithm>

#include <fmt/format.h>

#include "lowbit/base/text_file.h"

namespace lowbit {
namespace {

constexpr std::string_view scheme = "Bearer ";

/// Looks at every byte of `given` whatever the key is, so that time tells nothing of where they
/// differ.
bool is_equal(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const auto theirs = static_cast<unsigned char>(given[i]);
    const auto ours = static_cast<unsigned char>(key[i % key.size()]);
    difference |= static_cast<unsigned>(theirs ^ ours);
    asm volatile("" : "+r"(difference));  // the compiler may not end the loop early
  }
  return difference == 0;
}

bool is_printable(std::string_view key) {
  return std::ranges::all_of(key, [](char c) { return c > ' ' && c < '\x7f'; });
}

}  // namespace

Result<ApiKeys> ApiKeys::load(const std::string& path, std::vector<std::string> more) {
  ApiKeys keys;
  keys.keys_ = std::move(more);
  if (!path.empty()) {
    const auto text = read_text(path);
    if (!text) return Error(text.error()).in("API keys");
    std::string_view rest = *text;
    while (!rest.empty()) {
      const std::size_t n_bytes = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, n_bytes);
      rest.remove_prefix(std::min(n_bytes + 1, rest.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.empty() && line.front() != '#') keys.keys_.emplace_back(line);
    }
    if (keys.keys_.empty()) {
      return Error(fmt::format("API keys: {} holds none; write one a line", path));
    }
  }
  for (const std::string& key : keys.keys_) {
    if (key.empty() || !is_printable(key)) {
      return Error("API keys: a key must be printable ASCII without spaces");
    }
  }
  return keys;
}

std::string ApiKeys::cache_salt(std::string_view authorization) const {
  if (keys_.empty() || !authorization.starts_with(scheme)) return "";
  return std::string(authorization.substr(scheme.size()));
}

bool ApiKeys::allow(std::string_view authorization) const {
  if (keys_.empty()) return true;
  if (!authorization.starts_with(scheme)) return false;
  const std::string_view given = authorization.substr(scheme.size());
  bool is_allowed = false;
  for (const std::string& key : keys_) is_allowed |= is_equal(given, key);
  return is_allowed;
}

}  // namespace lowbit
