// Rows of token windows as a pure function of (seed, row number).
//
// Randomness is counter-based (random.hpp): nothing is stored, so any row can be computed at any time, in any order, by
// any thread.
//
// Row g of all rows ever drawn belongs to epoch g / n and shows window order(g % n), where `order` is a bijection of
// [0, n) that depends on (seed, epoch): every epoch visits every window once, without a list of n numbers in memory.
//
// Windows may come in groups of which some are drawn more often than others. Then an epoch has a fixed number of rows
// for each group. Row g falls on one of them, say the i-th that its group has ever had, and shows window order'(i % m)
// of the group's m windows, where order' depends on (seed, group, i / m): each pass over a group visits each of its
// windows once, and row g is still a pure function of (seed, g). The passes of a group take the place of epochs in what
// follows. With one group, a pass is an epoch, and order' would only shuffle what `order` has shuffled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "genome.hpp"
#include "random.hpp"
#include "threads.hpp"

namespace nucel {

// Consecutive windows that are drawn equally often: `rows` rows of each epoch show `windows` windows.
struct Group {
    std::int64_t windows, rows;
};

// Windows that all have `window_bp` bases: window i starts at base start[i] of contig contig[i]. Both arrays are
// borrowed. The groups follow each other in the list of windows, and cover it; none is empty, and each has rows.
struct WindowList {
    const std::int32_t* contig;
    const std::int64_t* start;
    std::int64_t size;
    std::int64_t window_bp;
    std::vector<Group> groups;
};

// How a row is drawn from its window, and written: `first_token`, then the tokens of `context` - 1 bases. `forward` and
// `reverse` give the token of a letter and of its complement.
struct RowOptions {
    std::int64_t context;
    std::uint64_t seed;
    bool both_strands;
    ByteTable forward, reverse;
    std::uint8_t first_token;
};

// What a batch consists of. `tokens` has `context` values a row; the other three describe the row's bases.
struct Rows {
    std::uint8_t* tokens;
    std::int32_t* contig;
    std::int64_t* start;
    std::int8_t* strand;  // 1 forward, -1 reverse
};

class Sampler {
  public:
    // The genome is borrowed. A row's bases must fit into a window: context - 1 lies in [1, window_bp].
    Sampler(const Genome& genome, WindowList windows, const RowOptions& options)
        : genome_(genome), windows_(std::move(windows)), options_(options) {
        std::int64_t rows = 0;
        std::int64_t first = 0;
        for (const Group& group : windows_.groups) {
            rows_end_.push_back(rows += group.rows);
            first_window_.push_back(first);
            first += group.windows;
        }
    }

    // Computes the rows first_row ... first_row + count - 1 of all rows ever drawn.
    void fill(std::int64_t first_row, std::int64_t count, int threads, const Rows& out) const {
        // Starting a thread costs as much as filling some hundred kilobytes, so a small batch is better off with one.
        constexpr std::int64_t bytes_per_task = 1 << 19;
        const std::int64_t per_task = std::max<std::int64_t>(1, bytes_per_task / options_.context);
        for_each_task((count + per_task - 1) / per_task, threads, [&](std::int64_t task) {
            const std::int64_t begin = task * per_task;
            fill_some(first_row, begin, std::min(count, begin + per_task), out);
        });
        genome_.require_unchanged(out.contig, count);
    }

  private:
    void fill_some(std::int64_t first_row, std::int64_t begin, std::int64_t end, const Rows& out) const {
        choose(first_row, begin, end, out);
        const std::int64_t bases = options_.context - 1;
        std::vector<std::uint8_t> letters(static_cast<std::size_t>(bases));
        for (std::int64_t row = begin; row < end; ++row) {
            if (row + prefetch_rows < end) prefetch(out, row + prefetch_rows);
            const Contig& contig = genome_.at(out.contig[row], out.start[row], bases);
            contig.read(out.start[row], out.start[row] + bases, letters.data());
            std::uint8_t* tokens = out.tokens + row * options_.context;
            tokens[0] = options_.first_token;
            if (out.strand[row] > 0) {
                options_.forward.translate<false>(letters.data(), bases, tokens + 1);
            } else {
                options_.reverse.translate<true>(letters.data(), bases, tokens + 1);
            }
        }
    }

    // Window, crop and strand of the rows [begin, end).
    void choose(std::int64_t first_row, std::int64_t begin, std::int64_t end, const Rows& out) const {
        const auto n = static_cast<std::uint64_t>(rows_end_.back());
        const auto offsets = static_cast<std::uint64_t>(windows_.window_bp - (options_.context - 1) + 1);
        for (std::int64_t row = begin; row < end;) {
            const auto global = static_cast<std::uint64_t>(first_row + row);
            const std::uint64_t epoch = global / n;
            const Permutation order(n, stream_key(options_.seed, Purpose::order, epoch));
            Visit visit = visit_in_pass(epoch);
            for (std::uint64_t index = global % n; index < n && row < end; ++index, ++row) {
                visit.window = order(index);
                if (windows_.groups.size() > 1) visit = visit_of_group(epoch, visit.window);
                // Multiply and shift maps 64 random bits to [0, offsets) with a bias below 2^-40 for any real window.
                const auto product = static_cast<unsigned __int128>(draw(visit.crop, visit.window)) * offsets;
                out.contig[row] = windows_.contig[visit.window];
                out.start[row] = windows_.start[visit.window] + static_cast<std::int64_t>(product >> 64);
                out.strand[row] = options_.both_strands && draw(visit.strand, visit.window) >> 63 ? -1 : 1;
            }
        }
    }

    // A window, and the streams that its crop and its strand are drawn from.
    struct Visit {
        std::uint64_t window, crop, strand;
    };

    Visit visit_in_pass(std::uint64_t pass) const {
        return {0, stream_key(options_.seed, Purpose::crop, pass), stream_key(options_.seed, Purpose::strand, pass)};
    }

    // What the row at place `place` of an epoch's rows shows, the rows of the first group being the first, and so on.
    Visit visit_of_group(std::uint64_t epoch, std::uint64_t place) const {
        const auto found = std::upper_bound(rows_end_.begin(), rows_end_.end(), static_cast<std::int64_t>(place));
        const auto g = static_cast<std::size_t>(found - rows_end_.begin());
        const auto rows = static_cast<std::uint64_t>(windows_.groups[g].rows);
        const auto windows = static_cast<std::uint64_t>(windows_.groups[g].windows);
        const std::uint64_t i = epoch * rows + (place - (static_cast<std::uint64_t>(rows_end_[g]) - rows));
        Visit visit = visit_in_pass(i / windows);
        const Permutation order(windows, draw(stream_key(options_.seed, Purpose::pass, i / windows), g));
        visit.window = static_cast<std::uint64_t>(first_window_[g]) + order(i % windows);
        return visit;
    }

    // Rows lie anywhere in the genome, so each would begin with a wait for memory.
    void prefetch(const Rows& out, std::int64_t row) const {
        const Contig& contig = genome_.at(out.contig[row], out.start[row], options_.context - 1);
        const std::uint8_t* at = contig.address(out.start[row]);
        const std::uint8_t* end = contig.address(out.start[row] + options_.context - 2);
        for (; at <= end; at += 64) __builtin_prefetch(at);
    }

    static constexpr std::int64_t prefetch_rows = 2;

    const Genome& genome_;
    WindowList windows_;
    RowOptions options_;
    std::vector<std::int64_t> rows_end_;      // of each group, in an epoch
    std::vector<std::int64_t> first_window_;  // of each group
};

}  // namespace nucel
