// FASTA files as bytes: their records, found and checked in one opening, and base ranges read through the mapping.
//
// No index is read: opening looks at every byte anyway, and what it finds then is what any .fai could say at best. A
// Fasta that exists is a regular file: within a record all lines but the last have one length and one ending, so base
// i has an address. There is no alphabet here but the bytes that may stand in a line; their meaning comes in as tables
// of 256 values.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "mapped.hpp"
#include "threads.hpp"

namespace nucel {

// The file is not a regular FASTA; the message names record and line.
class FormatError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

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

// Classes of bases, as bits, since a base can be in several. They are defined only here; `_nucel` exports them. Which
// bytes are in which class is up to the caller's table: the alphabet is not known here.
enum BaseClass : std::uint8_t {
    gc = 1,       // G or C
    masked = 2,   // in lower case, as repeats are written
    unknown = 4,  // N and every other letter that is not a nucleotide
};

// Bases of a record in each class.
struct ClassCounts {
    std::int64_t gc = 0, masked = 0, unknown = 0;

    // Adds `count` bases whose classes are the bits of `classes`.
    void add(std::uint8_t classes, std::int64_t count) {
        if (classes & BaseClass::gc) gc += count;
        if (classes & BaseClass::masked) masked += count;
        if (classes & BaseClass::unknown) unknown += count;
    }
};

// One FASTA file, checked from end to end, and its records in the order of the file.
class Fasta {
  public:
    // Reads every byte. `classes` gives each byte its bits of BaseClass. Throws FormatError at the first irregularity.
    // Threads share the file in pieces of `piece` bytes or bases.
    Fasta(const std::string& path, const ByteTable& classes, int threads, std::int64_t piece = 1 << 22) : file_(path) {
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
    // Bases of each contig in each class.
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
            refuse(header,
                   "the header has a carriage return inside; are lines ended by CR alone? They must end with "
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
        record.length =
            bytes / record.line_width * record.line_bases + std::min(bytes % record.line_width, record.line_bases);
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
                    if (found[b] == 0) continue;
                    byte_counts_[b] += found[b];
                    class_counts_[chunk.contig].add(classes[static_cast<std::uint8_t>(b)], found[b]);
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
            const bool good =
                column < contig.line_bases ? belongs_in_line(*at) : *at == (column == width - 1 ? '\n' : '\r');
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

}  // namespace nucel
