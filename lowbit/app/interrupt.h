// SPDX-License-Identifier: Apache-2.0
// Ctrl-C as a question that long work asks between two pieces: the first one is remembered, so that
// nothing is left half-written; the second one ends the program at once.
#pragma once

namespace lowbit::app {

void watch_interrupts();
bool interrupted();
/// Forgets the interrupt: the answer was stopped, the program goes on.
void clear_interrupt();

}  // namespace lowbit::app
