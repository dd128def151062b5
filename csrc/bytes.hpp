// What is done with every byte of a genome: translating it by a table, and counting how often it occurs.
//
// A genome has billions of bytes and a batch has millions, so both have a path with AVX2, chosen when the program runs,
// beside the plain loop that says what is meant.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define NUCEL_AVX2 1
#include <immintrin.h>
#endif

namespace nucel {

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
        const __m256i backwards =
            _mm256_broadcastsi128_si256(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
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

}  // namespace nucel
