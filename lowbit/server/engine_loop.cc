// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/engine_loop.h"

#include <utility>

namespace lowbit {

using Clock = std::chrono::steady_clock;

EngineLoop::EngineLoop(LoadModel load, Calls calls)
    : load_(std::move(load)), calls_(std::move(calls)), thread_([this] { run(); }) {}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  has_news_.notify_one();
  thread_.join();
}

void EngineLoop::submit(std::vector<Job> jobs) {
  {
    const std::lock_guard lock(mutex_);
    for (Job& job : jobs) inbox_.push_back(std::move(job));
  }
  has_news_.notify_one();
}

void EngineLoop::cancel(JobId id) {
  {
    const std::lock_guard lock(mutex_);
    cancels_.push_back(id);
  }
  has_news_.notify_one();
}

double EngineLoop::seconds_silent() const {
  const Clock::time_point last{Clock::duration(last_sign_.load())};
  return std::chrono::duration<double>(Clock::now() - last).count();
}

bool EngineLoop::take_inbox(bool may_wait) {
  constexpr std::chrono::seconds heartbeat(1);
  std::unique_lock lock(mutex_);
  const auto has_news = [&] { return stops_ || !inbox_.empty() || !cancels_.empty(); };
  while (true) {
    last_sign_ = Clock::now().time_since_epoch().count();
    if (!may_wait || has_news_.wait_for(lock, heartbeat, has_news)) break;
  }
  taken_ = std::exchange(inbox_, {});
  taken_cancels_ = std::exchange(cancels_, {});
  return !stops_;
}

void EngineLoop::run() {
  last_sign_ = Clock::now().time_since_epoch().count();
  auto loaded = load_();
  if (!loaded) return calls_.on_loaded(nullptr, loaded.error().message());
  model_ = *std::move(loaded);
  Engine& engine = *model_->engine;
  calls_.on_loaded(model_.get(), "");
  calls_.on_step({.outputs = {}, .state = engine.stats(), .time = Clock::now()});
  while (take_inbox(/*may_wait=*/engine.is_idle())) {
    StepReport report;
    for (Job& job : taken_) add(std::move(job), report);
    for (const JobId id : taken_cancels_) {
      if (const auto at = request_of_.find(id); at != request_of_.end()) engine.cancel(at->second);
    }
    if (!engine.is_idle()) step(report);
    report.time = Clock::now();
    report.state = engine.stats();
    calls_.on_step(std::move(report));
  }
}

void EngineLoop::add(Job job, StepReport& report) {
  auto id = model_->engine->add_request(std::move(job.request));
  if (!id) {
    report.outputs.push_back({.id = job.id, .output = {}, .error = id.error().message()});
    return;
  }
  request_of_[job.id] = *id;
  job_of_[*id] = job.id;
}

void EngineLoop::step(StepReport& report) {
  Engine& engine = *model_->engine;
  const Clock::time_point start = Clock::now();
  for (const Output& output : engine.step()) {
    const auto at = job_of_.find(output.id);
    if (at == job_of_.end()) continue;
    report.outputs.push_back({.id = at->second, .output = output});
    if (output.finish) {
      request_of_.erase(at->second);
      job_of_.erase(at);
    }
  }
  report.step_seconds = std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace lowbit
