// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/worker.h"

#include <new>
#include <utility>

namespace lowbit {

Worker::Worker(std::size_t most_waiting)
    : most_waiting_(most_waiting), thread_([this] { run(); }) {}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  has_task_.notify_one();
  thread_.join();
}

bool Worker::submit(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (tasks_.size() >= most_waiting_) return false;
    tasks_.push_back(std::move(task));
  }
  has_task_.notify_one();
  return true;
}

void Worker::run() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      has_task_.wait(lock, [&] { return stops_ || !tasks_.empty(); });
      if (stops_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace lowbit
