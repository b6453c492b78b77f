// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/engine_loop.h"

#include <algorithm>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "lowbit/base/float_environment.h"

#include <sys/resource.h>

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

/// Of this thread and of those that it will start: a quarter of a core that others want, all of
/// one that is free.
void lower_priority() {
  constexpr int nice = 5;
  (void)setpriority(PRIO_PROCESS, 0, nice);  // 0: Linux means the thread
}

/// What `make` gives, or why it gives nothing; out of memory or threads is no reason to end.
template <class Make>
std::string problem_of(const Make& make) {
  try {
    const Status made = make();
    return made ? std::string() : made.error().message();
  } catch (const std::bad_alloc&) {
    return "out of memory while loading";
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

EngineLoop::EngineLoop(std::vector<LoadModel> loads, Calls calls) : calls_(std::move(calls)) {
  for (LoadModel& load : loads)
    places_.push_back({.load = std::move(load), .served = {}, .job_of = {}});
  last_sign_ = Clock::now().time_since_epoch().count();
  thread_ = std::thread([this] { run(); });
}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  has_news_.notify_one();
  thread_.join();
}

void EngineLoop::send(Command command) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(command));
  }
  has_news_.notify_one();
}

void EngineLoop::load(ModelIndex model, std::int64_t n_bytes) {
  send(Load{model, n_bytes});
}

void EngineLoop::unload(ModelIndex model) {
  send(Unload{model});
}

void EngineLoop::submit(ModelIndex model, std::vector<Job> jobs) {
  send(Submit{model, std::move(jobs)});
}

void EngineLoop::cancel(JobId id) {
  send(Cancel{id});
}

double EngineLoop::seconds_silent() const {
  const Clock::time_point last{Clock::duration(last_sign_.load())};
  return std::chrono::duration<double>(Clock::now() - last).count();
}

bool EngineLoop::take_inbox(bool may_wait) {
  constexpr std::chrono::seconds heartbeat(1);
  std::unique_lock lock(mutex_);
  const auto has_news = [&] { return stops_ || !inbox_.empty(); };
  while (true) {
    last_sign_ = Clock::now().time_since_epoch().count();
    if (!may_wait || has_news_.wait_for(lock, heartbeat, has_news)) break;
  }
  taken_ = std::exchange(inbox_, {});
  return !stops_;
}

bool EngineLoop::is_idle() const {
  return std::ranges::all_of(
      places_, [](const Place& place) { return !place.served || place.served->engine->is_idle(); });
}

void EngineLoop::run() {
  while (take_inbox(/*may_wait=*/is_idle())) {
    for (Command& command : taken_) {
      std::visit([this](auto& given) { obey(std::move(given)); }, command);
    }
    for (ModelIndex model = 0; model < places_.size(); ++model) {
      Place& place = places_[model];
      if (place.served && !place.served->engine->is_idle()) step(place);
      if (place.has_news) report(model);
    }
  }
  if (loader_.joinable()) loader_.join();
}

void EngineLoop::obey(Load load) {
  loads_.push_back(load);
  load_next();
}

void EngineLoop::load_next() {
  if (loader_.joinable() || loads_.empty()) return;
  const Load load = loads_.front();
  loads_.pop_front();
  const bool others_compute =
      std::ranges::any_of(places_, [](const Place& place) { return place.served != nullptr; });
  try {
    loader_ = std::thread([this, load, others_compute] { run_load(load, others_compute); });
  } catch (const std::system_error& error) {
    calls_.on_loaded(load.model, nullptr, fmt::format("no thread to load it: {}", error.what()));
  }
}

void EngineLoop::run_load(Load load, bool others_compute) {
  set_default_float_environment();
  if (others_compute) lower_priority();
  Loaded result{.model = load.model, .served = {}, .problem = {}};
  result.problem = problem_of([&] {
    auto loaded = places_[load.model].load(load.n_bytes);
    if (!loaded) return Status(std::move(loaded).error());
    result.served = *std::move(loaded);
    return ok();
  });
  send(std::move(result));
}

void EngineLoop::obey(Loaded loaded) {
  loader_.join();
  Place& place = places_[loaded.model];
  place.served = std::move(loaded.served);
  if (place.served && place.served->start) {
    loaded.problem = problem_of([&] { return place.served->start(*place.served); });
    if (!loaded.problem.empty()) place.served = nullptr;
  }
  place.has_news = place.served != nullptr;
  calls_.on_loaded(loaded.model, place.served, std::move(loaded.problem));
  load_next();
}

void EngineLoop::obey(Unload unload) {
  Place& place = places_[unload.model];
  for (const auto& [request, job] : place.job_of) request_of_.erase(job);
  place = Place{.load = std::move(place.load), .served = {}, .job_of = {}};
}

void EngineLoop::obey(Submit submit) {
  Place& place = places_[submit.model];
  place.has_news = true;
  for (Job& job : submit.jobs) {
    if (!place.served) {
      place.report.outputs.push_back({.id = job.id, .output = {}, .error = "the model has gone"});
      continue;
    }
    auto id = place.served->engine->add_request(std::move(job.request));
    if (!id) {
      place.report.outputs.push_back({.id = job.id, .output = {}, .error = id.error().message()});
      continue;
    }
    request_of_[job.id] = {submit.model, *id};
    place.job_of[*id] = job.id;
  }
}

void EngineLoop::obey(Cancel cancel) {
  const auto at = request_of_.find(cancel.job);
  if (at == request_of_.end()) return;
  places_[at->second.model].served->engine->cancel(at->second.id);
}

void EngineLoop::step(Place& place) {
  for (const Output& output : place.served->engine->step()) {
    const auto at = place.job_of.find(output.id);
    if (at == place.job_of.end()) continue;
    place.report.outputs.push_back({.id = at->second, .output = output});
    if (output.finish) {
      request_of_.erase(at->second);
      place.job_of.erase(at);
    }
  }
  place.has_news = true;
}

void EngineLoop::report(ModelIndex model) {
  Place& place = places_[model];
  place.has_news = false;
  StepReport report = std::exchange(place.report, {});
  report.model = model;
  report.time = Clock::now();
  if (place.served) report.state = place.served->engine->stats();
  calls_.on_step(std::move(report));
}

}  // namespace lowbit
