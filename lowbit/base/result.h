// SPDX-License-Identifier: Apache-2.0
// Result<T>: a value or an Error, with the names of std::expected (which g++ 12 lacks). Errors are
// ordinary here (a bad file, a missing kernel) and cross threads and requests, so the signature
// shows them and a reader can see a dropped one.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace lowbit {

/// One sentence that says what, where and what to do, plus the places it passed on its way up.
class [[nodiscard]] Error {
 public:
  explicit Error(std::string message) : message_(std::move(message)) {}

  /// Adds the place around the failure: `return std::move(t).error().in("layer 3 q_proj");`
  Error in(std::string_view place) && {
    message_.insert(0, std::string(place) + ": ");
    return std::move(*this);
  }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Error error)
      : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }

  Error& error() & { return std::get<1>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

/// A result without a value: `return ok();` or an Error.
struct Ok {};
using Status = Result<Ok>;
inline Status ok() {
  return Ok{};
}

}  // namespace lowbit
