// The kernels without Python, so that a processor which only an emulator has can try them: attention, GeGLU and norm
// beside plain loops in double. Prints each instruction set's largest errors; exits with 1 if one is too large.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/team.hpp"

using namespace nucel;
using Numbers = std::vector<float>;

namespace {

Numbers normal(std::size_t count, unsigned seed) {
    std::srand(seed);
    Numbers numbers(count);
    for (float& x : numbers) {
        x = 0;
        for (int i = 0; i < 12; ++i) x += static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f;
    }
    return numbers;
}

double worst(const Numbers& ours, const std::vector<double>& truth) {
    double error = 0;
    for (std::size_t i = 0; i < truth.size(); ++i) {
        const double away = std::abs(ours[i] - truth[i]);
        error = away <= error ? error : away;  // NaN is the worst of all
    }
    return error;
}

// One head, T positions of width D. Rotation is left out of the plain loops: its table turns nothing.
double attention_error(const Kernels& kernels, int T, int D, int radius) {
    const std::size_t n = static_cast<std::size_t>(T) * D;
    const Numbers qkv = normal(3 * n, 1), grad_out = normal(n, 2), cos(n / 2, 1.0f), sin(n / 2, 0.0f);
    Numbers out(n, NAN), lse(T, NAN), grad(3 * n, NAN);
    Attention p{};
    p.element = Element::fp32;
    p.batch = 1, p.positions = T, p.heads = 1, p.width = D, p.radius = radius;
    p.qkv = qkv.data();
    const std::int64_t strides[] = {3 * T * D, 3 * D, D, D};
    std::copy(strides, strides + 4, p.qkv_strides);
    p.cos = cos.data(), p.sin = sin.data(), p.out = out.data(), p.lse = lse.data();
    p.grad_out = grad_out.data();
    p.grad_out_strides[0] = T * D, p.grad_out_strides[1] = D, p.grad_out_strides[2] = D;
    p.grad_qkv = grad.data();
    for (const bool backward : {false, true}) {
        const std::int64_t floats = kernels.attention_scratch(p, backward);
        Numbers scratch(3 * floats, NAN);
        run_on_team(kernels.attention_tasks(p, backward), 3, [&](std::int64_t task, int worker) {
            (backward ? kernels.attention_backward : kernels.attention_forward)(p, task, &scratch[worker * floats]);
        });
    }
    const auto at = [&](int i, int which, int d) { return static_cast<double>(qkv[(3 * i + which) * D + d]); };
    std::vector<double> true_out(n), true_grad(3 * n);
    for (int i = 0; i < T; ++i) {
        const int first = std::max(0, i - radius), last = std::min(T - 1, i + radius);
        std::vector<double> weight(T), grad_weight(T);
        double total = 0, delta = 0;
        for (int j = first; j <= last; ++j) {
            for (int d = 0; d < D; ++d) weight[j] += at(i, 0, d) * at(j, 1, d) / std::sqrt(D);
            total += weight[j] = std::exp(weight[j]);
        }
        for (int j = first; j <= last; ++j) {
            weight[j] /= total;
            for (int d = 0; d < D; ++d) {
                true_out[i * D + d] += weight[j] * at(j, 2, d);
                grad_weight[j] += static_cast<double>(grad_out[i * D + d]) * at(j, 2, d);
                true_grad[(3 * j + 2) * D + d] += weight[j] * static_cast<double>(grad_out[i * D + d]);
            }
            delta += weight[j] * grad_weight[j];
        }
        for (int j = first; j <= last; ++j) {
            const double grad_score = weight[j] * (grad_weight[j] - delta) / std::sqrt(D);
            for (int d = 0; d < D; ++d) {
                true_grad[3 * i * D + d] += grad_score * at(j, 1, d);
                true_grad[(3 * j + 1) * D + d] += grad_score * at(i, 0, d);
            }
        }
    }
    return std::max(worst(out, true_out), worst(grad, true_grad));
}

double geglu_error(const Kernels& kernels, int rows, int width) {
    const std::size_t n = static_cast<std::size_t>(rows) * width;
    const Numbers in = normal(2 * n, 3), grad = normal(n, 4);
    Numbers out(n, NAN), grad_in(2 * n, NAN);
    for (const bool backward : {false, true}) {
        const GeGLU p{Element::fp32,
                      rows,
                      width,
                      in.data(),
                      backward ? grad.data() : nullptr,
                      backward ? static_cast<void*>(grad_in.data()) : out.data()};
        run_on_team(kernels.geglu_tasks(p), 3, [&](std::int64_t task, int) { kernels.geglu(p, task); });
    }
    std::vector<double> true_out(n), true_grad(2 * n);
    for (int row = 0; row < rows; ++row) {
        for (int i = 0; i < width; ++i) {
            const double a = in[row * 2 * width + i], gate = in[row * 2 * width + width + i], g = grad[row * width + i];
            const double phi = std::erfc(-a / std::sqrt(2.0)) / 2;
            const double density = std::exp(-a * a / 2) / std::sqrt(2 * std::acos(-1.0));
            true_out[row * width + i] = a * phi * gate;
            true_grad[row * 2 * width + i] = g * gate * (phi + a * density);
            true_grad[row * 2 * width + width + i] = g * a * phi;
        }
    }
    return std::max(worst(out, true_out), worst(grad_in, true_grad));
}

double norm_error(const Kernels& kernels, int rows, int width) {
    const std::size_t n = static_cast<std::size_t>(rows) * width;
    const Numbers x = normal(n, 5), weight = normal(width, 6);
    Numbers mean(rows, NAN), rstd(rows, NAN);
    std::vector<std::uint16_t> out(n);
    Norm p{};
    p.rows = rows, p.width = width, p.eps = 1e-5f;
    p.x = x.data(), p.weight = weight.data(), p.mean = mean.data(), p.rstd = rstd.data(), p.out = out.data();
    run_on_team(kernels.norm_tasks(p), 3, [&](std::int64_t task, int) { kernels.norm(p, task); });
    std::vector<double> true_mean(rows), true_rstd(rows);
    for (int row = 0; row < rows; ++row) {
        double square = 0;
        for (int i = 0; i < width; ++i) true_mean[row] += static_cast<double>(x[row * width + i]) / width;
        for (int i = 0; i < width; ++i) square += std::pow(static_cast<double>(x[row * width + i]) - true_mean[row], 2);
        true_rstd[row] = 1 / std::sqrt(square / width + 1e-5);
    }
    return std::max(worst(mean, true_mean), worst(rstd, true_rstd));
}

}  // namespace

int main() {
    bool good = true;
    for (const Kernels* kernels : runnable_kernels()) {
        double error = 0;
        for (const int radius : {5, 64, 1000}) {
            error =
                std::max({error, attention_error(*kernels, 333, 32, radius), attention_error(*kernels, 40, 6, radius)});
        }
        error = std::max({error, geglu_error(*kernels, 70, 37), norm_error(*kernels, 70, 37)});
        std::printf("%s: largest error %.1e\n", kernels->name, error);
        good = good && error < 2e-5;
    }
    return good ? 0 : 1;
}
