// SPDX-License-Identifier: Apache-2.0
// One thread that owns the engine: it loads the model, takes requests and cancellations between
// steps, and after each step reports everything at once. Nothing it does waits for a client; what
// limits the queue is the caller, who counts what it has given and got back.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lowbit/server/served_model.h"

namespace lowbit {

using JobId = std::uint64_t;

struct Job {
  JobId id = 0;
  Request request;
};

struct JobOutput {
  JobId id = 0;
  Output output;
  std::string error = {};  // the engine does not take the request; it is finished
};

struct StepReport {
  std::vector<JobOutput> outputs;
  EngineStats state;
  std::chrono::steady_clock::time_point time;
  double step_seconds = 0;  // 0: nothing was computed
};

class EngineLoop {
 public:
  struct Calls {  // on the engine's thread; they must not wait
    /// Once. A null model comes with the reason; the thread has ended then.
    std::function<void(const ServedModel*, std::string problem)> on_loaded;
    std::function<void(StepReport)> on_step;
  };
  EngineLoop(LoadModel load, Calls calls);
  /// Ends after the step that is running.
  ~EngineLoop();

  /// Any thread.
  void submit(std::vector<Job> jobs);
  void cancel(JobId id);
  /// Seconds since the loop last showed a sign of life.
  double seconds_silent() const;

 private:
  void run();
  /// Takes what came in; false: stop. Waits while there is nothing to do.
  bool take_inbox(bool may_wait);
  void add(Job job, StepReport& report);
  void step(StepReport& report);

  LoadModel load_;
  Calls calls_;
  std::unique_ptr<ServedModel> model_;
  std::map<RequestId, JobId> job_of_;
  std::map<JobId, RequestId> request_of_;
  std::vector<Job> taken_;
  std::vector<JobId> taken_cancels_;

  std::mutex mutex_;
  std::condition_variable has_news_;
  std::vector<Job> inbox_;
  std::vector<JobId> cancels_;
  bool stops_ = false;
  std::atomic<std::chrono::steady_clock::rep> last_sign_{0};
  std::thread thread_;  // last: it uses the others
};

}  // namespace lowbit
