// SPDX-License-Identifier: Apache-2.0
// Values of the template interpreter, with Python's meaning of truth, equality, order and printing.
//
// Strings, lists and dicts never change once built (the sandbox forbids it), so they are shared and
// reference counted. What can change, and so could form cycles or endless chains, is owned by the
// render instead: namespaces, macros and the scopes they see live until the render ends and values
// point to them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "lowbit/model/jinja_text.h"

namespace lowbit::jinja {

struct List;
struct Dict;
struct Namespace;
struct Macro;
struct Loop;
struct Method;
enum class Builtin : std::uint8_t { range, dict, make_namespace, raise_exception, strftime_now };

/// What a lookup gives that found nothing. It prints as nothing and is false, but reading from it
/// is an error, which then says `reason`.
struct Undefined {
  std::shared_ptr<const std::string> reason;
};
struct None {};

/// Memory in use by the values of one render; values give theirs back when they die.
struct Memory {
  static constexpr std::size_t max_bytes = std::size_t{128} << 20;
  std::size_t used = 0;
};
class MemoryShare {
 public:
  MemoryShare(Memory* memory, std::size_t n_bytes) : memory_(memory), n_bytes_(n_bytes) {
    if (memory_ != nullptr) memory_->used += n_bytes_;
  }
  MemoryShare(const MemoryShare&) = delete;
  MemoryShare& operator=(const MemoryShare&) = delete;
  ~MemoryShare() {
    if (memory_ != nullptr) memory_->used -= n_bytes_;
  }

 private:
  Memory* memory_;  // outlives the share; null for the constants of a program
  std::size_t n_bytes_;
};

struct SharedText {
  SharedText(Text t, Memory* memory)
      : text(std::move(t)), share(memory, sizeof(SharedText) + text.bytes().capacity()) {}
  Text text;
  MemoryShare share;
};

class Value {
 public:
  Value() = default;                                                          // undefined
  Value(None) : state_(None{}) {}                                             // NOLINT
  Value(bool b) : state_(b) {}                                                // NOLINT
  Value(std::int64_t i) : state_(i) {}                                        // NOLINT
  Value(double d) : state_(d) {}                                              // NOLINT
  Value(Undefined u) : state_(std::move(u)) {}                                // NOLINT
  Value(std::shared_ptr<const SharedText> text) : state_(std::move(text)) {}  // NOLINT
  Value(std::shared_ptr<const List> list) : state_(std::move(list)) {}        // NOLINT
  Value(std::shared_ptr<const Dict> dict) : state_(std::move(dict)) {}        // NOLINT
  Value(std::shared_ptr<const Method> method) : state_(std::move(method)) {}  // NOLINT
  Value(Namespace* n) : state_(n) {}                                          // NOLINT
  Value(const Macro* macro) : state_(macro) {}                                // NOLINT
  Value(std::shared_ptr<const Loop> loop) : state_(std::move(loop)) {}        // NOLINT
  Value(Builtin builtin) : state_(builtin) {}                                 // NOLINT

  bool is_undefined() const { return std::holds_alternative<Undefined>(state_); }
  bool is_none() const { return std::holds_alternative<None>(state_); }
  bool is_bool() const { return std::holds_alternative<bool>(state_); }
  bool is_real() const { return std::holds_alternative<double>(state_); }
  bool is_callable() const;

  const Undefined* undefined() const { return std::get_if<Undefined>(&state_); }
  const Text* text() const {
    const auto* shared = std::get_if<std::shared_ptr<const SharedText>>(&state_);
    return shared == nullptr ? nullptr : &(*shared)->text;
  }
  const List* list() const { return pointee<List>(); }
  const Dict* dict() const { return pointee<Dict>(); }
  const Method* method() const { return pointee<Method>(); }
  const Loop* loop() const { return pointee<Loop>(); }
  Namespace* name_space() const {
    const auto* p = std::get_if<Namespace*>(&state_);
    return p == nullptr ? nullptr : *p;
  }
  const Macro* macro() const {
    const auto* p = std::get_if<const Macro*>(&state_);
    return p == nullptr ? nullptr : *p;
  }
  const Builtin* builtin() const { return std::get_if<Builtin>(&state_); }

  /// Python's int, of which bool is a kind.
  std::optional<std::int64_t> integer() const;
  /// Any number as a double.
  std::optional<double> number() const;

  std::string_view type_name() const;  // as Python prints it: 'str', 'NoneType', ...
  bool truthy() const;
  /// Nodes and 256-byte pieces of text that a walk over the whole value meets: what equality or
  /// printing cost.
  std::size_t weight() const;
  int depth() const;  // nesting of containers; bounds the recursion of such walks
  bool same_object(const Value& other) const;

 private:
  template <class T>
  const T* pointee() const {
    const auto* shared = std::get_if<std::shared_ptr<const T>>(&state_);
    return shared == nullptr ? nullptr : shared->get();
  }
  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const SharedText>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>,
               std::shared_ptr<const Method>, Namespace*, const Macro*, std::shared_ptr<const Loop>,
               Builtin>
      state_;
};

enum class ListKind : std::uint8_t { list, tuple, range, keys, values, items, generator };

/// Everything in Python that yields values in order. A generator can be walked once.
struct List {
  List(ListKind k, std::vector<Value> v, Memory* memory);
  bool indexable() const {
    return kind == ListKind::list || kind == ListKind::tuple || kind == ListKind::range;
  }
  bool sized() const { return kind != ListKind::generator; }

  ListKind kind;
  std::vector<Value> items;
  mutable std::size_t n_consumed = 0;  // by a generator's readers
  std::size_t weight = 1;
  int depth = 1;
  MemoryShare share;
};

struct Dict {
  Dict(std::vector<std::pair<Value, Value>> entries,
       Memory* memory);  // a later key replaces an earlier one
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;

  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  std::unordered_map<std::string, std::size_t> index;
  std::size_t weight = 1;
  int depth = 1;
  MemoryShare share;
};

/// A method of a value, not called yet: `content.strip`.
struct Method {
  Value self;
  std::string name;
};

/// What the variable `loop` is inside a for block.
struct Loop {
  std::vector<Value> items;
  std::size_t index = 0;
  int depth0 = 0;
  const void* recursive_for =
      nullptr;            // the statement to run again on loop(...), if it says `recursive`
  std::size_t scope = 0;  // number of the scope it runs in, among those the render keeps
  int nesting = 1;        // deepest of items, plus one
};

/// The key a dict files a value under: 1, 1.0 and True are the same one. Nothing for unhashable
/// values.
std::optional<std::string> hash_key(const Value& value);

bool equal(const Value& a, const Value& b);
/// a < b; nothing when Python refuses to order the two.
std::optional<bool> less(const Value& a, const Value& b);

/// str(value) and repr(value).
void print(const Value& value, Text& out);
void print_repr(const Value& value, Text& out);
std::string format_real(
    double value);  // shortest text that reads back the same, in Python's spelling

/// json.dumps; nothing when a value cannot be serialised (then `culprit` is its type).
struct JsonStyle {
  bool ascii = false;
  bool sort_keys = false;
  std::optional<Text> indent;
  Text item_separator, key_separator;
};
bool print_json(const Value& value, const JsonStyle& style, Text& out, std::string& culprit);

}  // namespace lowbit::jinja
