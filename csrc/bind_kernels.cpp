// The Python face of the kernels for CPUs. Tensors are passed as addresses: nucel.kernels checks shapes and types.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "team.hpp"

namespace py = pybind11;
using namespace nucel;

namespace {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* kernels : runnable_kernels()) names.emplace_back(kernels->name);
    return names;
}

template <std::size_t N>
void copy(const std::array<std::int64_t, N>& from, std::int64_t (&to)[N]) {
    for (std::size_t i = 0; i < N; ++i) to[i] = from[i];
}

class AttentionCall {
  public:
    AttentionCall(const std::string& kernels, bool bf16, const std::array<std::int64_t, 4>& sizes, std::int64_t radius,
                  Address qkv, const std::array<std::int64_t, 4>& qkv_strides, Address cos, Address sin,
                  Address lengths, Address out, Address lse, Address grad_out,
                  const std::array<std::int64_t, 3>& grad_out_strides, Address grad_qkv)
        : kernels_(kernels_named(kernels)), backward_(grad_qkv != 0) {
        p_.element = bf16 ? Element::bf16 : Element::fp32;
        p_.batch = sizes[0], p_.positions = sizes[1], p_.heads = sizes[2], p_.width = sizes[3];
        p_.radius = radius;
        p_.qkv = pointer<const void>(qkv);
        copy(qkv_strides, p_.qkv_strides);
        p_.cos = pointer<const float>(cos), p_.sin = pointer<const float>(sin);
        p_.lengths = pointer<const std::int64_t>(lengths);
        p_.out = pointer<void>(out), p_.lse = pointer<float>(lse);
        p_.grad_out = pointer<const void>(grad_out);
        copy(grad_out_strides, p_.grad_out_strides);
        p_.grad_qkv = pointer<void>(grad_qkv);
    }

    std::int64_t scratch() const { return kernels_.attention_scratch(p_, backward_); }

    void run(Address scratch, int threads) const {
        const py::gil_scoped_release release;
        const std::int64_t floats = this->scratch();
        const auto task = backward_ ? kernels_.attention_backward : kernels_.attention_forward;
        run_on_team(kernels_.attention_tasks(p_, backward_), threads, [&](std::int64_t number, int worker) {
            task(p_, number, pointer<float>(scratch) + worker * floats);
        });
    }

  private:
    const Kernels& kernels_;
    bool backward_;
    Attention p_{};
};

void geglu(const std::string& kernels, bool bf16, std::int64_t rows, std::int64_t width, Address in, Address out,
           Address grad, int threads) {
    const Kernels& run = kernels_named(kernels);
    const GeGLU p{bf16 ? Element::bf16 : Element::fp32,
                  rows,
                  width,
                  pointer<const void>(in),
                  pointer<const void>(grad),
                  pointer<void>(out)};
    const py::gil_scoped_release release;
    run_on_team(run.geglu_tasks(p), threads, [&](std::int64_t task, int) { run.geglu(p, task); });
}

void norm(const std::string& kernels, std::int64_t rows, std::int64_t width, float eps, Address x, Address weight,
          Address mean, Address rstd, Address out, Address grad, Address grad_x, Address grad_weight, int threads) {
    const Kernels& run = kernels_named(kernels);
    Norm p{};
    p.rows = rows, p.width = width, p.eps = eps;
    p.x = pointer<const float>(x), p.weight = pointer<const float>(weight);
    p.mean = pointer<float>(mean), p.rstd = pointer<float>(rstd);
    p.out = pointer<std::uint16_t>(out), p.grad = pointer<const std::uint16_t>(grad);
    p.grad_x = pointer<float>(grad_x), p.grad_weight = pointer<float>(grad_weight);
    const py::gil_scoped_release release;
    run_on_team(run.norm_tasks(p), threads, [&](std::int64_t task, int) { run.norm(p, task); });
}

void rtd_logits(const std::string& kernels, bool bf16, std::int64_t rows, std::int64_t width, float eps, Address dense,
                Address projection, Address logits, Address grad, Address grad_dense, Address grad_projection,
                int threads) {
    const Kernels& run = kernels_named(kernels);
    RtdLogits p{};
    p.element = bf16 ? Element::bf16 : Element::fp32;
    p.rows = rows, p.width = width, p.eps = eps;
    p.dense = pointer<const void>(dense), p.projection = pointer<const float>(projection);
    p.logits = pointer<float>(logits), p.grad = pointer<const float>(grad);
    p.grad_dense = pointer<void>(grad_dense), p.grad_projection = pointer<float>(grad_projection);
    const py::gil_scoped_release release;
    run_on_team(run.rtd_tasks(p), threads, [&](std::int64_t task, int) { run.rtd_logits(p, task); });
}

std::int64_t norm_tasks(const std::string& kernels, std::int64_t rows) {
    Norm p{};
    p.rows = rows;
    return kernels_named(kernels).norm_tasks(p);
}

}  // namespace

void bind_kernels(py::module_& m) {
    m.def("instruction_sets", &instruction_sets, "What kernels were compiled for and run here, the fastest first.");
    py::class_<AttentionCall>(m, "Attention", py::module_local(), "One call of attention, forward or backward.")
        .def(py::init<const std::string&, bool, const std::array<std::int64_t, 4>&, std::int64_t, Address,
                      const std::array<std::int64_t, 4>&, Address, Address, Address, Address, Address, Address,
                      const std::array<std::int64_t, 3>&, Address>(),
             py::arg("kernels"), py::arg("bf16"), py::arg("sizes"), py::arg("radius"), py::arg("qkv"),
             py::arg("qkv_strides"), py::arg("cos"), py::arg("sin"), py::arg("lengths"), py::arg("out"), py::arg("lse"),
             py::arg("grad_out") = 0, py::arg("grad_out_strides") = std::array<std::int64_t, 3>{},
             py::arg("grad_qkv") = 0)
        .def("scratch", &AttentionCall::scratch, "Floats of scratch that each thread needs.")
        .def("run", &AttentionCall::run, py::arg("scratch"), py::arg("threads"));
    m.def("geglu", &geglu, py::arg("kernels"), py::arg("bf16"), py::arg("rows"), py::arg("width"), py::arg("x"),
          py::arg("out"), py::arg("grad"), py::arg("threads"), "GeGLU of rows, or with grad its gradient.");
    m.def("norm", &norm, py::arg("kernels"), py::arg("rows"), py::arg("width"), py::arg("eps"), py::arg("x"),
          py::arg("weight"), py::arg("mean"), py::arg("rstd"), py::arg("out"), py::arg("grad"), py::arg("grad_x"),
          py::arg("grad_weight"), py::arg("threads"), "LayerNorm of rows, or with grad its gradient.");
    m.def("rtd_logits", &rtd_logits, py::arg("kernels"), py::arg("bf16"), py::arg("rows"), py::arg("width"),
          py::arg("eps"), py::arg("dense"), py::arg("projection"), py::arg("logits"), py::arg("grad"),
          py::arg("grad_dense"), py::arg("grad_projection"), py::arg("threads"),
          "The discriminator's logits without their bias, or with grad its gradients.");
    m.def("norm_tasks", &norm_tasks, py::arg("kernels"), py::arg("rows"), "Rows of what norm and rtd_logits sum up.");
}
