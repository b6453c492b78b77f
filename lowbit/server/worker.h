// SPDX-License-Identifier: Apache-2.0
// A thread with a bounded queue, for work that is too long for the I/O thread: parsing, templates,
// tokenizing.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lowbit {

class Worker {
 public:
  explicit Worker(std::size_t most_waiting);
  /// Finishes the task that is running and drops the others.
  ~Worker();
  /// False: too many are waiting. Tasks must not throw anything but bad_alloc, which ends the task.
  [[nodiscard]] bool submit(std::function<void()> task);

 private:
  void run();

  const std::size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable has_task_;
  std::deque<std::function<void()>> tasks_;
  bool stops_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace lowbit
