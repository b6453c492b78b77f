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
  state_.n_kv_blocks = engine.kv_cache().n_blocks();
  state_.n_free_kv_blocks = engine.kv_cache().n_free_blocks();
  state_.kv_block_bytes = engine.kv_cache().block_bytes();
  calls_.on_loaded(model_.get(), "");
  while (take_inbox(/*may_wait=*/engine.is_idle())) {
    StepReport report;
    for (Job& job : taken_) add(std::move(job), report);
    for (const JobId id : taken_cancels_) {
      if (const auto at = request_of_.find(id); at != request_of_.end()) engine.cancel(at->second);
    }
    if (!engine.is_idle()) step(report);
    report.time = Clock::now();
    report.state = state_;
    calls_.on_step(std::move(report));
  }
}

void EngineLoop::add(Job job, StepReport& report) {
  Live live{.job = job.id, .n_top_logprobs = job.n_top_logprobs, .logits = nullptr};
  if (job.n_top_logprobs) {
    live.logits = std::make_shared<std::vector<float>>();
    job.request.on_logits = [kept = live.logits](std::int64_t, std::span<const float> logits) {
      kept->assign(logits.begin(), logits.end());
    };
  }
  auto id = model_->engine->add_request(std::move(job.request));
  if (!id) {
    report.outputs.push_back({.id = job.id, .output = {}, .error = id.error().message()});
    return;
  }
  request_of_[job.id] = *id;
  live_[*id] = std::move(live);
}

void EngineLoop::step(StepReport& report) {
  Engine& engine = *model_->engine;
  const Clock::time_point start = Clock::now();
  for (const Output& output : engine.step()) {
    const auto at = live_.find(output.id);
    if (at == live_.end()) continue;
    JobOutput& said = report.outputs.emplace_back();
    said.id = at->second.job;
    said.output = output;
    if (output.token && at->second.n_top_logprobs) {
      said.logprobs = logprobs_of(*at->second.logits, *output.token, *at->second.n_top_logprobs);
    }
    if (output.finish) {
      request_of_.erase(at->second.job);
      live_.erase(at);
    }
  }
  report.step_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  state_.n_running = engine.n_running();
  state_.n_waiting = engine.n_waiting();
  state_.n_preemptions = engine.n_preemptions();
  state_.n_free_kv_blocks = engine.kv_cache().n_free_blocks();
  ++state_.n_steps;
  state_.step_seconds += report.step_seconds;
}

}  // namespace lowbit
