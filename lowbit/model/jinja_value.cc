// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/jinja_value.h"

#include <algorithm>
#include <cmath>

namespace lowbit::jinja {

namespace {

constexpr std::size_t bytes_per_weight = 256;

std::string tagged(char tag, std::string_view rest) {
  return std::string(1, tag).append(rest);
}

template <class Range>
void measure(const Range& values, std::size_t& weight, int& depth) {
  for (const Value& value : values) {
    weight += value.weight();
    depth = std::max(depth, value.depth() + 1);
  }
}

}  // namespace

List::List(ListKind k, std::vector<Value> v, Memory* memory)
    : kind(k), items(std::move(v)), share(memory, sizeof(List) + items.size() * sizeof(Value)) {
  measure(items, weight, depth);
}

Dict::Dict(std::vector<std::pair<Value, Value>> given, Memory* memory)
    : share(memory, sizeof(Dict) + given.size() * (sizeof(given[0]) + sizeof(index))) {
  for (auto& entry : given) {
    std::string key = hash_key(entry.first).value_or(std::string());
    const auto [found, is_new] = index.emplace(std::move(key), entries.size());
    if (is_new) {
      entries.push_back(std::move(entry));
    } else {
      entries[found->second].second = std::move(entry.second);
    }
  }
  for (const auto& [key, value] : entries) {
    weight += key.weight() + value.weight();
    depth = std::max({depth, key.depth() + 1, value.depth() + 1});
  }
}

const Value* Dict::find(const Value& key) const {
  const auto hashed = hash_key(key);
  if (!hashed) return nullptr;
  const auto found = index.find(*hashed);
  return found == index.end() ? nullptr : &entries[found->second].second;
}

const Value* Dict::find(std::string_view key) const {
  const auto found = index.find(tagged('s', key));
  return found == index.end() ? nullptr : &entries[found->second].second;
}

// ---- what a value is ----

bool Value::is_callable() const {
  return method() || macro() || builtin() || loop();
}

std::optional<std::int64_t> Value::integer() const {
  if (const auto* i = std::get_if<std::int64_t>(&state_)) return *i;
  if (const auto* b = std::get_if<bool>(&state_)) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const auto* d = std::get_if<double>(&state_)) return *d;
  if (const auto i = integer()) return static_cast<double>(*i);
  return std::nullopt;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (integer()) return "int";
  if (is_real()) return "float";
  if (text()) return "str";
  if (dict()) return "dict";
  if (name_space()) return "Namespace";
  if (macro()) return "Macro";
  if (loop()) return "LoopContext";
  if (const List* l = list()) {
    switch (l->kind) {
      case ListKind::list:
        return "list";
      case ListKind::tuple:
        return "tuple";
      case ListKind::range:
        return "range";
      case ListKind::keys:
        return "dict_keys";
      case ListKind::values:
        return "dict_values";
      case ListKind::items:
        return "dict_items";
      case ListKind::generator:
        return "generator";
    }
  }
  return "function";
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (const auto n = number()) return *n != 0;
  if (const Text* t = text()) return !t->empty();
  if (const List* l = list()) return !l->sized() || !l->items.empty();
  if (const Dict* d = dict()) return !d->entries.empty();
  return true;
}

std::size_t Value::weight() const {
  if (const Text* t = text()) return 1 + t->n_bytes() / bytes_per_weight;
  if (const List* l = list()) return l->weight;
  if (const Dict* d = dict()) return d->weight;
  if (const Method* m = method()) return 1 + m->self.weight();
  return 1;
}

int Value::depth() const {
  if (const List* l = list()) return l->depth;
  if (const Dict* d = dict()) return d->depth;
  if (const Method* m = method()) return 1 + m->self.depth();
  if (const Loop* l = loop()) return l->nesting;
  return 0;
}

bool Value::same_object(const Value& other) const {
  if (state_.index() != other.state_.index()) return false;
  if (is_undefined() || is_none()) return true;
  if (list()) return list() == other.list();
  if (dict()) return dict() == other.dict();
  if (name_space()) return name_space() == other.name_space();
  return equal(*this, other);
}

// ---- equality and order ----

std::optional<std::string> hash_key(const Value& value) {
  if (const Text* t = value.text()) return tagged('s', t->bytes());
  if (value.is_none()) return "n";
  if (const auto i = value.integer()) return tagged('i', std::to_string(*i));
  if (const auto d = value.number()) {
    constexpr double exact = 9007199254740992.0;  // 2^53
    if (std::abs(*d) <= exact && *d == std::floor(*d)) {
      return tagged('i', std::to_string(static_cast<std::int64_t>(*d)));
    }
    return tagged('d', format_real(*d));
  }
  if (value.is_undefined()) return "u";
  if (const List* l = value.list(); l != nullptr && l->kind == ListKind::tuple) {
    std::string key = "t";
    for (const Value& item : l->items) {
      const auto part = hash_key(item);
      if (!part) return std::nullopt;
      key += std::to_string(part->size()) + ":" + *part;
    }
    return key;
  }
  return std::nullopt;
}

bool equal(const Value& a, const Value& b) {
  const auto x = a.number(), y = b.number();
  if (x && y) {
    const auto i = a.integer(), j = b.integer();
    return i && j ? *i == *j : *x == *y;
  }
  if (a.text() && b.text()) return a.text()->bytes() == b.text()->bytes();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (const List* l = a.list(), *m = b.list(); l && m) {
    if (l == m) return true;
    if (l->kind != m->kind || l->kind == ListKind::generator) return false;
    return std::equal(l->items.begin(), l->items.end(), m->items.begin(), m->items.end(), equal);
  }
  if (const Dict* d = a.dict(), *e = b.dict(); d && e) {
    if (d == e) return true;
    if (d->entries.size() != e->entries.size()) return false;
    return std::all_of(d->entries.begin(), d->entries.end(), [&](const auto& entry) {
      const Value* other = e->find(entry.first);
      return other != nullptr && equal(entry.second, *other);
    });
  }
  if (a.name_space()) return a.name_space() == b.name_space();
  if (a.macro()) return a.macro() == b.macro();
  if (a.loop()) return a.loop() == b.loop();
  if (a.builtin() && b.builtin()) return *a.builtin() == *b.builtin();
  return false;
}

std::optional<bool> less(const Value& a, const Value& b) {
  const auto x = a.number(), y = b.number();
  if (x && y) {
    const auto i = a.integer(), j = b.integer();
    return i && j ? *i < *j : *x < *y;
  }
  if (a.text() && b.text())
    return a.text()->bytes() < b.text()->bytes();  // UTF-8 keeps code point order
  const List *l = a.list(), *m = b.list();
  if (!l || !m || l->kind != m->kind) return std::nullopt;
  if (l->kind != ListKind::list && l->kind != ListKind::tuple) return std::nullopt;
  for (std::size_t i = 0; i < std::min(l->items.size(), m->items.size()); ++i) {
    if (!equal(l->items[i], m->items[i])) return less(l->items[i], m->items[i]);
  }
  return l->items.size() < m->items.size();
}

}  // namespace lowbit::jinja
