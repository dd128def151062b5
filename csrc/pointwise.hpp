// GeGLU, LayerNorm and the discriminator's logits for one instruction set, a block of rows at a time.
//
//   GeGLU      out = gelu(a) * gate, of rows (a, gate)
//   LayerNorm  out = (x - mean) * rstd * weight
//   logits     z = LayerNorm(gelu(dense)) . projection
#pragma once

#include "kernels.hpp"
#include "vectors.hpp"

namespace nucel {
namespace NUCEL_ISA {

// ---- parts of vectors ----

// The first `count` elements, at most W; 0 in the other lanes.
template <class T>
inline Floats load_part(const T* from, Index count) {
    if (count >= W) return load(from);
    float part[W] = {};
    for (Index i = 0; i < count; ++i) part[i] = load_one(from + i);
    return load(part);
}

template <class T>
inline void store_part(T* to, Floats x, Index count) {
    if (count >= W) return store(to, x);
    for (Index i = 0; i < count; ++i) store_one(to + i, x[i]);
}

// ---- GeGLU ----

// Phi(-t) of the normal distribution for t >= 0, to 2e-8: its logarithm is a polynomial. rtd_loss_triton.py says how it
// was found.
inline Floats normal_tail(Floats t) {
    Floats p = -2.1062817268102663e-06f * t + 3.180329076712951e-05f;
    p = p * t - 0.00015538913430646062f;
    p = p * t - 0.00019942224025726318f;
    p = p * t + 0.007130367215722799f;
    p = p * t - 0.05253291875123978f;
    p = p * t - 0.45919907093048096f;
    p = p * t - 1.1511058807373047f;
    return exp2(p * t - 1.0f);
}

struct Gelu {
    Floats value, tail;

    explicit Gelu(Floats a) {
        const Floats size = larger(a, -a);
        tail = normal_tail(size);
        value = larger(Floats{}, a) - size * tail;
    }
    // Phi(a) + a phi(a)
    Floats derivative(Floats a) const {
        const Floats density = exp2(a * a * -0.7213475204444817f - 1.3257480647361593f);
        return pick(a > 0.0f, 1.0f - tail, tail) + a * density;
    }
};

constexpr Index ROWS = 64;  // rows of a task

inline Index row_tasks(Index rows) { return (rows + ROWS - 1) / ROWS; }

template <class T>
void geglu_rows(const GeGLU& p, Index task) {
    for (Index row = task * ROWS; row < smaller(p.rows, (task + 1) * ROWS); ++row) {
        const T* in = static_cast<const T*>(p.in) + row * 2 * p.width;
        T* out = static_cast<T*>(p.out) + row * p.width;
        for (Index i = 0; i < p.width; i += W) {
            const Index count = p.width - i;
            const Floats gate = load_part(in + p.width + i, count);
            store_part(out + i, Gelu(load_part(in + i, count)).value * gate, count);
        }
    }
}

template <class T>
void geglu_backward_rows(const GeGLU& p, Index task) {
    for (Index row = task * ROWS; row < smaller(p.rows, (task + 1) * ROWS); ++row) {
        const T *in = static_cast<const T*>(p.in) + row * 2 * p.width,
                *grad = static_cast<const T*>(p.grad) + row * p.width;
        T* out = static_cast<T*>(p.out) + row * 2 * p.width;
        for (Index i = 0; i < p.width; i += W) {
            const Index count = p.width - i;
            const Floats a = load_part(in + i, count), gate = load_part(in + p.width + i, count);
            const Floats g = load_part(grad + i, count);
            const Gelu gelu(a);
            store_part(out + i, g * gate * gelu.derivative(a), count);
            store_part(out + p.width + i, g * gelu.value, count);
        }
    }
}

std::int64_t geglu_tasks(const GeGLU& p) { return row_tasks(p.rows); }

void geglu(const GeGLU& p, std::int64_t task) {
    if (p.grad) {
        p.element == Element::fp32 ? geglu_backward_rows<float>(p, task) : geglu_backward_rows<std::uint16_t>(p, task);
    } else {
        p.element == Element::fp32 ? geglu_rows<float>(p, task) : geglu_rows<std::uint16_t>(p, task);
    }
}

// ---- LayerNorm ----

void norm_rows(const Norm& p, Index task) {
    const float scale = 1.0f / static_cast<float>(p.width);
    for (Index row = task * ROWS; row < smaller(p.rows, (task + 1) * ROWS); ++row) {
        const float* x = p.x + row * p.width;
        std::uint16_t* y = p.out + row * p.width;
        Floats sums{};
        for (Index i = 0; i < p.width; i += W) sums += load_part(x + i, p.width - i);
        const float mean = sum(sums) * scale;
        Floats squares{};
        for (Index i = 0; i < p.width; i += W) {
            // Lanes after the row's end must not count: there x is 0, and not the mean.
            const Floats away = load_part(x + i, p.width - i) - mean;
            const Ints inside = lanes() < static_cast<std::int32_t>(smaller(W, p.width - i));
            squares += pick(inside, away * away, Floats{});
        }
        const float rstd = 1.0f / __builtin_sqrtf(sum(squares) * scale + p.eps);
        for (Index i = 0; i < p.width; i += W) {
            const Index count = p.width - i;
            store_part(y + i, (load_part(x + i, count) - mean) * rstd * load_part(p.weight + i, count), count);
        }
        p.mean[row] = mean;
        p.rstd[row] = rstd;
    }
}

void norm_backward_rows(const Norm& p, Index task) {
    const float scale = 1.0f / static_cast<float>(p.width);
    float* grad_weight = p.grad_weight + task * p.width;
    for (Index i = 0; i < p.width; ++i) grad_weight[i] = 0;
    for (Index row = task * ROWS; row < smaller(p.rows, (task + 1) * ROWS); ++row) {
        const float* x = p.x + row * p.width;
        const std::uint16_t* grad = p.grad + row * p.width;
        float* grad_x = p.grad_x + row * p.width;
        const float mean = p.mean[row], rstd = p.rstd[row];
        Floats sums{}, products{};
        for (Index i = 0; i < p.width; i += W) {
            const Index count = p.width - i;
            const Floats x_hat = (load_part(x + i, count) - mean) * rstd, g = load_part(grad + i, count);
            store_part(grad_weight + i, load_part(grad_weight + i, count) + g * x_hat, count);
            const Floats weighted = g * load_part(p.weight + i, count);  // 0 after the row's end
            sums += weighted;
            products += weighted * x_hat;
        }
        const float average = sum(sums) * scale, slope = sum(products) * scale;
        for (Index i = 0; i < p.width; i += W) {
            const Index count = p.width - i;
            const Floats x_hat = (load_part(x + i, count) - mean) * rstd;
            const Floats weighted = load_part(grad + i, count) * load_part(p.weight + i, count);
            store_part(grad_x + i, (weighted - average - x_hat * slope) * rstd, count);
        }
    }
}

std::int64_t norm_tasks(const Norm& p) { return row_tasks(p.rows); }

void norm(const Norm& p, std::int64_t task) { p.grad ? norm_backward_rows(p, task) : norm_rows(p, task); }

// ---- logits of the discriminator ----

template <class T>
void rtd_rows(const RtdLogits& p, Index task) {
    const float scale = 1.0f / static_cast<float>(p.width);
    float x_hat[4096 + W];
    Floats projections{};
    for (Index i = 0; i < p.width; i += W) projections += load_part(p.projection + i, p.width - i);
    const float average = sum(projections) * scale;
    float* grad_projection = p.grad ? p.grad_projection + task * p.width : nullptr;
    for (Index i = 0; p.grad && i < p.width; ++i) grad_projection[i] = 0;

    for (Index row = task * ROWS; row < smaller(p.rows, (task + 1) * ROWS); ++row) {
        const T* dense = static_cast<const T*>(p.dense) + row * p.width;
        T* grad_dense = p.grad ? static_cast<T*>(p.grad_dense) + row * p.width : nullptr;
        if (p.grad && p.grad[row] == 0) {
            for (Index i = 0; i < p.width; ++i) store_one(grad_dense + i, 0);
            continue;
        }
        Floats sums{}, squares{}, products{};
        for (Index i = 0; i < p.width; i += W) {
            const Floats h = Gelu(load_part(dense + i, p.width - i)).value;  // 0 after the row's end, as gelu(0) is
            store(x_hat + i, h);
            sums += h;
        }
        const float mean = sum(sums) * scale;
        for (Index i = 0; i < p.width; i += W) {
            const Ints inside = lanes() < static_cast<std::int32_t>(smaller(W, p.width - i));
            const Floats away = pick(inside, load(x_hat + i) - mean, Floats{});
            store(x_hat + i, away);
            squares += away * away;
            products += away * load_part(p.projection + i, p.width - i);
        }
        const float rstd = 1.0f / __builtin_sqrtf(sum(squares) * scale + p.eps);
        const float logit = sum(products) * rstd;
        if (!p.grad) {
            p.logits[row] = logit;
            continue;
        }
        const float grad = p.grad[row];
        for (Index i = 0; i < p.width; i += W) {
            const Index count = p.width - i;
            const Floats a = load_part(dense + i, count), normed = load(x_hat + i) * rstd;
            const Floats grad_h =
                grad * rstd * (load_part(p.projection + i, count) - average - normed * (logit * scale));
            store_part(grad_dense + i, grad_h * Gelu(a).derivative(a), count);
            store_part(grad_projection + i, load_part(grad_projection + i, count) + grad * normed, count);
        }
    }
}

std::int64_t rtd_tasks(const RtdLogits& p) { return row_tasks(p.rows); }

void rtd_logits(const RtdLogits& p, std::int64_t task) {
    p.element == Element::fp32 ? rtd_rows<float>(p, task) : rtd_rows<std::uint16_t>(p, task);
}

}  // namespace NUCEL_ISA
}  // namespace nucel
