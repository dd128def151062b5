// FASTA files as bytes: a read-only mapping, the records a .fai index describes, and base ranges read through it.
//
// An index is never trusted. Opening checks that every record lies inside the file, so that no later read can leave it;
// `Fasta::scan` then compares the index with every byte. There is no alphabet here: the meaning of a byte comes in as a
// table of 256 values.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define NUCEL_AVX2 1
#include <immintrin.h>
#endif

namespace nucel {

// The index does not describe the file.
class IndexMismatch : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

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

// A file's bytes, mapped read-only for as long as the object lives.
class MappedFile {
  public:
    explicit MappedFile(const std::string& path) {
        const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) throw std::system_error(errno, std::generic_category(), "open");
        struct stat status {};
        int error = ::fstat(descriptor, &status) == 0 ? 0 : errno;
        if (error == 0 && status.st_size > 0) {
            size_ = status.st_size;
            void* address = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_SHARED, descriptor, 0);
            if (address == MAP_FAILED) {
                error = errno;
            } else {
                data_ = static_cast<const std::uint8_t*>(address);
            }
        }
        ::close(descriptor);
        if (error != 0) throw std::system_error(error, std::generic_category(), "mmap");
    }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile() {
        if (data_) ::munmap(const_cast<std::uint8_t*>(data_), static_cast<std::size_t>(size_));
    }

    const std::uint8_t* data() const { return data_; }
    std::int64_t size() const { return size_; }

  private:
    const std::uint8_t* data_ = nullptr;
    std::int64_t size_ = 0;
};

// A function of one byte given by its 256 values, applied to runs of bytes.
//
// The vector path cuts the table into 16 rows by a byte's upper half. Rows that hold nothing but the commonest value
// cost nothing, so a table that is interesting only at letters costs four shuffles for 32 bytes.
class ByteTable {
  public:
    explicit ByteTable(const std::uint8_t* values) {
        std::copy_n(values, 256, values_.begin());
        std::array<int, 256> uses{};
        for (const std::uint8_t value : values_) ++uses[value];
        common_ = static_cast<std::uint8_t>(std::max_element(uses.begin(), uses.end()) - uses.begin());
        for (int row = 0; row < 16; ++row) {
            const auto first = values_.begin() + 16 * row;
            if (std::any_of(first, first + 16, [&](std::uint8_t v) { return v != common_; })) rows_[row_count_++] = row;
        }
    }

    std::uint8_t operator[](std::uint8_t byte) const { return values_[byte]; }

    // out[i] = table[in[i]]; with `Reverse`, out[n - 1 - i] = table[in[i]]. The ranges must not overlap.
    template <bool Reverse>
    void translate(const std::uint8_t* in, std::int64_t n, std::uint8_t* out) const {
#ifdef NUCEL_AVX2
        static const bool has_avx2 = __builtin_cpu_supports("avx2");
        if (has_avx2 && n >= 32) return translate_avx2<Reverse>(in, n, out);
#endif
        for (std::int64_t i = 0; i < n; ++i) out[Reverse ? n - 1 - i : i] = values_[in[i]];
    }

  private:
#ifdef NUCEL_AVX2
    template <bool Reverse>
    __attribute__((target("avx2"))) void translate_avx2(const std::uint8_t* in, std::int64_t n,
                                                        std::uint8_t* out) const {
        const __m256i common = _mm256_set1_epi8(static_cast<char>(common_));
        const __m256i backwards = _mm256_broadcastsi128_si256(
            _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        __m256i row_values[16];
        __m256i row_bits[16];
        for (int r = 0; r < row_count_; ++r) {
            const auto* row = reinterpret_cast<const __m128i*>(values_.data() + 16 * rows_[r]);
            row_values[r] = _mm256_xor_si256(_mm256_broadcastsi128_si256(_mm_loadu_si128(row)), common);
            row_bits[r] = _mm256_set1_epi8(static_cast<char>(rows_[r] << 4));
        }
        const __m256i overflow = _mm256_set1_epi8(0x70);
        // The last step starts at n - 32 and does some bytes a second time instead of leaving a tail.
        for (std::int64_t i = 0; i < n; i += 32) {
            const std::int64_t at = std::min(i, n - 32);
            const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + at));
            __m256i value = common;
            for (int r = 0; r < row_count_; ++r) {
                // A byte of this row becomes its column; of any other, a number with the top bit set, which shuffles 0.
                const __m256i column = _mm256_adds_epu8(_mm256_xor_si256(bytes, row_bits[r]), overflow);
                value = _mm256_xor_si256(value, _mm256_shuffle_epi8(row_values[r], column));
            }
            if (Reverse) {
                value = _mm256_shuffle_epi8(value, backwards);
                value = _mm256_permute2x128_si256(value, value, 1);
            }
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (Reverse ? n - 32 - at : at)), value);
        }
    }
#endif

    std::array<std::uint8_t, 256> values_{};
    std::array<int, 16> rows_{};
    int row_count_ = 0;
    std::uint8_t common_ = 0;
};

// One line of a .fai index: `length` bases from byte `offset` on, `line_bases` to a line of `line_width` bytes.
struct Record {
    std::string name;
    std::int64_t length, offset, line_bases, line_width;
};

// A record that is known to lie inside its file.
struct Contig {
    const std::uint8_t* bytes;  // of the first base
    std::int64_t length, line_bases, line_width;

    const std::uint8_t* address(std::int64_t base) const {
        return bytes + base / line_bases * line_width + base % line_bases;
    }

    // Calls visit(bytes, count) for each stretch of bases in [start, end) that shares a line.
    template <class Visit>
    void for_each_line(std::int64_t start, std::int64_t end, const Visit& visit) const {
        if (start >= end) return;
        const std::uint8_t* line = bytes + start / line_bases * line_width;
        std::int64_t column = start % line_bases;
        for (std::int64_t left = end - start; left > 0; line += line_width, column = 0) {
            const std::int64_t count = std::min(line_bases - column, left);
            visit(line + column, count);
            left -= count;
        }
    }

    // Copies the letters of [start, end) to out.
    void read(std::int64_t start, std::int64_t end, std::uint8_t* out) const {
        for_each_line(start, end, [&out](const std::uint8_t* line, std::int64_t count) {
            std::memcpy(out, line, static_cast<std::size_t>(count));
            out += count;
        });
    }
};

// One FASTA file and its records, in the order of the file.
class Fasta {
  public:
    Fasta(const std::string& path, std::vector<Record> records) : file_(path), records_(std::move(records)) {
        for (const Record& record : records_) contigs_.push_back(locate(record));
    }

    const std::vector<Contig>& contigs() const { return contigs_; }

    // Compares the index with every byte of the file and adds up the letters of each contig in counts[contig * 256 +
    // byte]. Throws IndexMismatch, naming contig and line, at the first byte that is not what the index says.
    void scan(std::int64_t* counts, int threads) const {
        check_between_records();
        struct Chunk {
            std::size_t contig;
            std::int64_t start, end;
        };
        constexpr std::int64_t chunk_bases = 1 << 22;
        std::vector<Chunk> chunks;
        for (std::size_t c = 0; c < contigs_.size(); ++c) {
            for (std::int64_t start = 0; start < contigs_[c].length; start += chunk_bases) {
                chunks.push_back({c, start, std::min(start + chunk_bases, contigs_[c].length)});
            }
        }
        std::mutex guard;
        std::int64_t first_bad = file_.size();
        std::size_t bad_contig = 0;
        for_each_task(static_cast<std::int64_t>(chunks.size()), threads, [&](std::int64_t i) {
            const Chunk& chunk = chunks[static_cast<std::size_t>(i)];
            std::array<std::int64_t, 256> found{};
            const std::int64_t bad = scan_chunk(contigs_[chunk.contig], chunk.start, chunk.end, found);
            const std::lock_guard<std::mutex> hold(guard);
            for (std::size_t b = 0; b < 256; ++b) counts[chunk.contig * 256 + b] += found[b];
            if (bad >= 0 && bad < first_bad) {
                first_bad = bad;
                bad_contig = chunk.contig;
            }
        });
        if (first_bad < file_.size()) complain_about_line(records_[bad_contig], first_bad);
    }

  private:
    static bool is_space(std::uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }
    static bool belongs_in_line(std::size_t byte) { return byte > 32 && byte != '>'; }

    // Bounds, and nothing else: all later arithmetic on the record stays inside the file.
    Contig locate(const Record& r) const {
        const auto refuse = [&r](const std::string& why) {
            throw IndexMismatch("the index entry of contig '" + r.name + "' " + why);
        };
        const std::int64_t size = file_.size();
        if (r.offset < 0 || r.offset > size || r.length < 0 || r.length > size - r.offset) {
            refuse("lies outside the file: " + std::to_string(r.length) + " bases from byte " +
                   std::to_string(r.offset) + " on, in a file of " + std::to_string(size) + " bytes");
        }
        if (r.length == 0) return {file_.data() + r.offset, 0, 1, 1};
        const bool one_line = r.length <= r.line_bases;
        // 0 <= line_bases must hold before the subtraction, which then cannot overflow.
        if (r.line_bases < 1 || r.line_width < r.line_bases || r.line_width - r.line_bases > 2 ||
            (r.line_width == r.line_bases && !one_line)) {
            refuse("has impossible lines: " + std::to_string(r.line_bases) + " bases in " +
                   std::to_string(r.line_width) + " bytes");
        }
        const std::int64_t last = (r.length - 1) / r.line_bases * r.line_width + (r.length - 1) % r.line_bases;
        if (last >= size - r.offset) {
            refuse("goes on past the end of the file: " + std::to_string(r.length) + " bases from byte " +
                   std::to_string(r.offset) + " on, " + std::to_string(r.line_bases) + " to a line");
        }
        return {file_.data() + r.offset, r.length, r.line_bases, r.line_width};
    }

    // Between two records there is white space and the second one's header line; after the last, white space.
    void check_between_records() const {
        const std::uint8_t* data = file_.data();
        const std::int64_t size = file_.size();
        std::int64_t at = 0;
        for (std::size_t c = 0; c <= contigs_.size(); ++c) {
            while (at < size && is_space(data[at])) ++at;
            const bool starts_line = at == 0 || at == size || data[at - 1] == '\n';
            if (c == contigs_.size()) {
                if (at < size) {
                    throw IndexMismatch("the file goes on after the last record of its index, at line " +
                                        std::to_string(line_of(at)));
                }
                return;
            }
            const Record& record = records_[c];
            const auto refuse = [&](const std::string& why) {
                throw IndexMismatch("contig '" + record.name + "': " + why);
            };
            if (at == size || data[at] != '>' || !starts_line) {
                refuse("the record before it is longer than its index entry, or has a header of its own, at line " +
                       std::to_string(line_of(at)));
            }
            const void* newline = std::memchr(data + at, '\n', static_cast<std::size_t>(size - at));
            const std::int64_t after = newline ? static_cast<const std::uint8_t*>(newline) - data + 1 : size;
            std::int64_t name = at + 1;
            while (name < after && is_space(data[name])) ++name;
            const auto name_size = static_cast<std::int64_t>(record.name.size());
            const bool same_name = name_size <= after - name &&
                                   std::memcmp(record.name.data(), data + name, record.name.size()) == 0;
            // A byte above 127 after the name may begin one of the wide spaces at which pyfaidx ends a name.
            const bool ends = name + name_size >= after || data[name + name_size] <= 32 || data[name + name_size] > 127;
            if (after != record.offset || !same_name || !ends) {
                refuse("the header at line " + std::to_string(line_of(at)) + " is not the one in the index");
            }
            const Contig& contig = contigs_[c];
            at = after;
            if (contig.length > 0) {
                at = contig.address(contig.length - 1) - data + 1;
                if (at < size && !is_space(data[at])) {
                    refuse("line " + std::to_string(line_of(at)) +
                           " goes on after the length in the index, or is longer than those before it");
                }
            }
        }
    }

    // Counts the letters of [start, end) and returns the position of the first wrong byte in the file, or -1.
    std::int64_t scan_chunk(const Contig& contig, std::int64_t start, std::int64_t end,
                            std::array<std::int64_t, 256>& found) const {
        // Eight histograms side by side: runs of one letter would otherwise wait for their own last increment.
        std::array<std::array<std::uint32_t, 256>, 8> counts{};
        const std::uint8_t* bad = nullptr;
        const std::int64_t ending = contig.line_width - contig.line_bases;
        std::int64_t base = start;
        contig.for_each_line(start, end, [&](const std::uint8_t* line, std::int64_t count) {
            std::int64_t i = 0;
            for (; i + 8 <= count; i += 8) {
                std::uint64_t eight;
                std::memcpy(&eight, line + i, 8);
                for (std::size_t k = 0; k < 8; ++k) ++counts[k][(eight >> (8 * k)) & 255];
            }
            for (; i < count; ++i) ++counts[0][line[i]];
            base += count;
            if (base < contig.length && base % contig.line_bases == 0 && !bad) {
                const std::uint8_t* at = line + count;
                if (ending == 2 && *at == '\r') ++at;
                if (at != line + count + ending - 1 || *at != '\n') bad = at;
            }
        });
        bool clean = true;
        for (std::size_t b = 0; b < 256; ++b) {
            for (const auto& one : counts) found[b] += one[b];
            clean = clean && (found[b] == 0 || belongs_in_line(b));
        }
        if (!clean) {
            contig.for_each_line(start, end, [&](const std::uint8_t* line, std::int64_t count) {
                if (bad && bad < line) return;
                const auto* wrong = std::find_if_not(line, line + count, belongs_in_line);
                if (wrong != line + count) bad = wrong;
            });
        }
        return bad ? bad - file_.data() : -1;
    }

    [[noreturn]] void complain_about_line(const Record& record, std::int64_t at) const {
        const int byte = file_.data()[at];
        std::string what = "byte " + std::to_string(byte) + " stands among the bases";
        if (byte == '\n' || byte == '\r') {
            what = "the line ends early";
        } else if (byte == '>') {
            what = "a '>' stands among the bases";
        } else if (belongs_in_line(static_cast<std::size_t>(byte))) {
            what = "the line goes on too long";
        }
        throw IndexMismatch("contig '" + record.name + "', line " + std::to_string(line_of(at)) + ": " + what + "; " +
                            std::to_string(record.line_bases) + " bases are expected in each line but the last");
    }

    // 1-based number of the line that holds byte `at`.
    std::int64_t line_of(std::int64_t at) const { return 1 + std::count(file_.data(), file_.data() + at, '\n'); }

    MappedFile file_;
    std::vector<Record> records_;
    std::vector<Contig> contigs_;
};

// The contigs of one or several files, numbered through.
class Genome {
  public:
    explicit Genome(std::vector<std::shared_ptr<const Fasta>> files) : files_(std::move(files)) {
        for (const auto& file : files_) contigs_.insert(contigs_.end(), file->contigs().begin(), file->contigs().end());
    }

    // The contig, once it is certain that it has the bases [start, start + count).
    const Contig& at(std::int64_t contig, std::int64_t start, std::int64_t count) const {
        if (contig < 0 || contig >= static_cast<std::int64_t>(contigs_.size())) {
            throw std::out_of_range("contig " + std::to_string(contig) + " of " + std::to_string(contigs_.size()));
        }
        const Contig& found = contigs_[static_cast<std::size_t>(contig)];
        if (start < 0 || count < 0 || count > found.length || start > found.length - count) {
            throw std::out_of_range(std::to_string(count) + " bases from " + std::to_string(start) + " on, of contig " +
                                    std::to_string(contig) + ", which has " + std::to_string(found.length));
        }
        return found;
    }

    void fetch(std::int64_t contig, std::int64_t start, std::int64_t end, const ByteTable& table, bool reverse,
               std::uint8_t* out) const {
        const Contig& source = at(contig, start, end - start);
        if (reverse) out += end - start;
        source.for_each_line(start, end, [&](const std::uint8_t* line, std::int64_t count) {
            if (reverse) {
                out -= count;
                table.translate<true>(line, count, out);
            } else {
                table.translate<false>(line, count, out);
                out += count;
            }
        });
    }

    // totals[i] = sum of table[byte] over the `count` bases from start[i] on.
    void sum(const std::int32_t* contig, const std::int64_t* start, std::int64_t n, std::int64_t count,
             const ByteTable& table, int threads, std::int64_t* totals) const {
        constexpr std::int64_t per_task = 512;
        for_each_task((n + per_task - 1) / per_task, threads, [&](std::int64_t task) {
            for (std::int64_t i = task * per_task; i < std::min(n, (task + 1) * per_task); ++i) {
                const Contig& source = at(contig[i], start[i], count);
                std::int64_t total = 0;
                source.for_each_line(start[i], start[i] + count, [&](const std::uint8_t* line, std::int64_t bases) {
                    for (std::int64_t k = 0; k < bases; ++k) total += table[line[k]];
                });
                totals[i] = total;
            }
        });
    }

  private:
    std::vector<std::shared_ptr<const Fasta>> files_;
    std::vector<Contig> contigs_;
};

}  // namespace nucel
