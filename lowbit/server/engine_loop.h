// SPDX-License-Identifier: Apache-2.0
// One thread that owns all engines: it takes requests and cancellations between steps, and after
// each step reports everything at once. Engines that have work take turns, a step each, so that the
// one team of threads never computes two steps at a time; two loops with two teams would share
// every core and both be late. Models are loaded one after another on a thread beside it, which
// gets what the steps of the others leave. Nothing here waits for a client; what limits the queue
// is the caller, who counts what it has given and got back.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "lowbit/server/served_model.h"

namespace lowbit {

using JobId = std::uint64_t;
using ModelIndex = std::size_t;

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
  ModelIndex model = 0;
  std::vector<JobOutput> outputs;
  EngineStats state;
  std::chrono::steady_clock::time_point time;
};

class EngineLoop {
 public:
  struct Calls {  // on the engine's thread; they must not wait
    /// The answer to load(). A null model comes with the reason.
    std::function<void(ModelIndex, std::shared_ptr<const ServedModel>, std::string problem)>
        on_loaded;
    std::function<void(StepReport)> on_step;
  };
  EngineLoop(std::vector<LoadModel> loads, Calls calls);
  /// Ends after the step and the loading that are running.
  ~EngineLoop();

  // Any thread; obeyed in the order of the calls, but for what loading takes: on_loaded() comes
  // when it comes.
  void load(ModelIndex model, std::int64_t n_bytes);
  /// Of a loaded model. Its memory is free when nobody holds it any more. Jobs that it still has
  /// get no answer.
  void unload(ModelIndex model);
  /// Of a loaded model.
  void submit(ModelIndex model, std::vector<Job> jobs);
  void cancel(JobId id);
  /// Seconds since the loop last showed a sign of life.
  double seconds_silent() const;

 private:
  struct Load {
    ModelIndex model = 0;
    std::int64_t n_bytes = 0;
  };
  struct Loaded {
    ModelIndex model = 0;
    std::unique_ptr<ServedModel> served;
    std::string problem;
  };
  struct Unload {
    ModelIndex model = 0;
  };
  struct Submit {
    ModelIndex model = 0;
    std::vector<Job> jobs;
  };
  struct Cancel {
    JobId job = 0;
  };
  using Command = std::variant<Load, Loaded, Unload, Submit, Cancel>;
  struct Place {
    LoadModel load;
    std::shared_ptr<ServedModel> served;
    std::map<RequestId, JobId> job_of;
    StepReport report = {};
    bool has_news = false;
  };
  struct RequestPlace {
    ModelIndex model = 0;
    RequestId id = 0;
  };

  void run();
  void send(Command command);
  /// Takes what came in; false: stop. Waits while there is nothing to do.
  bool take_inbox(bool may_wait);
  bool is_idle() const;
  void obey(Load load);
  void obey(Loaded loaded);
  void obey(Unload unload);
  void obey(Submit submit);
  void obey(Cancel cancel);
  /// Unless one is being loaded.
  void load_next();
  /// On the loading thread.
  void run_load(Load load, bool others_compute);
  void step(Place& place);
  void report(ModelIndex model);

  const Calls calls_;
  std::vector<Place> places_;
  std::map<JobId, RequestPlace> request_of_;
  std::vector<Command> taken_;
  std::deque<Load> loads_;  // that wait
  std::thread loader_;      // joinable: one is being loaded

  std::mutex mutex_;
  std::condition_variable has_news_;
  std::vector<Command> inbox_;
  bool stops_ = false;
  std::atomic<std::chrono::steady_clock::rep> last_sign_{0};
  std::thread thread_;  // last: it uses the others
};

}  // namespace lowbit
