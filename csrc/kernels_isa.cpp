// The kernels for one instruction set; CMakeLists.txt compiles this file once for each, with NUCEL_ISA as its name.
#include "attention.hpp"
#include "kernels.hpp"
#include "pointwise.hpp"

#define NUCEL_TEXT(x) #x
#define NUCEL_NAME(x) NUCEL_TEXT(x)

namespace nucel {
namespace NUCEL_ISA {

extern const Kernels kernels;
const Kernels kernels{NUCEL_NAME(NUCEL_ISA),
                      attention_tasks,
                      attention_scratch,
                      attention_forward,
                      attention_backward,
                      geglu_tasks,
                      geglu,
                      norm_tasks,
                      norm,
                      rtd_tasks,
                      rtd_logits};

}  // namespace NUCEL_ISA
}  // namespace nucel
