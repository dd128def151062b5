// Any bytes as a FASTA file: the reader must refuse them, or read them as a slow reader does, which shares no code with
// it.
//
// With libFuzzer this is a coverage-guided fuzzer. With -DNUCEL_MUTATE it is a program for any compiler that alters the
// files it is given, NUMBER times each, in the same way in each run: fuzz_fasta NUMBER FILE...
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../../csrc/bytes.hpp"
#include "../../csrc/fasta.hpp"
#include "../../csrc/genome.hpp"
#include "../../csrc/random.hpp"
#include "../../csrc/sampler.hpp"

namespace {

struct SlowRecord {
    std::string name, bases;
};

bool blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r'; }
bool all_blank(const std::string& line) { return std::all_of(line.begin(), line.end(), blank); }
bool is_base(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || std::string("-.*?").find(c) != std::string::npos;
}

// The bases of a record's lines, or nothing where they are not regular.
std::optional<std::string> slow_bases(std::vector<std::string> lines) {
    while (!lines.empty() && all_blank(lines.back())) lines.pop_back();
    if (lines.empty()) return "";
    while (blank(lines.back().back())) lines.back().pop_back();
    const bool crlf = lines.size() > 1 && !lines[0].empty() && lines[0].back() == '\r';
    for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
        if (crlf && (lines[i].empty() || lines[i].back() != '\r')) return {};
        if (crlf) lines[i].pop_back();
        if (lines[i].empty() || lines[i].size() != lines[0].size()) return {};
    }
    if (lines.size() > 1 && lines.back().size() > lines[0].size()) return {};
    std::string bases;
    for (const std::string& line : lines) bases += line;
    if (!std::all_of(bases.begin(), bases.end(), is_base)) return {};
    return bases;
}

std::optional<std::vector<SlowRecord>> slow_records(const std::string& text) {
    std::vector<std::string> lines{""};
    for (const char c : text) {
        if (c == '\n') {
            lines.emplace_back();
        } else {
            lines.back() += c;
        }
    }
    std::vector<SlowRecord> records;
    std::vector<std::vector<std::string>> bodies;
    for (std::string& line : lines) {
        if (!line.empty() && line[0] == '>') {
            if (line.back() == '\r') line.pop_back();
            if (line.find('\r') != std::string::npos) return {};
            std::string name = line.substr(1);
            while (!name.empty() && blank(name[0])) name.erase(0, 1);
            std::size_t size = 0;
            while (size < name.size() && static_cast<unsigned char>(name[size]) > ' ') ++size;
            if (size == 0) return {};
            records.push_back({name.substr(0, size), ""});
            bodies.emplace_back();
        } else if (!records.empty()) {
            bodies.back().push_back(line);
        } else if (!all_blank(line)) {
            return {};
        }
    }
    for (std::size_t i = 0; i < records.size(); ++i) {
        const auto bases = slow_bases(bodies[i]);
        if (!bases) return {};
        records[i].bases = *bases;
    }
    if (records.empty()) return {};
    return records;
}

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz_fasta: %s\n", what);
    std::abort();
}

nucel::ByteTable table_of(std::uint8_t (*value)(std::uint8_t)) {
    std::uint8_t values[256];
    for (int b = 0; b < 256; ++b) values[b] = value(static_cast<std::uint8_t>(b));
    return nucel::ByteTable(values);
}

void compare(const std::shared_ptr<const nucel::Fasta>& fasta, const std::vector<SlowRecord>& expected) {
    const nucel::ByteTable same = table_of([](std::uint8_t b) { return b; });
    const nucel::ByteTable turned = table_of([](std::uint8_t b) { return static_cast<std::uint8_t>(b * 7 + 1); });
    const nucel::Genome genome({fasta});
    require(fasta->records().size() == expected.size(), "another number of records");
    nucel::ByteCounts counts{};
    std::vector<std::int32_t> contig;
    std::vector<std::int64_t> start;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const std::string& bases = expected[i].bases;
        const auto length = static_cast<std::int64_t>(bases.size());
        require(fasta->records()[i].name == expected[i].name, "another name");
        require(fasta->contigs()[i].length == length, "another length");
        std::array<std::int64_t, 3> classes{};
        for (const char c : bases) {
            ++counts[static_cast<std::uint8_t>(c)];
            for (std::size_t bit = 0; bit < 3; ++bit) classes[bit] += static_cast<std::uint8_t>(c) >> bit & 1;
        }
        const nucel::ClassCounts& counted = fasta->class_counts()[i];
        require(counted.gc == classes[0] && counted.masked == classes[1] && counted.unknown == classes[2],
                "other counts of classes");
        // The whole and some pieces of it, forwards and backwards.
        for (std::int64_t k = 0; k < 4; ++k) {
            const std::int64_t from = k * length / 7;
            const std::int64_t to = length - k * length / 5;
            if (from >= to) continue;
            std::string read(static_cast<std::size_t>(to - from), '\0');
            auto* out = reinterpret_cast<std::uint8_t*>(read.data());
            genome.fetch(static_cast<std::int64_t>(i), from, to, same, false, out);
            const std::string piece = bases.substr(static_cast<std::size_t>(from), read.size());
            require(read == piece, "other bases");
            genome.fetch(static_cast<std::int64_t>(i), from, to, turned, true, out);
            for (std::size_t b = 0; b < read.size(); ++b) {
                const auto byte = static_cast<std::uint8_t>(piece[read.size() - 1 - b]);
                require(static_cast<std::uint8_t>(read[b]) == turned[byte], "other bases backwards");
            }
        }
        for (std::int64_t at = 0; at + 5 <= length; at += 1 + length / 3) {
            contig.push_back(static_cast<std::int32_t>(i));
            start.push_back(at);
        }
    }
    require(fasta->byte_counts() == counts, "other counts of bytes");
    if (contig.empty()) return;
    const auto n = static_cast<std::int64_t>(contig.size());
    std::vector<std::int64_t> totals(contig.size());
    genome.sum(contig.data(), start.data(), n, 5, turned, 1, totals.data());
    for (std::size_t w = 0; w < totals.size(); ++w) {
        std::int64_t total = 0;
        for (std::size_t b = 0; b < 5; ++b) {
            const char c = expected[static_cast<std::size_t>(contig[w])].bases[static_cast<std::size_t>(start[w]) + b];
            total += turned[static_cast<std::uint8_t>(c)];
        }
        require(totals[w] == total, "another sum");
    }
    const nucel::Sampler sampler(genome, {contig.data(), start.data(), n, 5, {{n, n}}}, {5, 7, true, same, turned, 1});
    constexpr std::int64_t rows = 3;
    std::uint8_t tokens[rows * 5];
    std::int32_t contigs[rows];
    std::int64_t starts[rows];
    std::int8_t strands[rows];
    sampler.fill(11, rows, 1, {tokens, contigs, starts, strands});
    for (std::size_t r = 0; r < rows; ++r) {
        const std::string& bases = expected[static_cast<std::size_t>(contigs[r])].bases;
        for (std::size_t b = 0; b < 4; ++b) {
            const bool forward = strands[r] > 0;
            const auto byte =
                static_cast<std::uint8_t>(bases[static_cast<std::size_t>(starts[r]) + (forward ? b : 3 - b)]);
            require(tokens[r * 5 + 1 + b] == (forward ? same[byte] : turned[byte]), "another row");
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const int file = ::memfd_create("fasta", 0);
    static const std::string path = "/proc/self/fd/" + std::to_string(file);
    static const nucel::ByteTable classes = table_of([](std::uint8_t b) { return static_cast<std::uint8_t>(b % 8); });
    require(::ftruncate(file, 0) == 0 && ::pwrite(file, data, size, 0) == static_cast<ssize_t>(size), "no memory file");
    const auto expected = slow_records(std::string(data, data + size));
    // Small pieces, so that small files have many.
    const std::int64_t piece = size % 3 == 0 ? 1 << 22 : 1 + static_cast<std::int64_t>(size % 41);
    std::shared_ptr<const nucel::Fasta> fasta;
    try {
        fasta = std::make_shared<nucel::Fasta>(path, classes, 1, piece);
    } catch (const nucel::FormatError& refusal) {
        require(std::strlen(refusal.what()) > 10, "a refusal without a reason");
    }
    require(static_cast<bool>(fasta) == expected.has_value(), fasta ? "irregular, but read" : "regular, but refused");
    if (fasta) compare(fasta, *expected);
    return 0;
}

#ifdef NUCEL_MUTATE
int main(int count, char** arguments) {
    require(count >= 3, "usage: fuzz_fasta NUMBER FILE...");
    const long times = std::atol(arguments[1]);
    std::uint64_t counter = 0;
    const auto random = [&counter](std::size_t below) { return nucel::draw(20, counter++) % below; };
    const std::string telling = ">>\n\n\r\r \t;\0ACGTNacgtnRY-*?.0123\x7f\xff";
    for (int i = 2; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        const std::string original{std::istreambuf_iterator<char>(file), {}};
        for (long time = 0; time < times; ++time) {
            std::string text = original;
            for (std::size_t change = random(4); change > 0; --change) {
                const std::size_t at = random(text.size() + 1);
                const char c = telling[random(telling.size())];
                const std::size_t length = std::min(text.size() - at, random(70));
                switch (random(5)) {
                    case 0: text.insert(at, 1, c); break;
                    case 1: text.erase(at, random(2) ? 1 : length); break;
                    case 2: text.resize(at); break;
                    case 3: text.insert(at, text.substr(at, length)); break;
                    default:
                        if (at < text.size()) text[at] = c;
                }
            }
            LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        }
    }
    std::printf("%ld files altered %ld times: nothing found\n", static_cast<long>(count - 2), times);
}
#endif
