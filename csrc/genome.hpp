// The contigs of several FASTA files under one numbering, and what is read from them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "fasta.hpp"
#include "threads.hpp"

namespace nucel {

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
