// Which versions of the kernels this processor runs, and the threads that run them.
#include "team.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "threads.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace nucel {

namespace {

std::vector<const Kernels*> find_kernels() {
    std::vector<const Kernels*> found;
#ifdef NUCEL_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        found.push_back(&avx512::kernels);
    }
    if (avx2) found.push_back(&avx2::kernels);
#endif
    found.push_back(&plain::kernels);
    return found;
}

}  // namespace

const std::vector<const Kernels*>& runnable_kernels() {
    static const std::vector<const Kernels*> found = find_kernels();  // every call of a kernel asks for them
    return found;
}

const Kernels& kernels_named(const std::string& name) {
    for (const Kernels* kernels : runnable_kernels()) {
        if (name == kernels->name) return *kernels;
    }
    throw std::invalid_argument("this processor has no kernels named " + name);
}

namespace {

// What OpenMP's compilers call for a parallel region: function, its argument, threads, flags.
using Region = void (*)(void (*)(void*), void*, unsigned, unsigned);

// torch runs its own operations on the threads of its OpenMP library. Started there, ours use the same threads, and
// none are left spinning beside them. nullptr if no such library is loaded.
Region openmp_region() {
#if defined(__unix__) || defined(__APPLE__)
    return reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#else
    return nullptr;
#endif
}

}  // namespace

void run_on_team(std::int64_t tasks, int threads, const std::function<void(std::int64_t, int)>& work) {
    struct Shared {
        const std::function<void(std::int64_t, int)>& work;
        const std::int64_t tasks;
        std::atomic<std::int64_t> next{0};
        std::atomic<int> workers{0};

        void run() {
            const int worker = workers++;
            for (std::int64_t task = next++; task < tasks; task = next++) work(task, worker);
        }
    } shared{work, tasks};
    threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
    static const Region region = openmp_region();
    if (threads <= 1) {
        shared.run();
    } else if (region) {
        region([](void* data) { static_cast<Shared*>(data)->run(); }, &shared, static_cast<unsigned>(threads), 0);
    } else {
        for_each_task(threads, threads, [&](std::int64_t) { shared.run(); });
    }
}

}  // namespace nucel
