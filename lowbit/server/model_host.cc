// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/model_host.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace lowbit {
namespace {

/// A model that could not be loaded is not tried again for so long: every try takes from the
/// others.
constexpr double retry_seconds = 5;

double seconds_between(ModelHost::TimePoint first, ModelHost::TimePoint last) {
  return std::chrono::duration<double>(last - first).count();
}

double megabytes(std::int64_t n_bytes) {
  return static_cast<double>(n_bytes) * 1e-6;
}

ApiError not_loadable(const std::string& problem) {
  return {.status = 500,
          .message = "the model cannot be loaded: " + problem,
          .param = "model",
          .code = "model_not_loadable"};
}

}  // namespace

ModelHost::ModelHost(std::vector<ModelSource> sources, HostOptions options, Calls calls)
    : options_(options), calls_(std::move(calls)) {
  for (ModelSource& source : sources) {
    places_.push_back({.source = std::move(source)});
    places_.back().n_bytes = places_.back().source.n_bytes;
  }
}

std::optional<ModelIndex> ModelHost::find(const std::string& name) const {
  if (name.empty()) return 0;
  for (ModelIndex model = 0; model < places_.size(); ++model) {
    const auto& names = places_[model].source.names;
    if (std::ranges::find(names, name) != names.end()) return model;
  }
  return {};
}

std::int64_t ModelHost::used_bytes() const {
  std::int64_t n_bytes = 0;
  for (const Place& place : places_) n_bytes += place.state == State::absent ? 0 : place.n_bytes;
  return n_bytes;
}

void ModelHost::acquire(ModelIndex model, TimePoint now, Ready ready) {
  Place& place = places_[model];
  if (place.state == State::loaded) {
    ++place.n_users;
    place.last_used = now;
    return ready(place.served, {});
  }
  if (!place.problem.empty() && seconds_between(place.failed_at, now) < retry_seconds) {
    return ready(nullptr, not_loadable(place.problem));
  }
  if (place.waiting.size() >= options_.most_waiting) {
    return ready(nullptr, busy("too many requests wait for this model; try again in a moment"));
  }
  place.waiting.push_back({std::move(ready), now});
  load_next(now);
}

void ModelHost::release(ModelIndex model, TimePoint now) {
  Place& place = places_[model];
  --place.n_users;
  place.last_used = now;
  if (place.n_users == 0) load_next(now);
}

/// Who has waited longest comes first, but does not hold up others that fit.
void ModelHost::load_next(TimePoint now) {
  const auto is_loading = [](const Place& place) { return place.state == State::loading; };
  if (std::ranges::any_of(places_, is_loading)) return;
  std::vector<Place*> wanted;
  for (Place& place : places_) {
    if (place.state == State::absent && !place.waiting.empty()) wanted.push_back(&place);
  }
  std::ranges::sort(wanted, {}, [](const Place* place) { return place->waiting.front().since; });
  for (Place* place : wanted) {
    if (place->n_bytes > options_.memory_bytes) {
      refuse(*place,
             {.status = 503,
              .message = fmt::format("the model needs {:.1f} MB, all models together may take "
                                     "{:.1f} MB; ask for a smaller one",
                                     megabytes(place->n_bytes), megabytes(options_.memory_bytes)),
              .param = "model",
              .code = "model_does_not_fit"});
      continue;
    }
    if (!make_room(place->n_bytes)) continue;
    const std::int64_t n_bytes = options_.memory_bytes - used_bytes();
    place->state = State::loading;
    place->last_used = now;
    calls_.load(static_cast<ModelIndex>(place - places_.data()), n_bytes);
    return;
  }
}

/// False, and nothing unloaded, when those in use leave too little.
bool ModelHost::make_room(std::int64_t n_bytes) {
  std::int64_t n_in_use = 0;
  for (const Place& place : places_) {
    const bool is_in_use = place.state == State::loading || place.n_users > 0;
    n_in_use += is_in_use ? place.n_bytes : 0;
  }
  if (n_in_use + n_bytes > options_.memory_bytes) return false;
  while (used_bytes() + n_bytes > options_.memory_bytes) {
    unload(*least_recently_used(), "another model needs its memory");
  }
  return true;
}

/// Of those that nobody uses.
ModelHost::Place* ModelHost::least_recently_used() {
  Place* oldest = nullptr;
  for (Place& place : places_) {
    if (place.state != State::loaded || place.n_users > 0) continue;
    if (oldest == nullptr || place.last_used < oldest->last_used) oldest = &place;
  }
  return oldest;
}

void ModelHost::unload(Place& place, const std::string& reason) {
  calls_.log(fmt::format("{} is unloaded: {}", place.source.names.front(), reason));
  place.state = State::absent;
  place.served = nullptr;
  calls_.unload(static_cast<ModelIndex>(&place - places_.data()));
}

void ModelHost::refuse(Place& place, const ApiError& error) {
  for (Waiting& waiting : std::exchange(place.waiting, {})) waiting.ready(nullptr, error);
}

void ModelHost::serve(Place& place, TimePoint now) {
  place.last_used = now;
  std::deque<Waiting> waiting = std::exchange(place.waiting, {});
  place.n_users += std::ssize(waiting);
  for (Waiting& one : waiting) one.ready(place.served, {});
}

void ModelHost::on_loaded(ModelIndex model, std::shared_ptr<const ServedModel> served,
                          const std::string& problem, TimePoint now) {
  Place& place = places_[model];
  place.problem = problem;
  if (served) {
    place.state = State::loaded;
    place.n_bytes = served->weight_bytes + served->kv_bytes;
    place.n_ctx = served->n_ctx();
    ++place.n_loads;
    place.served = std::move(served);
    serve(place, now);
  } else {
    place.state = State::absent;
    place.failed_at = now;
    calls_.log(fmt::format("{}: {}", place.source.names.front(), problem));
    refuse(place, not_loadable(problem));
  }
  load_next(now);
}

void ModelHost::tick(TimePoint now) {
  for (Place& place : places_) {
    const bool is_idle = place.state == State::loaded && place.n_users == 0;
    if (is_idle && options_.idle_seconds > 0 &&
        seconds_between(place.last_used, now) >= options_.idle_seconds) {
      unload(place, "idle");
    }
    while (place.state == State::absent && !place.waiting.empty() &&
           seconds_between(place.waiting.front().since, now) > options_.wait_seconds) {
      const Ready ready = std::move(place.waiting.front().ready);
      place.waiting.pop_front();
      ready(nullptr, busy("the models in use leave no memory for this one; try again later"));
    }
  }
  load_next(now);
}

}  // namespace lowbit
