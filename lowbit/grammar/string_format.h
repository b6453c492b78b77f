// SPDX-License-Identifier: Apache-2.0
// The formats of strings that can be held while generating, as patterns. They are narrower than
// the standards where those are wide (a four-digit year, no quoted part in an e-mail address): what
// they accept is accepted by everyone.
#pragma once

#include <optional>
#include <string_view>

namespace lowbit {

/// The pattern of a format (pattern.h), anchored; nothing if it is not supported.
std::optional<std::string_view> find_string_format(std::string_view name);

}  // namespace lowbit
