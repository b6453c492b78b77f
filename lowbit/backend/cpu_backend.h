// SPDX-License-Identifier: Apache-2.0
// The backend on this machine's processor: kernels of one instruction set, rows spread over a
// thread pool.
#pragma once

#include <memory>

#include "lowbit/backend/backend.h"
#include "lowbit/base/isa.h"
#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"

namespace lowbit {

/// The kernels that LOWBIT_ISA names, or the best this machine has. The pool must outlive the
/// backend. Errors: LOWBIT_ISA names a set that is unknown or not here.
Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool);

/// The kernels of one instruction set; an error where this machine does not have it.
Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool, Isa isa);

}  // namespace lowbit
