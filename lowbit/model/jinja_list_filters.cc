// SPDX-License-Identifier: Apache-2.0
// The filters of lists and dicts. Those that give a generator in jinja2 give one here: it can be
// walked once, has no length and is always true.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "lowbit/model/jinja_filters.h"

namespace lowbit::jinja {

namespace {

Value length(Runtime& rt, const Value& input, const Arguments& arguments) {
  return without_arguments(rt, "length", arguments) ? rt.length(input) : Value();
}

Value to_list(Runtime& rt, const Value& input, const Arguments& arguments) {
  return without_arguments(rt, "list", arguments) ? rt.list(rt.iterate(input)) : Value();
}

Value first(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "first", arguments)) return {};
  if (const List* list = input.list()) {
    const std::size_t i = list->kind == ListKind::generator ? list->n_consumed++ : 0;
    if (i < list->items.size()) return list->items[i];
    list->n_consumed = list->items.size();
  } else if (input.text() && !input.text()->empty()) {
    return rt.item(input, std::int64_t{0});
  } else {
    const std::vector<Value> items = rt.iterate(input);
    if (!items.empty()) return items[0];
  }
  return rt.undefined("there is no first item, the sequence is empty");
}

Value last(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "last", arguments)) return {};
  if (const List* list = input.list()) {
    if (!list->sized()) return rt.fail("a generator has no last item: make it a list first");
    if (!list->items.empty()) return list->items.back();
  } else if (input.text() && !input.text()->empty()) {
    return rt.item(input, std::int64_t{-1});
  } else {
    const std::vector<Value> items = rt.iterate(input);
    if (!items.empty()) return items.back();
  }
  return rt.undefined("there is no last item, the sequence is empty");
}

Value reverse(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "reverse", arguments)) return {};
  const Value none = None{};
  if (input.text()) return rt.slice(input, none, none, std::int64_t{-1});
  std::vector<Value> items = rt.iterate(input);
  std::reverse(items.begin(), items.end());
  const bool was_generator = input.list() && !input.list()->sized();
  return rt.list(std::move(items), was_generator ? ListKind::list : ListKind::generator);
}

Value dict_items(Runtime& rt, const Dict& dict, ListKind kind) {
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    if (rt.failed()) return {};
    items.push_back(rt.list({key, value}, ListKind::tuple));
  }
  return rt.list(std::move(items), kind);
}

Value items(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "items", arguments)) return {};
  if (input.is_undefined()) return rt.list({}, ListKind::generator);
  if (!input.dict()) return rt.fail(fmt::format("items needs a dict, not a {}", input.type_name()));
  return dict_items(rt, *input.dict(), ListKind::generator);
}

Value fold_case(Runtime& rt, const Value& value, bool case_sensitive) {
  return value.text() && !case_sensitive ? rt.text(map_case(*value.text(), Case::lower)) : value;
}

/// Sorts by keys in Python's way: stable, also in reverse.
std::vector<Value> sorted(Runtime& rt, std::vector<Value> values, const std::vector<Value>& keys,
                          bool descending) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::vector<std::size_t> buffer(order.size());
  // A merge sort of our own: std::stable_sort may misbehave when less() is no order, as with NaN.
  for (std::size_t width = 1; width < order.size() && !rt.failed(); width *= 2) {
    for (std::size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const std::size_t middle = std::min(begin + width, order.size()),
                        end = std::min(begin + 2 * width, order.size());
      std::size_t i = begin, k = middle;
      for (std::size_t out = begin; out < end; ++out) {
        const bool take_right =
            k < end && (i == middle || (descending ? rt.less(keys[order[i]], keys[order[k]])
                                                   : rt.less(keys[order[k]], keys[order[i]])));
        buffer[out] = take_right ? order[k++] : order[i++];
      }
    }
    order.swap(buffer);
  }
  std::vector<Value> result;
  for (std::size_t i : order) result.push_back(std::move(values[i]));
  return result;
}

Value sort(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("sort", arguments, Names<3>{"reverse", "case_sensitive", "attribute"}, 0, a))
    return {};
  std::vector<Value> values = rt.iterate(input), keys;
  std::vector<Value> paths;
  if (a[2] && a[2]->text()) {
    for (const Text& path : split(*a[2]->text(), ",", -1)) paths.push_back(rt.text(path));
  }
  for (const Value& value : values) {
    if (rt.failed()) return {};
    if (paths.empty()) {
      keys.push_back(fold_case(rt, rt.item_path(value, a[2]), is_true(a[1])));
      continue;
    }
    std::vector<Value> parts;
    for (const Value& path : paths)
      parts.push_back(fold_case(rt, rt.item_path(value, &path), is_true(a[1])));
    keys.push_back(rt.list(std::move(parts)));
  }
  return rt.list(sorted(rt, std::move(values), keys, is_true(a[0])));
}

Value dict_sort(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("dictsort", arguments, Names<3>{"case_sensitive", "by", "reverse"}, 0, a)) return {};
  const std::string by = a[1] ? rt.str(*a[1]).bytes() : "key";
  if (by != "key" && by != "value") return rt.fail("dictsort can only sort by 'key' or 'value'");
  if (input.is_undefined()) return rt.attribute(input, "items");
  if (!input.dict())
    return rt.fail(fmt::format("dictsort needs a dict, not a {}", input.type_name()));
  const Value pairs = dict_items(rt, *input.dict(), ListKind::list);
  if (rt.failed()) return {};
  std::vector<Value> keys;
  for (const auto& [key, value] : input.dict()->entries) {
    keys.push_back(fold_case(rt, by == "key" ? key : value, is_true(a[0])));
  }
  return rt.list(sorted(rt, pairs.list()->items, keys, is_true(a[2])));
}

Value unique(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("unique", arguments, Names<2>{"case_sensitive", "attribute"}, 0, a)) return {};
  std::unordered_set<std::string> seen;
  std::vector<Value> kept;
  for (const Value& value : rt.iterate(input)) {
    if (rt.failed()) return {};
    const auto key = hash_key(fold_case(rt, rt.item_path(value, a[1]), is_true(a[0])));
    if (!key) return rt.fail(fmt::format("unique: a {} cannot be hashed", value.type_name()));
    if (seen.insert(*key).second) kept.push_back(value);
  }
  return rt.list(std::move(kept), ListKind::generator);
}

template <bool want_max>
Value extreme(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind(want_max ? "max" : "min", arguments, Names<2>{"case_sensitive", "attribute"}, 0, a))
    return {};
  Value best, best_key;
  bool first = true;
  for (const Value& value : rt.iterate(input)) {
    if (rt.failed()) return {};
    Value key = fold_case(rt, rt.item_path(value, a[1]), is_true(a[0]));
    if (first || (want_max ? rt.less(best_key, key) : rt.less(key, best_key))) {
      best = value;
      best_key = std::move(key);
    }
    first = false;
  }
  return first ? rt.undefined("there is no smallest or largest item, the sequence is empty") : best;
}

Value batch(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("batch", arguments, Names<2>{"linecount", "fill_with"}, 1, a)) return {};
  const std::int64_t n = rt.integer(*a[0], "the size of a batch");
  std::vector<Value> rows, row;
  for (Value& value : rt.iterate(input)) {
    if (rt.failed()) return {};
    if (static_cast<std::int64_t>(row.size()) == n) rows.push_back(rt.list(std::exchange(row, {})));
    row.push_back(std::move(value));
  }
  if (!row.empty()) {
    const bool fill = a[1] && !a[1]->is_none();
    if (fill && n > static_cast<std::int64_t>(max_items))
      return rt.fail("batch: the size is too large");
    while (fill && static_cast<std::int64_t>(row.size()) < n) row.push_back(*a[1]);
    rows.push_back(rt.list(std::move(row)));
  }
  return rt.list(std::move(rows), ListKind::generator);
}

Value slice_columns(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("slice", arguments, Names<2>{"slices", "fill_with"}, 1, a)) return {};
  const std::int64_t n = rt.integer(*a[0], "the number of slices");
  const std::vector<Value> values = rt.iterate(input);
  if (n <= 0 || n > static_cast<std::int64_t>(max_items))
    return rt.fail("slice: the number of slices is out of range");
  const auto n_slices = static_cast<std::size_t>(n), per_slice = values.size() / n_slices,
             with_extra = values.size() % n_slices;
  std::vector<Value> columns;
  auto at = values.begin();
  for (std::size_t i = 0; i < n_slices && !rt.failed(); ++i) {
    const std::size_t n_here = per_slice + (i < with_extra ? 1 : 0);
    std::vector<Value> column(at, at + static_cast<std::ptrdiff_t>(n_here));
    at += static_cast<std::ptrdiff_t>(n_here);
    if (a[1] && !a[1]->is_none() && i >= with_extra) column.push_back(*a[1]);
    columns.push_back(rt.list(std::move(column)));
  }
  return rt.list(std::move(columns), ListKind::generator);
}

// ---- filters that take filters or tests ----

/// `arguments` without its first n positional ones.
Arguments rest_of(const Arguments& arguments, std::size_t n) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(n));
  return rest;
}

Value map(Runtime& rt, const Value& input, const Arguments& arguments) {
  std::vector<Value> mapped;
  if (!input.truthy()) return rt.list({}, ListKind::generator);
  if (arguments.positional.empty()) {
    Bound<2> a{};
    if (!rt.bind("map", arguments, Names<2>{"attribute", "default"}, 1, a)) return {};
    for (const Value& item : rt.iterate(input)) {
      if (rt.failed()) return {};
      Value value = rt.item_path(item, a[0]);
      mapped.push_back(value.is_undefined() && a[1] && !a[1]->is_none() ? *a[1] : std::move(value));
    }
    return rt.list(std::move(mapped), ListKind::generator);
  }
  const std::string name = rt.str(arguments.positional[0]).bytes();
  const Arguments rest = rest_of(arguments, 1);
  for (const Value& item : rt.iterate(input)) {
    if (rt.failed()) return {};
    mapped.push_back(rt.apply_filter(name, item, rest));
  }
  return rt.list(std::move(mapped), ListKind::generator);
}

template <bool wanted, bool by_attribute>
Value choose(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!input.truthy()) return rt.list({}, ListKind::generator);
  constexpr std::size_t n_before_test = by_attribute ? 1 : 0;
  if (arguments.positional.size() < n_before_test)
    return rt.fail("selectattr and rejectattr need the name of an attribute");
  const bool has_test = arguments.positional.size() > n_before_test;
  const std::string name = has_test ? rt.str(arguments.positional[n_before_test]).bytes() : "";
  const Arguments rest = rest_of(arguments, has_test ? n_before_test + 1 : n_before_test);
  std::vector<Value> kept;
  for (const Value& item : rt.iterate(input)) {
    if (rt.failed()) return {};
    const Value subject = by_attribute ? rt.item_path(item, &arguments.positional[0]) : item;
    const bool holds = has_test ? rt.apply_test(name, subject, rest) : subject.truthy();
    if (holds == wanted) kept.push_back(item);
  }
  return rt.list(std::move(kept), ListKind::generator);
}

constexpr std::array filters{FilterRow{"batch", batch},
                             FilterRow{"count", length},
                             FilterRow{"dictsort", dict_sort},
                             FilterRow{"first", first},
                             FilterRow{"items", items},
                             FilterRow{"last", last},
                             FilterRow{"length", length},
                             FilterRow{"list", to_list},
                             FilterRow{"map", map},
                             FilterRow{"max", extreme<true>},
                             FilterRow{"min", extreme<false>},
                             FilterRow{"reject", choose<false, false>},
                             FilterRow{"rejectattr", choose<false, true>},
                             FilterRow{"reverse", reverse},
                             FilterRow{"select", choose<true, false>},
                             FilterRow{"selectattr", choose<true, true>},
                             FilterRow{"slice", slice_columns},
                             FilterRow{"sort", sort},
                             FilterRow{"unique", unique}};

}  // namespace

std::span<const FilterRow> list_filters() {
  return filters;
}

}  // namespace lowbit::jinja
