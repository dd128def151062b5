"""torch.compile around the blocks: norms, residuals and GeGLU fuse between the products and our ops.

Blocks are compiled one by one and not as one graph. Equal blocks share their code, so that a network of any depth
compiles three of them (first, local, global), and gradients are ready block by block for whoever averages them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import Block

_RECOMPILE_LIMIT = 64
"""Every shape, dtype and gradient mode in which a process ever uses blocks counts against this limit of torch's."""


def _compile(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
    """Inductor, told to recompute norms and GeGLU in the backward pass even where a product reads them.

    They follow from what is kept anyway: the residual stream and the products' outputs. No product is done twice.
    """
    from torch._inductor.compile_fx import compile_fx  # takes two seconds to import

    with torch._functorch.config.patch(ban_recompute_materialized_backward=False):
        return compile_fx(graph, inputs)


def compile_blocks(network: nn.Module) -> None:
    """Have all blocks of a network compiled when they first run, for each shape and dtype they run with.

    Compiled code is kept in torch's cache on disk, so that the next run finds it.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILE_LIMIT)
    torch._dynamo.config.optimize_ddp = False  # it cuts graphs at the exchange of gradients, and blocks are cut already
    for block in network.modules():
        if isinstance(block, Block):
            block.compile(backend=_compile, fullgraph=True, dynamic=False)


def uncompiled(network: nn.Module) -> contextlib.AbstractContextManager:
    """Run blocks as they are written: for a few batches, compiling for their shapes would take longer than they do."""
    blocks = (block for block in network.modules() if isinstance(block, Block))
    if any(block._compiled_call_impl is not None for block in blocks):
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()
