"""Where kernels run in tests: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNEL_DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
"""bf16 on a GPU only: the interpreter neither multiplies it nor rounds to it as hardware does."""
