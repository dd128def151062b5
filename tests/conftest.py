"""Without a GPU, Triton kernels run in its interpreter.

Triton reads the variable when a kernel is declared, and many packages import Triton: it is set before any of them.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
