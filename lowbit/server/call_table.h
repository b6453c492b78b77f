// SPDX-License-Identifier: Apache-2.0
// Requests on their way, from their arrival to the last byte of their answer: which jobs of which
// engine belong to whom, what is counted and logged of them, and what ends with them. On the I/O
// thread alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lowbit/server/answer.h"
#include "lowbit/server/metrics.h"
#include "lowbit/server/prepare.h"

namespace lowbit {

using CallId = std::uint64_t;

/// A request that needs a model. It gets an answer and jobs once it has been read.
struct Call {
  CallId id = 0;
  std::shared_ptr<Exchange> exchange;
  std::string request_id = {};
  HttpHeaders headers = {};
  TimePoint arrival = {};
  std::optional<ModelIndex> model = {};                 // what it asks for, once that is known
  std::shared_ptr<const ServedModel> served = nullptr;  // held until the call ends
  std::unique_ptr<Answer> answer = nullptr;
  std::vector<JobId> jobs = {};
  std::int64_t n_prompt = 0;
};

struct CallLimits {
  std::int64_t n_queued = 0, n_queued_tokens = 0;
  double request_seconds = 0, keep_alive_seconds = 0;
};

class CallTable {
 public:
  struct Calls {
    std::function<void(ModelIndex, std::vector<Job>)> submit;
    std::function<void(JobId)> cancel;
    std::function<void(ModelIndex)> release;           // of a call that held the model
    std::function<void(const std::string& json)> log;  // may be null
    std::function<std::string()> new_id;
  };
  CallTable(const CallLimits& limits, Calls calls, Metrics& metrics)
      : limits_(limits), calls_(std::move(calls)), metrics_(metrics) {}

  void add(Call call) { active_.emplace(call.id, std::move(call)); }
  /// Null: it has ended.
  Call* find(CallId id);
  bool is_empty() const { return active_.empty(); }
  std::size_t size() const { return active_.size(); }
  bool has_jobs() const { return !jobs_.empty(); }
  /// Forgets them all without a word, when the server ends.
  void clear();

  /// What was read of it: an answer at once, a refusal, or jobs.
  void on_prepared(CallId id, Prepared prepared);
  void on_step(const StepReport& report);
  void on_gone(CallId id);
  void fail(CallId id, const ApiError& error, std::string_view reason);
  void fail_all(const ApiError& error);
  /// Comments into silent streams, requests that took too long.
  void tick(TimePoint now);
  /// From now on answers close their connections, and refusals are not counted.
  void drain() { drains_ = true; }

  /// Sends, counts and logs the answer of a call that is not in the table.
  void respond(const Call& call, HttpResponse response);

 private:
  struct JobPlace {
    CallId call = 0;
    ModelIndex model = 0;
    std::size_t choice = 0;
    std::int64_t n_prompt = 0;  // 0 once it has begun to answer
    std::int64_t n_tokens = 0;
    TimePoint last_token;
  };

  Refusal check_queue(const Call& call, const Prepared& prepared) const;
  void start_answer(Call& call, Prepared& prepared);
  void on_output(const JobOutput& output, const StepReport& report);
  void count_job(const JobPlace& job, const RequestStats& stats);
  void finish(CallId id, std::string_view reason);
  void cancel_jobs(Call& call);
  void erase(CallId id);
  void log(const Call& call, int status, std::string_view reason) const;

  const CallLimits limits_;
  const Calls calls_;
  Metrics& metrics_;
  bool drains_ = false;
  JobId next_job_ = 1;
  std::int64_t n_queued_tokens_ = 0;
  std::map<CallId, Call> active_;
  std::unordered_map<JobId, JobPlace> jobs_;
  std::map<ModelIndex, std::int64_t> n_jobs_;  // of each model
};

}  // namespace lowbit
