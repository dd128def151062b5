// Vectors of floats through the extension that GCC and clang share, for one instruction set.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace nucel {
namespace NUCEL_ISA {

using Index = std::int64_t;

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
constexpr int MR = 8;  // rows of a tile that is held in registers
#elif defined(__AVX2__) || defined(__ARM_NEON)
constexpr int W = 8;
constexpr int MR = 4;
#else
constexpr int W = 4;
constexpr int MR = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * W)));
typedef std::int32_t Ints __attribute__((vector_size(4 * W)));
typedef std::uint32_t Words __attribute__((vector_size(4 * W)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * W)));

inline Index up(Index n, Index multiple) { return (n + multiple - 1) / multiple * multiple; }
inline Index down(Index n, Index multiple) { return n - n % multiple; }
inline Index smaller(Index a, Index b) { return a < b ? a : b; }
inline Index larger(Index a, Index b) { return a > b ? a : b; }

template <class To, class From>
inline To bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline Floats fill(float x) { return x - Floats{}; }  // and not x + 0, which would change -0
inline Ints fill_ints(std::int32_t x) { return Ints{} + x; }

inline Floats pick(Ints where, Floats a, Floats b) {
    return bits<Floats>((where & bits<Ints>(a)) | (~where & bits<Ints>(b)));
}
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }  // b where one is NaN

// ---- memory, at any address ----

inline Floats load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline Floats load(const std::uint16_t* from) {
    Halves x;
    std::memcpy(&x, from, sizeof x);
    return bits<Floats>(__builtin_convertvector(x, Words) << 16);
}

// Rounds to the nearest, ties to even; NaN stays NaN.
inline void store(std::uint16_t* to, Floats x) {
    const Words word = bits<Words>(x);
    const Words rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    const Words quiet = (word >> 16) | 0x40;
    const Words nan = bits<Words>(Ints(x != x));
    const Halves half = __builtin_convertvector((nan & quiet) | (~nan & rounded), Halves);
    std::memcpy(to, &half, sizeof half);
}

inline float load_one(const float* from) { return *from; }
inline float load_one(const std::uint16_t* from) { return bits<float>(static_cast<std::uint32_t>(*from) << 16); }
inline void store_one(float* to, float x) { *to = x; }
inline void store_one(std::uint16_t* to, float x) {
    const std::uint32_t word = bits<std::uint32_t>(x);
    *to = static_cast<std::uint16_t>(x != x ? (word >> 16) | 0x40 : (word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

// ---- over lanes ----

inline float sum(Floats x) {
    float total[W];
    std::memcpy(total, &x, sizeof x);
    for (int half = W / 2; half; half /= 2) {
        for (int i = 0; i < half; ++i) total[i] += total[i + half];
    }
    return total[0];
}

inline float maximum(Floats x) {
    float best[W];
    std::memcpy(best, &x, sizeof x);
    for (int half = W / 2; half; half /= 2) {
        for (int i = 0; i < half; ++i) best[i] = best[i] > best[i + half] ? best[i] : best[i + half];
    }
    return best[0];
}

inline Ints lanes() {
    Ints number{};
    for (int i = 0; i < W; ++i) number[i] = i;
    return number;
}

#if defined(__clang__) || __GNUC__ >= 12
// One step of a transposition: blocks of `Step` lanes change places between two rows that are `Step` apart.
template <int Step, int... I>
inline void swap_blocks(Floats& a, Floats& b, std::integer_sequence<int, I...>) {
    const Floats first = __builtin_shufflevector(a, b, (I & Step ? W + (I ^ Step) : I)...);
    b = __builtin_shufflevector(a, b, (I & Step ? W + I : I ^ Step)...);
    a = first;
}

template <int Step>
inline void transpose_steps(Floats (&rows)[W]) {
    if constexpr (Step < W) {
        for (int i = 0; i < W; ++i) {
            if (!(i & Step)) swap_blocks<Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, W>());
        }
        transpose_steps<2 * Step>(rows);
    }
}

// W rows of W floats.
inline void transpose(const float* from, Index from_row, float* to, Index to_row) {
    Floats rows[W];
    for (int i = 0; i < W; ++i) rows[i] = load(from + i * from_row);
    transpose_steps<1>(rows);
    for (int i = 0; i < W; ++i) store(to + i * to_row, rows[i]);
}
#else
inline void transpose(const float* from, Index from_row, float* to, Index to_row) {
    for (int i = 0; i < W; ++i) {
        for (int j = 0; j < W; ++j) to[j * to_row + i] = from[i * from_row + j];
    }
}
#endif

// ---- functions ----

// 2^x for x <= 127, to 1e-7; 2^-126 at least. 2^f on [-1/2, 1/2] by a polynomial of degree 5 (Lawson), 1 at 0.
inline Floats exp2(Floats x) {
    x = larger(fill(-126.0f), x);            // in this order NaN stays NaN
    const Floats shift = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to integers
    const Floats shifted = x + shift;
    const Floats f = x - (shifted - shift);
    Floats p = 0.001326472032815218f * f + 0.009671512991189957f;
    p = p * f + 0.05550733581185341f;
    p = p * f + 0.24022242426872253f;
    p = p * f + 0.6931470036506653f;
    p = p * f + 1.0f;
    return bits<Floats>(bits<Ints>(p) + (bits<Ints>(shifted) << 23));
}

// e^x for x <= 88, to 1e-7 where x is near 0.
inline Floats exp(Floats x) { return exp2(x * 1.4426950408889634f); }

// ---- products ----

// A matrix whose rows are read one float at a time.
struct Left {
    const float* at;
    Index row, step;  // between rows; between what is summed over
};
// A matrix that is read by vectors, and one that is written so.
struct Right {
    const float* at;
    Index step, vector;
};
struct Out {
    float* at;
    Index row, vector;
};

template <int N, bool Add>
inline __attribute__((always_inline)) void tile(Left a, Right b, Out c, Index depth) {
    Floats total[MR][N];
    for (int m = 0; m < MR; ++m) {
        for (int n = 0; n < N; ++n) total[m][n] = Add ? load(c.at + m * c.row + n * c.vector) : Floats{};
    }
    for (Index k = 0; k < depth; ++k) {
        Floats right[N];
        for (int n = 0; n < N; ++n) right[n] = load(b.at + k * b.step + n * b.vector);
        for (int m = 0; m < MR; ++m) {
            const float left = a.at[m * a.row + k * a.step];
            for (int n = 0; n < N; ++n) total[m][n] += left * right[n];
        }
    }
    for (int m = 0; m < MR; ++m) {
        for (int n = 0; n < N; ++n) store(c.at + m * c.row + n * c.vector, total[m][n]);
    }
}

// c = a b, or c += a b: rows (a multiple of MR) x vectors, summed over `depth`.
template <bool Add>
inline void product(Index rows, Index vectors, Index depth, Left a, Right b, Out c) {
    for (Index n = 0; n < vectors; n += 2) {
        for (Index m = 0; m < rows; m += MR) {
            const Left left{a.at + m * a.row, a.row, a.step};
            const Right right{b.at + n * b.vector, b.step, b.vector};
            const Out out{c.at + m * c.row + n * c.vector, c.row, c.vector};
            if (n + 1 < vectors) {
                tile<2, Add>(left, right, out, depth);
            } else {
                tile<1, Add>(left, right, out, depth);
            }
        }
    }
}

}  // namespace NUCEL_ISA
}  // namespace nucel
