// SPDX-License-Identifier: Apache-2.0
// The life of models: which are loaded, who uses them, who waits for one. A model is loaded when it
// is first asked for and unloaded when nobody has used it for a while or another one needs its
// memory, the least recently used first, never while an answer is in work. One is loaded at a time.
// Only decides; loading and unloading are the engine loop's. Used on the I/O thread, without a
// clock of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lowbit/server/api_error.h"
#include "lowbit/server/engine_loop.h"
#include "lowbit/server/served_model.h"

namespace lowbit {

struct HostOptions {
  std::int64_t memory_bytes = 0;   // of all loaded models together
  double idle_seconds = 0;         // unused for so long: unloaded; 0: never
  double wait_seconds = 60;        // that a request waits for room; then 503
  std::size_t most_waiting = 512;  // requests that wait for one model
};

class ModelHost {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Calls {
    /// on_loaded() must follow.
    std::function<void(ModelIndex, std::int64_t n_bytes)> load;
    std::function<void(ModelIndex)> unload;
    std::function<void(const std::string& line)> log;  // for people
  };
  enum class State : std::uint8_t { absent, loading, loaded };
  /// A model, or why there is none.
  using Ready = std::function<void(std::shared_ptr<const ServedModel>, const Refusal&)>;

  ModelHost(std::vector<ModelSource> sources, HostOptions options, Calls calls);

  std::size_t n_models() const { return places_.size(); }
  /// "" is the first one.
  std::optional<ModelIndex> find(const std::string& name) const;
  const ModelSource& source(ModelIndex model) const { return places_[model].source; }
  State state(ModelIndex model) const { return places_[model].state; }
  /// Null unless it is loaded.
  const ServedModel* loaded(ModelIndex model) const { return places_[model].served.get(); }
  /// Of its last life; 0 before the first.
  std::int64_t n_ctx(ModelIndex model) const { return places_[model].n_ctx; }
  std::int64_t n_loads(ModelIndex model) const { return places_[model].n_loads; }
  std::size_t n_waiting(ModelIndex model) const { return places_[model].waiting.size(); }
  /// Of all models that are loaded or being loaded.
  std::int64_t used_bytes() const;
  std::int64_t memory_bytes() const { return options_.memory_bytes; }

  /// Calls `ready` at once or later. With a model release() must follow, and it stays till then.
  void acquire(ModelIndex model, TimePoint now, Ready ready);
  void release(ModelIndex model, TimePoint now);
  void on_loaded(ModelIndex model, std::shared_ptr<const ServedModel> served,
                 const std::string& problem, TimePoint now);
  /// Now and then: unloads what is idle, refuses who waited too long.
  void tick(TimePoint now);

 private:
  struct Waiting {
    Ready ready;
    TimePoint since;
  };
  struct Place {
    ModelSource source;
    State state = State::absent;
    std::shared_ptr<const ServedModel> served = {};
    std::int64_t n_bytes = 0, n_ctx = 0, n_loads = 0, n_users = 0;
    TimePoint last_used = {}, failed_at = {};
    std::string problem = {};  // of the last try to load it
    std::deque<Waiting> waiting = {};
  };

  void load_next(TimePoint now);
  bool make_room(std::int64_t n_bytes);
  Place* least_recently_used();
  void unload(Place& place, const std::string& reason);
  void refuse(Place& place, const ApiError& error);
  void serve(Place& place, TimePoint now);

  const HostOptions options_;
  const Calls calls_;
  std::vector<Place> places_;
};

}  // namespace lowbit
