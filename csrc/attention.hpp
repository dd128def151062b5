// Rotary attention for one instruction set: a head at a time, in fp32, from packed copies of its keys and values.
//
// Keys are packed transposed, in panels of W keys, so that scores come out as vectors; values as rows. Blocks of
// queries then go over the keys they can see, in chunks, with a running softmax (FlashAttention-2).
#pragma once

#include "kernels.hpp"
#include "vectors.hpp"

namespace nucel {
namespace NUCEL_ISA {

constexpr float HIDDEN = -1e30f;  // the score of a pair that is not seen: finite, so that no difference is NaN

// How a launch is cut up. Nothing here depends on the number of threads.
struct Plan {
    Index width;    // of packed rows: D, rounded up to whole vectors
    Index block;    // queries handled together
    Index chunk;    // keys handled together
    Index segment;  // queries of a task of the forward pass
    Index keys;     // packed at most at a time

    Plan(const Attention& p, bool backward) {
        const bool near = p.radius <= 256;
        width = up(p.width, W);
        block = near ? 32 : 64;
        chunk = near ? 256 : 128;
        segment = backward ? p.positions : 1024;
        keys = up(near ? smaller(p.positions, segment + 2 * p.radius + W) : p.positions, W) + W;
    }

    Index segments(const Attention& p) const { return (p.positions + segment - 1) / segment; }
};

// Scratch as consecutive pieces, each at a multiple of 64 bytes.
struct Pieces {
    float* at;
    Index used = 0;

    float* take(Index floats) {
        float* piece = at + used;
        used += up(floats, 16);
        return piece;
    }
};

struct ForwardScratch {
    float *keys, *values, *rows, *queries, *scores, *out;
    Index size;

    ForwardScratch(const Plan& plan, float* at) {
        Pieces pieces{at};
        keys = pieces.take(plan.keys * plan.width);
        values = pieces.take(plan.keys * plan.width);
        rows = pieces.take(W * plan.width);
        queries = pieces.take(plan.block * plan.width);
        scores = pieces.take(plan.block * plan.chunk);
        out = pieces.take(plan.block * plan.width);
        size = pieces.used;
    }
};

struct BackwardScratch {
    float *keys, *key_rows, *values, *rows, *queries, *grad_out, *scores, *grad_scores, *grad_q, *grad_k, *grad_v;
    Index size;

    BackwardScratch(const Plan& plan, float* at) {
        Pieces pieces{at};
        keys = pieces.take(plan.keys * plan.width);
        key_rows = pieces.take(plan.keys * plan.width);
        values = pieces.take(plan.keys * plan.width);
        rows = pieces.take(W * plan.width);
        queries = pieces.take(plan.block * plan.width);
        grad_out = pieces.take(plan.block * plan.width);
        scores = pieces.take(plan.block * plan.chunk);
        grad_scores = pieces.take(plan.block * plan.chunk);
        grad_q = pieces.take(plan.block * plan.width);
        grad_k = pieces.take(plan.keys * plan.width);
        grad_v = pieces.take(plan.keys * plan.width);
        size = pieces.used;
    }
};

// What one task works on.
template <class T>
struct Head {
    const Attention& p;
    Index batch, head, length;

    Head(const Attention& p, Index number) : p(p), batch(number / p.heads), head(number % p.heads) {
        length = p.lengths ? p.lengths[batch] : p.positions;
    }
    // Row `position` of q (0), k (1) or v (2).
    const T* row(Index which, Index position) const {
        const std::int64_t* s = p.qkv_strides;
        return static_cast<const T*>(p.qkv) + batch * s[0] + position * s[1] + which * s[2] + head * s[3];
    }
    const T* grad_out(Index position) const {
        const std::int64_t* s = p.grad_out_strides;
        return static_cast<const T*>(p.grad_out) + batch * s[0] + position * s[1] + head * s[2];
    }
    T* out(Index position) const {
        return static_cast<T*>(p.out) + ((batch * p.positions + position) * p.heads + head) * p.width;
    }
    T* grad(Index which, Index position) const {
        return static_cast<T*>(p.grad_qkv) +
               (((batch * p.positions + position) * 3 + which) * p.heads + head) * p.width;
    }
    float* lse(Index position) const { return p.lse + (batch * p.heads + head) * p.positions + position; }
    // The keys [first, last) that a query sees.
    Index first(Index i) const { return larger(Index{0}, i - p.radius); }
    Index last(Index i) const { return smaller(length, i + p.radius + 1); }
};

// ---- rows in and out ----

// A row in fp32, zeros after its end.
template <class T>
inline void copy_row(const Attention& p, const T* from, float* to, Index width) {
    Index d = 0;
    for (; d + W <= p.width; d += W) store(to + d, load(from + d));
    for (; d < p.width; ++d) to[d] = load_one(from + d);
    for (; d < width; ++d) to[d] = 0;
}

inline void zero_row(float* to, Index width) {
    for (Index d = 0; d < width; d += W) store(to + d, Floats{});
}

// Rotary embedding of a row, pairs (d, d + D/2); turn = -1 rotates back. Times scale.
template <class From, class To>
inline void rotate_row(const Attention& p, const From* from, Index position, float scale, float turn, To* to) {
    const Index half = p.width / 2;
    const float *cos = p.cos + position * half, *sin = p.sin + position * half;
    Index d = 0;
    for (; d + W <= half; d += W) {
        const Floats a = load(from + d), b = load(from + half + d), c = load(cos + d) * scale;
        const Floats s = load(sin + d) * (turn * scale);
        store(to + d, a * c - b * s);
        store(to + half + d, b * c + a * s);
    }
    for (; d < half; ++d) {
        const float a = load_one(from + d), b = load_one(from + half + d), c = cos[d] * scale,
                    s = sin[d] * (turn * scale);
        store_one(to + d, a * c - b * s);
        store_one(to + half + d, b * c + a * s);
    }
}

template <class T>
inline void rotated_row(const Head<T>& head, Index which, Index position, float scale, float* to, Index width) {
    rotate_row(head.p, head.row(which, position), position, scale, 1.0f, to);
    for (Index d = head.p.width; d < width; ++d) to[d] = 0;
}

// A panel of W transposed rows: width x W floats.
inline void transpose_panel(const float* rows, Index width, float* panel) {
    for (Index d = 0; d < width; d += W) transpose(rows + d, width, panel + d * W, W);
}

// ---- scores ----

// Vectors of a row's scores from key `start` on; only those of keys [first, last) are seen.
struct Seen {
    Ints low, high;
    bool all;

    Seen(Index start, Index keys, Index first, Index last)
        : low(fill_ints(static_cast<std::int32_t>(first - start))),
          high(fill_ints(static_cast<std::int32_t>(last - start))), all(first <= start && last >= start + keys) {}
    Ints at(Index vector) const {
        const Ints j = lanes() + static_cast<std::int32_t>(vector * W);
        return (j >= low) & (j < high);
    }
};

// Softmax of a row's scores, not yet divided by its total, beside what earlier chunks gave.
struct Running {
    float top = HIDDEN, total = 0;

    // Scores become weights; returns what the earlier chunks' results must be multiplied with.
    float add(float* scores, Index vectors, const Seen& seen) {
        Floats best = fill(HIDDEN);
        if (seen.all) {
            for (Index n = 0; n < vectors; ++n) best = larger(best, load(scores + n * W));
        } else {
            for (Index n = 0; n < vectors; ++n) {
                best = larger(best, pick(seen.at(n), load(scores + n * W), fill(HIDDEN)));
            }
        }
        const float now = maximum(best) > top ? maximum(best) : top;
        const float kept = exp(fill(top - now))[0];
        Floats sums{};
        for (Index n = 0; n < vectors; ++n) {
            Floats weight = exp(load(scores + n * W) - now);
            if (!seen.all) weight = pick(seen.at(n), weight, Floats{});
            store(scores + n * W, weight);
            sums += weight;
        }
        total = total * kept + sum(sums);
        top = now;
        return kept;
    }
};

// ---- forward ----

template <class T>
void forward_segment(const Attention& p, const Plan& plan, Index task, float* memory) {
    const Head<T> head(p, task / plan.segments(p));
    const ForwardScratch scratch(plan, memory);
    const Index width = plan.width, begin = task % plan.segments(p) * plan.segment;
    const Index stop = smaller(p.positions, begin + plan.segment), end = smaller(stop, head.length);
    for (Index i = larger(begin, end); i < stop; ++i) {
        for (Index d = 0; d < p.width; ++d) store_one(head.out(i) + d, 0);
        *head.lse(i) = 0;
    }
    if (begin >= end) return;

    const Index origin = down(head.first(begin), W), packed = up(head.last(end - 1) - origin, W);
    for (Index j = 0; j < packed; j += W) {
        for (Index r = 0; r < W; ++r) {
            float *row = scratch.rows + r * width, *value = scratch.values + (j + r) * width;
            if (origin + j + r < head.length) {
                rotated_row(head, 1, origin + j + r, 1.0f, row, width);
                copy_row(p, head.row(2, origin + j + r), value, width);
            } else {
                zero_row(row, width);
                zero_row(value, width);
            }
        }
        transpose_panel(scratch.rows, width, scratch.keys + j * width);
    }

    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(p.width));
    for (Index start = begin; start < end; start += plan.block) {
        const Index count = smaller(plan.block, end - start), rows = up(count, MR);
        Running running[64];
        for (Index r = 0; r < rows; ++r) {
            float* row = scratch.queries + r * width;
            if (r < count) {
                rotated_row(head, 0, start + r, scale, row, width);
            } else {
                zero_row(row, width);
            }
            zero_row(scratch.out + r * width, width);
        }
        const Index last = head.last(start + count - 1);
        for (Index from = down(head.first(start), W); from < last; from += plan.chunk) {
            const Index keys = up(smaller(plan.chunk, last - from), W), vectors = keys / W, j = from - origin;
            product<false>(rows, vectors, p.width, {scratch.queries, width, 1},
                           {scratch.keys + j * width, W, W * width}, {scratch.scores, plan.chunk, W});
            for (Index r = 0; r < count; ++r) {
                const Seen seen(from, keys, head.first(start + r), head.last(start + r));
                const float kept = running[r].add(scratch.scores + r * plan.chunk, vectors, seen);
                float* out = scratch.out + r * width;
                for (Index d = 0; d < width; d += W) store(out + d, load(out + d) * kept);
            }
            product<true>(rows, width / W, keys, {scratch.scores, plan.chunk, 1},
                          {scratch.values + j * width, width, W}, {scratch.out, width, W});
        }
        for (Index r = 0; r < count; ++r) {
            const float inverse = 1.0f / running[r].total;
            const float* row = scratch.out + r * width;
            T* out = head.out(start + r);
            Index d = 0;
            for (; d + W <= p.width; d += W) store(out + d, load(row + d) * inverse);
            for (; d < p.width; ++d) store_one(out + d, row[d] * inverse);
            *head.lse(start + r) = running[r].top + __builtin_logf(running[r].total);
        }
    }
}

// ---- backward ----

template <class T>
float row_delta(const Head<T>& head, Index position, const float* grad_out) {
    const T* out = head.out(position);
    Floats sums{};
    Index d = 0;
    for (; d + W <= head.p.width; d += W) sums += load(grad_out + d) * load(out + d);
    float delta = sum(sums);
    for (; d < head.p.width; ++d) delta += grad_out[d] * load_one(out + d);
    return delta;
}

// Scores become weights P, and the gradient of P becomes that of the scores, P (dP - delta).
inline void grad_of_scores(float* scores, float* grad, Index vectors, const Seen& seen, float lse, float delta) {
    for (Index n = 0; n < vectors; ++n) {
        Floats weight = exp(load(scores + n * W) - lse);
        if (!seen.all) weight = pick(seen.at(n), weight, Floats{});
        store(scores + n * W, weight);
        store(grad + n * W, weight * (load(grad + n * W) - delta));
    }
}

template <class T>
void backward_head(const Attention& p, const Plan& plan, Index task, float* memory) {
    const Head<T> head(p, task);
    const BackwardScratch scratch(plan, memory);
    const Index width = plan.width, packed = up(head.length, W);
    for (Index j = 0; j < packed; j += W) {
        for (Index r = 0; r < W; ++r) {
            float *key = scratch.key_rows + (j + r) * width, *value = scratch.rows + r * width;
            if (j + r < head.length) {
                rotated_row(head, 1, j + r, 1.0f, key, width);
                copy_row(p, head.row(2, j + r), value, width);
            } else {
                zero_row(key, width);
                zero_row(value, width);
            }
            zero_row(scratch.grad_k + (j + r) * width, width);
            zero_row(scratch.grad_v + (j + r) * width, width);
        }
        transpose_panel(scratch.key_rows + j * width, width, scratch.keys + j * width);
        transpose_panel(scratch.rows, width, scratch.values + j * width);
    }

    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(p.width));
    for (Index start = 0; start < head.length; start += plan.block) {
        const Index count = smaller(plan.block, head.length - start), rows = up(count, MR);
        float delta[64];
        for (Index r = 0; r < rows; ++r) {
            float *query = scratch.queries + r * width, *grad_out = scratch.grad_out + r * width;
            if (r < count) {
                rotated_row(head, 0, start + r, scale, query, width);
                copy_row(p, head.grad_out(start + r), grad_out, width);
                delta[r] = row_delta(head, start + r, grad_out);
            } else {
                zero_row(query, width);
                zero_row(grad_out, width);
            }
            zero_row(scratch.grad_q + r * width, width);
        }
        const Index last = head.last(start + count - 1);
        for (Index from = down(head.first(start), W); from < last; from += plan.chunk) {
            const Index keys = up(smaller(plan.chunk, last - from), W), vectors = keys / W;
            product<false>(rows, vectors, p.width, {scratch.queries, width, 1},
                           {scratch.keys + from * width, W, W * width}, {scratch.scores, plan.chunk, W});
            product<false>(rows, vectors, p.width, {scratch.grad_out, width, 1},
                           {scratch.values + from * width, W, W * width}, {scratch.grad_scores, plan.chunk, W});
            for (Index r = 0; r < count; ++r) {
                const Seen seen(from, keys, head.first(start + r), head.last(start + r));
                grad_of_scores(scratch.scores + r * plan.chunk, scratch.grad_scores + r * plan.chunk, vectors, seen,
                               *head.lse(start + r), delta[r]);
            }
            product<true>(rows, width / W, keys, {scratch.grad_scores, plan.chunk, 1},
                          {scratch.key_rows + from * width, width, W}, {scratch.grad_q, width, W});
            product<true>(keys, width / W, count, {scratch.scores, 1, plan.chunk}, {scratch.grad_out, width, W},
                          {scratch.grad_v + from * width, width, W});
            product<true>(keys, width / W, count, {scratch.grad_scores, 1, plan.chunk}, {scratch.queries, width, W},
                          {scratch.grad_k + from * width, width, W});
        }
        for (Index r = 0; r < count; ++r) {
            rotate_row(p, scratch.grad_q + r * width, start + r, scale, -1.0f, head.grad(0, start + r));
        }
    }
    // The queries that dK was summed over carry the scale.
    for (Index j = 0; j < head.length; ++j) {
        rotate_row(p, scratch.grad_k + j * width, j, 1.0f, -1.0f, head.grad(1, j));
        for (Index d = 0; d < p.width; ++d) store_one(head.grad(2, j) + d, scratch.grad_v[j * width + d]);
    }
    for (Index j = head.length; j < p.positions; ++j) {
        for (Index which = 0; which < 3; ++which) {
            for (Index d = 0; d < p.width; ++d) store_one(head.grad(which, j) + d, 0);
        }
    }
}

// ---- tasks ----

std::int64_t attention_tasks(const Attention& p, bool backward) {
    return p.batch * p.heads * Plan(p, backward).segments(p);
}

std::int64_t attention_scratch(const Attention& p, bool backward) {
    const Plan plan(p, backward);
    return backward ? BackwardScratch(plan, nullptr).size : ForwardScratch(plan, nullptr).size;
}

void attention_forward(const Attention& p, std::int64_t task, float* scratch) {
    const Plan plan(p, false);
    if (p.element == Element::fp32) {
        forward_segment<float>(p, plan, task, scratch);
    } else {
        forward_segment<std::uint16_t>(p, plan, task, scratch);
    }
}

void attention_backward(const Attention& p, std::int64_t task, float* scratch) {
    const Plan plan(p, true);
    if (p.element == Element::fp32) {
        backward_head<float>(p, plan, task, scratch);
    } else {
        backward_head<std::uint16_t>(p, plan, task, scratch);
    }
}

}  // namespace NUCEL_ISA
}  // namespace nucel
