// Work shared by threads that live no longer than one call.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace nucel {

// Calls work(i) for each i in [0, tasks) on up to `threads` threads, the caller's included. Threads are started per
// call: a pool would not survive a fork. The first exception is thrown again here, after all threads have ended.
template <class Work>
void for_each_task(std::int64_t tasks, int threads, const Work& work) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_guard;
    const auto run = [&] {
        try {
            for (std::int64_t i = next++; i < tasks; i = next++) work(i);
        } catch (...) {
            next = tasks;
            const std::lock_guard<std::mutex> hold(error_guard);
            if (!error) error = std::current_exception();
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, tasks); ++i) helpers.emplace_back(run);
    } catch (const std::system_error&) {
        // The system grants no further thread: those that run do the work.
    }
    run();
    for (std::thread& helper : helpers) helper.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace nucel
