// SPDX-License-Identifier: Apache-2.0
// Who may ask: keys from a file, one a line, that can be read again while the server runs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

class ApiKeys {
 public:
  /// Nothing given: everyone may ask.
  ApiKeys() = default;
  /// path "": none. Lines that are empty or begin with # are left out. Errors: unreadable file, a
  /// file without a key, a key that no header can carry.
  static Result<ApiKeys> load(const std::string& path, std::vector<std::string> more = {});

  bool are_needed() const { return !keys_.empty(); }
  /// authorization: the header's value. Takes equally long for every wrong key of a length.
  bool allow(std::string_view authorization) const;
  /// What keeps the cached prompts of one key from those of another: an allowed key itself; ""
  /// where everyone may ask.
  std::string cache_salt(std::string_view authorization) const;

 private:
  std::vector<std::string> keys_;
};

}  // namespace lowbit
