// SPDX-License-Identifier: Apache-2.0
// The filters are listed in two files; each shows its list here.
#pragma once

#include <span>
#include <string_view>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

struct FilterRow {
  std::string_view name;
  Value (*filter)(Runtime&, const Value& input, const Arguments&);
};

std::span<const FilterRow> scalar_filters();  // of strings, numbers and any value
std::span<const FilterRow> list_filters();

bool is_true(const Value* argument);  // absent counts as false
/// Fails if there are any arguments.
bool without_arguments(Runtime& rt, std::string_view name, const Arguments& arguments);

}  // namespace lowbit::jinja
