// FASTA files as bytes: their records, found and checked in one opening, and base ranges read through the mapping.
//
// No index is read: opening looks at every byte anyway, and what it finds then is what any .fai could say at best. A
// Fasta that exists is a regular file: within a record all lines but the last have one length and one ending, so base
// i has an address. There is no alphabet here but the bytes that may stand in a line; their meaning comes in as tables
// of 256 values.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
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

#include "mapped.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define NUCEL_AVX2 1
#include <immintrin.h>
#endif

namespace nucel {

// The file is no regular FASTA; the message names record and line.
class FormatError : public std::runtime_error {
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

// How often each byte occurs.
using ByteCounts = std::array<std::int64_t, 256>;

#ifdef NUCEL_AVX2
// Counts the bytes that genomes consist of, in blocks small enough for counters of 8 bits. False, and nothing counted,
// where there are others. n must be a multiple of 32, and at most 255 * 32.
__attribute__((target("avx2"))) inline bool count_common_avx2(const std::uint8_t* in, std::int64_t n,
                                                              ByteCounts& counts) {
    constexpr std::size_t kinds = 12;
    constexpr char letters[kinds + 1] = "ACGTNacgtn\n\r";
    __m256i sums[kinds];
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    for (std::int64_t i = 0; i < n; i += 32) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
        for (std::size_t k = 0; k < kinds; ++k) {
            sums[k] = _mm256_sub_epi8(sums[k], _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(letters[k])));
        }
    }
    std::int64_t found[kinds];
    std::int64_t total = 0;
    for (std::size_t k = 0; k < kinds; ++k) {
        const __m256i quarters = _mm256_sad_epu8(sums[k], _mm256_setzero_si256());
        found[k] = _mm256_extract_epi64(quarters, 0) + _mm256_extract_epi64(quarters, 1) +
                   _mm256_extract_epi64(quarters, 2) + _mm256_extract_epi64(quarters, 3);
        total += found[k];
    }
    if (total != n) return false;
    for (std::size_t k = 0; k < kinds; ++k) counts[static_cast<std::uint8_t>(letters[k])] += found[k];
    return true;
}
#endif

// Adds the bytes [in, in + n) to the counts.
inline void count_bytes(const std::uint8_t* in, std::int64_t n, ByteCounts& counts) {
    const auto one_by_one = [&counts](const std::uint8_t* from, std::int64_t size) {
        // Four histograms side by side: runs of one letter would otherwise wait for their own last increment.
        std::array<std::array<std::uint32_t, 256>, 4> found{};
        std::int64_t i = 0;
        for (; i + 4 <= size; i += 4) {
            for (std::size_t k = 0; k < 4; ++k) ++found[k][from[i + static_cast<std::int64_t>(k)]];
        }
        for (; i < size; ++i) ++found[0][from[i]];
        for (std::size_t b = 0; b < 256; ++b) {
            for (const auto& one : found) counts[b] += one[b];
        }
    };
#ifdef NUCEL_AVX2
    static const bool has_avx2 = __builtin_cpu_supports("avx2");
    if (has_avx2) {
        constexpr std::int64_t block = 255 * 32;
        while (n >= 32) {
            const std::int64_t size = std::min(n / 32 * 32, block);
            if (!count_common_avx2(in, size, counts)) one_by_one(in, size);
            in += size;
            n -= size;
        }
        for (; n > 0; --n) ++counts[*in++];
        return;
    }
#endif
    // In pieces that 32 bits can count.
    constexpr std::int64_t piece = std::int64_t{1} << 30;
    for (; n > 0; in += std::min(n, piece), n -= std::min(n, piece)) one_by_one(in, std::min(n, piece));
}

// One record as a .fai index has it: `length` bases from byte `offset` on, `line_bases` to a line of `line_width`
// bytes. `header` is the byte of its '>', `end` the byte behind its last base.
struct Record {
    std::string name;
    std::int64_t header, end, length, offset, line_bases, line_width;
};

// The bases of a record.
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

// Letters are told apart by up to eight classes, whatever they mean to the caller.
using ClassCounts = std::array<std::int64_t, 8>;

// One FASTA file, checked from end to end, and its records in the order of the file.
class Fasta {
  public:
    // Reads every byte. `classes` gives each byte a class below 8. Throws FormatError at the first irregularity. Threads
    // share the file in pieces of `piece` bytes or bases.
    Fasta(const std::string& path, const ByteTable& classes, int threads, std::int64_t piece = 1 << 22)
        : file_(path) {
        const auto headers = find_headers(threads, piece);
        // What was cut short meanwhile reads as zeros, and should not be called a fault of the format.
        try {
            for (std::size_t i = 0; i < headers.size(); ++i) {
                records_.push_back(record_at(headers[i], i + 1 < headers.size() ? headers[i + 1] : file_.size()));
                const Record& r = records_.back();
                contigs_.push_back({file_.data() + r.offset, r.length, r.line_bases, r.line_width});
            }
            check_and_count(classes, threads, piece);
        } catch (const FormatError&) {
            file_.require_unchanged();
            throw;
        }
        file_.require_unchanged();
    }

    const std::vector<Record>& records() const { return records_; }
    const std::vector<Contig>& contigs() const { return contigs_; }
    // Bases of each contig by class.
    const std::vector<ClassCounts>& class_counts() const { return class_counts_; }
    // Bases of the file by byte.
    const ByteCounts& byte_counts() const { return byte_counts_; }
    // 1-based number of the line that holds byte `at`.
    std::int64_t line_of(std::int64_t at) const { return 1 + std::count(file_.data(), file_.data() + at, '\n'); }
    void require_unchanged() const { file_.require_unchanged(); }

  private:
    static bool is_space(std::uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }
    // Letters, gaps, a stop codon, and what alignments write for a base that is not known.
    static bool belongs_in_line(std::uint8_t byte) {
        const auto letter = static_cast<std::uint8_t>(byte | 32);
        return (letter >= 'a' && letter <= 'z') || byte == '-' || byte == '.' || byte == '*' || byte == '?';
    }

    [[noreturn]] void refuse(std::int64_t at, const std::string& what) const {
        throw FormatError("line " + std::to_string(line_of(at)) + ": " + what);
    }

    // A name for messages: short, and text whatever it consists of.
    static std::string shown(const std::string& name) {
        std::string text = name.substr(0, 60);
        for (char& c : text) c = c > ' ' && c < 127 ? c : '?';
        return "'" + text + (name.size() > 60 ? "...'" : "'");
    }

    // Bytes of each '>' that begins a line.
    std::vector<std::int64_t> find_headers(int threads, std::int64_t piece) const {
        const std::uint8_t* data = file_.data();
        const std::int64_t size = file_.size();
        std::vector<std::vector<std::int64_t>> found(static_cast<std::size_t>((size + piece - 1) / piece));
        for_each_task(static_cast<std::int64_t>(found.size()), threads, [&](std::int64_t i) {
            const std::uint8_t* end = data + std::min(size, (i + 1) * piece);
            for (const std::uint8_t* at = data + i * piece; at < end; ++at) {
                at = static_cast<const std::uint8_t*>(std::memchr(at, '>', static_cast<std::size_t>(end - at)));
                if (!at) return;
                if (at == data || at[-1] == '\n') found[static_cast<std::size_t>(i)].push_back(at - data);
            }
        });
        std::vector<std::int64_t> all;
        for (const auto& some : found) all.insert(all.end(), some.begin(), some.end());
        std::int64_t first = 0;
        while (first < size && is_space(data[first])) ++first;
        if (first == size) {
            file_.require_unchanged();
            throw FormatError("the file is empty");
        }
        if (all.empty() || all[0] != first) {
            file_.require_unchanged();
            refuse(first, "no FASTA record begins here; the text should begin with '>'");
        }
        return all;
    }

    // The record whose header begins at byte `header`, as its first line and its size tell; `next` ends it.
    Record record_at(std::int64_t header, std::int64_t next) const {
        const std::uint8_t* data = file_.data();
        const auto end_of_line = [&](std::int64_t from, std::int64_t to) {
            const void* at = from < to ? std::memchr(data + from, '\n', static_cast<std::size_t>(to - from)) : nullptr;
            return at ? static_cast<const std::uint8_t*>(at) - data : to;
        };
        const std::int64_t newline = end_of_line(header, next);
        const std::int64_t text_end = newline > header && data[newline - 1] == '\r' ? newline - 1 : newline;
        if (std::find(data + header, data + text_end, '\r') != data + text_end) {
            refuse(header, "the header has a carriage return inside; are lines ended by CR alone? They must end with "
                           "LF or CRLF");
        }
        std::int64_t name = header + 1;
        while (name < text_end && is_space(data[name])) ++name;
        std::int64_t name_end = name;
        while (name_end < text_end && data[name_end] > ' ') ++name_end;
        if (name == name_end) refuse(header, "this record has no name");
        Record record{std::string(data + name, data + name_end), header, 0, 0, std::min(newline + 1, next), 1, 1};
        record.end = next;
        while (record.end > record.offset && is_space(data[record.end - 1])) --record.end;
        const std::int64_t bytes = record.end - record.offset;
        if (bytes == 0) return record;
        const std::int64_t line_end = end_of_line(record.offset, record.end);
        if (line_end == record.end) {
            record.length = record.line_bases = bytes;
            record.line_width = bytes + 1;
            return record;
        }
        record.line_width = line_end - record.offset + 1;
        record.line_bases = record.line_width - 1 - (line_end > record.offset && data[line_end - 1] == '\r' ? 1 : 0);
        if (record.line_bases == 0) refuse(record.offset, "record " + shown(record.name) + " begins with a blank line");
        record.length = bytes / record.line_width * record.line_bases +
                        std::min(bytes % record.line_width, record.line_bases);
        return record;
    }

    // Compares every byte of every record with what its first line lets expect, and counts the bases.
    void check_and_count(const ByteTable& classes, int threads, std::int64_t piece) {
        struct Chunk {
            std::size_t contig;
            std::int64_t start, end;
        };
        // Long contigs are cut, so that threads share them, and short ones go together, so that a task is worth it.
        std::vector<Chunk> chunks;
        std::vector<std::size_t> tasks;
        std::int64_t room = 0;
        for (std::size_t c = 0; c < contigs_.size(); ++c) {
            for (std::int64_t start = 0; start < contigs_[c].length; start += piece) {
                const std::int64_t end = std::min(start + piece, contigs_[c].length);
                if (room < end - start) {
                    tasks.push_back(chunks.size());
                    room = piece;
                }
                room -= end - start;
                chunks.push_back({c, start, end});
            }
        }
        tasks.push_back(chunks.size());
        class_counts_.assign(contigs_.size(), ClassCounts{});
        std::mutex guard;
        std::int64_t first_bad = file_.size();
        std::size_t bad_contig = 0;
        for_each_task(static_cast<std::int64_t>(tasks.size()) - 1, threads, [&](std::int64_t t) {
            const auto task = static_cast<std::size_t>(t);
            for (std::size_t i = tasks[task]; i < tasks[task + 1]; ++i) {
                const Chunk& chunk = chunks[i];
                ByteCounts found{};
                const std::int64_t bad = check_chunk(chunk.contig, chunk.start, chunk.end, found);
                const std::lock_guard<std::mutex> hold(guard);
                for (std::size_t b = 0; b < 256; ++b) {
                    byte_counts_[b] += found[b];
                    class_counts_[chunk.contig][classes[static_cast<std::uint8_t>(b)] & 7] += found[b];
                }
                if (bad >= 0 && bad < first_bad) {
                    first_bad = bad;
                    bad_contig = chunk.contig;
                }
            }
        });
        if (first_bad < file_.size()) complain(records_[bad_contig], first_bad);
    }

    // Counts the bases [start, end) and returns the first byte of the file that should not be there, or -1.
    std::int64_t check_chunk(std::size_t c, std::int64_t start, std::int64_t end, ByteCounts& found) const {
        const Contig& contig = contigs_[c];
        const std::int64_t width = contig.line_width;
        const std::int64_t ending = width - contig.line_bases;
        // With the line ends between the bases: counting all bytes in a row is much faster than line by line.
        const std::uint8_t* from = contig.address(start);
        const std::uint8_t* to = end == contig.length ? file_.data() + records_[c].end : contig.address(end);
        count_bytes(from, to - from, found);
        // If the line ends are where they belong, and as many as there are, all other bytes stand among the bases.
        std::int64_t line_ends = 0;
        bool clean = end < contig.length || to == contig.address(end - 1) + 1;
        for (const std::uint8_t* at = contig.bytes + (from - contig.bytes) / width * width + width - 1; at < to;
             at += width) {
            clean = clean && *at == '\n' && (ending == 1 || at[-1] == '\r');
            ++line_ends;
        }
        clean = clean && found['\n'] == line_ends && found['\r'] == (ending == 1 ? 0 : line_ends);
        found['\n'] = found['\r'] = 0;
        for (std::size_t b = 0; b < 256; ++b) {
            clean = clean && (found[b] == 0 || belongs_in_line(static_cast<std::uint8_t>(b)));
        }
        if (clean) return -1;
        for (const std::uint8_t* at = from; at < to; ++at) {
            const std::int64_t column = (at - contig.bytes) % width;
            const bool good = column < contig.line_bases ? belongs_in_line(*at)
                                                         : *at == (column == width - 1 ? '\n' : '\r');
            if (!good) return at - file_.data();
        }
        return to - file_.data() - 1;
    }

    [[noreturn]] void complain(const Record& record, std::int64_t at) const {
        const std::uint8_t byte = file_.data()[at];
        std::string what = "byte " + std::to_string(byte) + " stands among the bases";
        if (byte == '\n' || byte == '\r') {
            what = "the line ends early";
        } else if (belongs_in_line(byte)) {
            what = "the line goes on too long";
        } else if (byte > ' ' && byte < 127) {
            what = std::string("a '") + static_cast<char>(byte) + "' stands among the bases";
        }
        refuse(at, what + "; record " + shown(record.name) + " has " + std::to_string(record.line_bases) +
                       " bases in each line but the last");
    }

    MappedFile file_;
    std::vector<Record> records_;
    std::vector<Contig> contigs_;
    std::vector<ClassCounts> class_counts_;
    ByteCounts byte_counts_{};
};

// The contigs of one or several files, numbered through.
class Genome {
  public:
    explicit Genome(std::vector<std::shared_ptr<const Fasta>> files) : files_(std::move(files)) {
        for (const auto& file : files_) {
            contigs_.insert(contigs_.end(), file->contigs().begin(), file->contigs().end());
            contigs_end_.push_back(static_cast<std::int64_t>(contigs_.size()));
        }
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
        const auto number = static_cast<std::int32_t>(contig);
        require_unchanged(&number, 1);
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
                    // Values first and their sum afterwards: the compiler has vectors for either, but not for both.
                    std::array<std::uint8_t, 1024> values;
                    while (bases > 0) {
                        const std::int64_t some = std::min<std::int64_t>(bases, values.size());
                        table.translate<false>(line, some, values.data());
                        std::int64_t part = 0;
                        for (std::int64_t k = 0; k < some; ++k) part += values[static_cast<std::size_t>(k)];
                        total += part;
                        line += some;
                        bases -= some;
                    }
                });
                totals[i] = total;
            }
        });
        require_unchanged(contig, n);
    }

    // To be asked after reading from these contigs, before the result is handed on: throws if their files changed.
    void require_unchanged(const std::int32_t* contig, std::int64_t n) const {
        std::vector<bool> asked(files_.size());
        for (std::int64_t i = 0; i < n; ++i) {
            const auto file = std::upper_bound(contigs_end_.begin(), contigs_end_.end(), contig[i]);
            const auto f = static_cast<std::size_t>(file - contigs_end_.begin());
            if (!asked[f]) files_[f]->require_unchanged();
            asked[f] = true;
        }
    }

  private:
    std::vector<std::shared_ptr<const Fasta>> files_;
    std::vector<Contig> contigs_;
    std::vector<std::int64_t> contigs_end_;  // of each file
};

}  // namespace nucel
