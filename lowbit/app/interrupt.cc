// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include "lowbit/app/command.h"

namespace lowbit::app {
namespace {

// A signal handler can reach nothing but globals.
volatile sig_atomic_t n_interrupts = 0;

extern "C" void on_interrupt(int) {
  n_interrupts = n_interrupts + 1;
  if (n_interrupts > 1) _exit(static_cast<int>(Exit::interrupted));
}

}  // namespace

void watch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: a read from the terminal ends
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() {
  return n_interrupts != 0;
}

void clear_interrupt() {
  n_interrupts = 0;
}

}  // namespace lowbit::app
