// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/string_format.h"

#include <string>
#include <vector>

namespace lowbit {
namespace {

struct StringFormat {
  std::string_view name;
  std::string pattern;
};

// Leap days only in leap years.
constexpr std::string_view date =
    "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    "|([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)";
constexpr std::string_view time =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
constexpr std::string_view hostname =
    "[A-Za-z0-9]{1,30}(-[A-Za-z0-9]{1,30})?(\\.[A-Za-z0-9]{1,30}(-[A-Za-z0-9]{1,30})?){0,3}";
constexpr std::string_view octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

std::string join(std::initializer_list<std::string_view> parts) {
  std::string joined = "^";
  for (const std::string_view part : parts) joined += part;
  return joined + "$";
}

const std::vector<StringFormat>& formats() {
  static const std::vector<StringFormat> list{
      {"date", join({date})},
      {"time", join({time})},
      {"date-time", join({date, "T", time})},
      {"uuid", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
      {"email", join({"[A-Za-z0-9_+-]{1,30}(\\.[A-Za-z0-9_+-]{1,30}){0,2}@", hostname,
                      "\\.[A-Za-z]{2,12}"})},
      {"hostname", join({hostname})},
      {"ipv4", join({octet, "\\.", octet, "\\.", octet, "\\.", octet})},
      {"uri", join({"[a-z][a-z0-9+.-]*:(//", hostname,
                    "(:[0-9]{1,4})?(/[A-Za-z0-9._~-]*)*"
                    "(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?|[A-Za-z0-9._~@-]+)"})},
  };
  return list;
}

}  // namespace

std::optional<std::string_view> find_string_format(std::string_view name) {
  for (const StringFormat& format : formats()) {
    if (format.name == name) return format.pattern;
  }
  return std::nullopt;
}

}  // namespace lowbit
