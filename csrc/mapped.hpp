// A file mapped read-only, safe against what other processes do to it.
//
// Reading a page behind the end of a file that was cut short raises SIGBUS, and so does a disk that fails. Copying each
// row with pread would avoid it at the price of a system call a row, half of the sampler's speed. So the signal is
// caught instead: the handler puts zeros where the page was and marks the mapping as broken, and the read goes on to
// its end. Whoever reads asks `require_unchanged` AFTERWARDS, before the bytes are handed on. That one question covers
// the rest too: a cut within the last page, which reads as zeros without a signal, and bytes that were written over.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>

#ifdef __APPLE__
#define st_mtim st_mtimespec
#endif

namespace nucel {

// Where mappings are, for the signal handler: it may run while other mappings come and go, so the list only grows, its
// entries are used again, and every field is read and written without a lock.
struct WatchedMapping {
    std::atomic<std::uintptr_t> begin{0}, end{0};
    std::atomic<bool> broken{false}, used{false};
    WatchedMapping* next = nullptr;

    static inline std::atomic<WatchedMapping*> first{nullptr};
    static inline struct sigaction previous{};
    static inline std::uintptr_t page_size = 0;

    static WatchedMapping* take() {
        static std::once_flag once;
        std::call_once(once, [] {
            page_size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
            struct sigaction action{};
            action.sa_sigaction = &on_bus_error;
            action.sa_flags = SA_SIGINFO | SA_ONSTACK;
            ::sigaction(SIGBUS, &action, &previous);
        });
        for (WatchedMapping* one = first; one; one = one->next) {
            if (!one->used.exchange(true)) return one;
        }
        auto* added = new WatchedMapping;
        added->used = true;
        added->next = first;
        while (!first.compare_exchange_weak(added->next, added)) {
        }
        return added;
    }

    static void on_bus_error(int signal, siginfo_t* info, void* context) {
        const int kept = errno;
        const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
        for (WatchedMapping* one = first; one; one = one->next) {
            const std::uintptr_t end = one->end;
            if (address < one->begin || address >= end) continue;
            // Zeros for all that follows as well: what lies behind a missing page is missing too, or in doubt.
            const std::uintptr_t page = address / page_size * page_size;
            void* zeros = ::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            if (zeros == MAP_FAILED) break;
            one->broken = true;
            errno = kept;
            return;
        }
        errno = kept;
        if (previous.sa_flags & SA_SIGINFO) {
            previous.sa_sigaction(signal, info, context);
        } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
            ::signal(SIGBUS, SIG_DFL);
            ::raise(SIGBUS);
        } else {
            previous.sa_handler(signal);
        }
    }
};

// A file's bytes, mapped read-only for as long as the object lives.
class MappedFile {
  public:
    // `path` must stay valid when the process changes its directory.
    explicit MappedFile(std::string path) : path_(std::move(path)) {
        const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) throw std::system_error(errno, std::generic_category(), "open");
        struct stat status{};
        int error = ::fstat(descriptor, &status) == 0 ? 0 : errno;
        if (error == 0) {
            size_ = status.st_size;
            changed_ = status.st_mtim;
        }
        if (error == 0 && size_ > 0) {
            void* address = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_SHARED, descriptor, 0);
            if (address == MAP_FAILED) {
                error = errno;
            } else {
                data_ = static_cast<const std::uint8_t*>(address);
                watched_ = WatchedMapping::take();
                watched_->broken = false;
                watched_->begin = reinterpret_cast<std::uintptr_t>(address);
                watched_->end = watched_->begin + static_cast<std::uintptr_t>(size_);
            }
        }
        ::close(descriptor);
        if (error != 0) throw std::system_error(error, std::generic_category(), "mmap");
    }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile() {
        if (!data_) return;
        watched_->end = 0;
        watched_->begin = 0;
        watched_->used = false;
        ::munmap(const_cast<std::uint8_t*>(data_), static_cast<std::size_t>(size_));
    }

    const std::uint8_t* data() const { return data_; }
    std::int64_t size() const { return size_; }

    // Throws ESTALE unless all that was read so far are the bytes the file had when it was opened.
    //
    // The path is asked, not a descriptor: thousands of files would need thousands of descriptors, and a file put in
    // the place of this one is found as well. Which inode it is does not matter: a copy with the same time and size,
    // as two processes make it that unpack one file at once, is as good, and the mapping shows the old one anyway.
    void require_unchanged() const {
        struct stat now{};
        if (::stat(path_.c_str(), &now) == 0 && now.st_size == size_ && now.st_mtim.tv_sec == changed_.tv_sec &&
            now.st_mtim.tv_nsec == changed_.tv_nsec && !(watched_ && watched_->broken)) {
            return;
        }
        throw std::system_error(ESTALE, std::generic_category(),
                                path_ + " was changed, cut short, replaced or removed while it was in use");
    }

  private:
    std::string path_;
    const std::uint8_t* data_ = nullptr;
    std::int64_t size_ = 0;
    struct timespec changed_{};
    WatchedMapping* watched_ = nullptr;
};

}  // namespace nucel
