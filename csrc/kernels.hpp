// Kernels on tensors for CPUs: what they take, and which of their compiled versions this processor runs.
//
// kernels_isa.cpp is compiled once for each instruction set. It must not use functions of the standard library that
// are defined in headers: the linker keeps one copy of each, and might keep the one an older processor cannot run.
#pragma once

#include <cstdint>

namespace nucel {

// Elements of tensors: 32-bit floats, or the upper half of one.
enum class Element { fp32, bf16 };

// Rotary attention, local or global. B batch, T positions, H heads, D head width; strides in elements, the last is 1.
struct Attention {
    Element element;
    std::int64_t batch, positions, heads, width;
    const void* qkv;              // (B, T, 3, H, D)
    std::int64_t qkv_strides[4];  // of B, T, 3, H
    const float* cos;             // (T, D / 2)
    const float* sin;
    std::int64_t radius;          // i sees j if |i - j| <= radius
    const std::int64_t* lengths;  // (B,) in [0, T], or null
    void* out;                    // (B, T, H, D), contiguous
    float* lse;                   // (B, H, T), contiguous
    // The backward pass alone:
    const void* grad_out;              // (B, T, H, D)
    std::int64_t grad_out_strides[3];  // of B, T, H
    void* grad_qkv;                    // (B, T, 3, H, D), contiguous
};

// GeGLU of rows (a, gate), each `width` wide. All tensors are contiguous.
struct GeGLU {
    Element element;
    std::int64_t rows, width;
    const void* in;    // (rows, 2 * width)
    const void* grad;  // (rows, width), or null for the forward pass
    void* out;         // (rows, width); backward (rows, 2 * width)
};

// LayerNorm from fp32 to bf16, with a weight and without a bias. All tensors are contiguous.
struct Norm {
    std::int64_t rows, width;
    float eps;
    const float* x;       // (rows, width)
    const float* weight;  // (width,)
    float* mean;          // (rows,); written by the forward pass, read by the backward
    float* rstd;
    std::uint16_t* out;  // (rows, width); the forward pass alone
    // The backward pass alone:
    const std::uint16_t* grad;  // (rows, width), or null for the forward pass
    float* grad_x;              // (rows, width)
    float* grad_weight;         // (tasks, width): of each task's rows
};

// The discriminator's logits without their bias: LayerNorm(gelu(dense)) . projection, the projection times the norm's
// weight. All tensors are contiguous.
struct RtdLogits {
    Element element;
    std::int64_t rows, width;  // width at most 4096
    float eps;
    const void* dense;        // (rows, width)
    const float* projection;  // (width,)
    float* logits;            // (rows,); the forward pass alone
    // The backward pass alone:
    const float* grad;       // (rows,), or null for the forward pass
    void* grad_dense;        // (rows, width); 0 where grad is 0, whatever dense holds
    float* grad_projection;  // (tasks, width): of each task's rows
};

// The kernels of one instruction set. A call does one task of a launch; tasks are independent of one another.
struct Kernels {
    const char* name;
    std::int64_t (*attention_tasks)(const Attention&, bool backward);
    std::int64_t (*attention_scratch)(const Attention&, bool backward);  // floats that each thread needs
    void (*attention_forward)(const Attention&, std::int64_t task, float* scratch);
    void (*attention_backward)(const Attention&, std::int64_t task, float* scratch);
    std::int64_t (*geglu_tasks)(const GeGLU&);
    void (*geglu)(const GeGLU&, std::int64_t task);
    std::int64_t (*norm_tasks)(const Norm&);
    void (*norm)(const Norm&, std::int64_t task);
    std::int64_t (*rtd_tasks)(const RtdLogits&);
    void (*rtd_logits)(const RtdLogits&, std::int64_t task);
};

// Each is defined where kernels_isa.cpp is compiled for it.
namespace plain {
extern const Kernels kernels;
}
#ifdef NUCEL_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

}  // namespace nucel
