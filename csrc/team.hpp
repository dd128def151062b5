// The kernels that this processor runs, and the threads that run them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace nucel {

// The fastest first; there is always one.
const std::vector<const Kernels*>& runnable_kernels();

// std::invalid_argument if this processor cannot run them.
const Kernels& kernels_named(const std::string& name);

// work(task, worker) for each task, on up to `threads` threads, numbered from 0, the caller's included. `work` must not
// throw.
void run_on_team(std::int64_t tasks, int threads, const std::function<void(std::int64_t, int)>& work);

}  // namespace nucel
