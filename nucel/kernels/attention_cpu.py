"""Attention on a CPU, by the compiled extension: local or global, forward and backward.

`csrc/attention.hpp` goes over one head at a time. It rotates the head's keys while it packs them, walks over blocks of
queries with the keys that each block can see, and adds up in fp32. So a local layer costs time in proportion to its
length, and no scores and no copies of keys and values are ever written to memory. One thread does a head, in the same
order whatever the number of threads: results do not depend on it.

fp16 is computed as fp32, fp64 by the reference. Processors with AMX multiply bf16 matrices many times faster than fp32,
and torch's flash kernel uses that: where it wins (measured), it computes the forward pass of global attention.

Legend: B batch, T positions, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference, tiles
from .extension_cpu import DTYPES, address, compiled, fastest

_AMX = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
_AMX_POSITIONS = 2048
"""Rows this long are faster by torch's kernel (benchmarks/NOTES.md)."""


def _rows(x: Tensor) -> Tensor:
    """x, with each head's numbers next to one another."""
    return x if x.stride(-1) == 1 else x.contiguous()


@reference.without_autocast
def _global_forward_by_torch(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`attention_forward` of rows without padding; rotated queries and keys are rounded to the dtype of qkv."""
    q, k = (reference.rotate(x.float(), cos.float(), sin.float()).to(qkv.dtype) for x in qkv.unbind(2)[:2])
    heads_first = (x.transpose(1, 2) for x in (q, k, qkv[:, :, 2]))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads_first)
    return out.transpose(1, 2).contiguous(), lse.contiguous()


class _Call:
    """What forward and backward have in common: tensors as the kernels read them."""

    def __init__(self, qkv: Tensor, cos: Tensor, sin: Tensor, radius: int | None, lengths: Tensor | None):
        batch, positions, _, heads, width = qkv.shape
        self.qkv = _rows(qkv)
        self.cos, self.sin = (table.float().contiguous() for table in (cos, sin))
        self.lengths = None if lengths is None else lengths.clamp(0, positions).long().contiguous()
        self.arguments = {
            "bf16": qkv.dtype == torch.bfloat16,
            "sizes": (batch, positions, heads, width),
            "radius": positions if radius is None else min(radius, positions),
            "qkv": address(self.qkv),
            "qkv_strides": self.qkv.stride()[:4],
            "cos": address(self.cos),
            "sin": address(self.sin),
            "lengths": address(self.lengths),
        }

    def run(self, kernels: str | None, **arguments) -> None:
        module, name = fastest(kernels)
        call = module.Attention(kernels=name, **self.arguments, **arguments)
        threads = torch.get_num_threads()
        scratch = tiles.scratch((threads * call.scratch(),), torch.float32, self.qkv.device)
        call.run(address(scratch), threads)


def attention_forward(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    radius: int | None,
    lengths: Tensor | None,
    kernels: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.attention_forward`. `kernels` is one of the extension's `instruction_sets`; None is the fastest."""
    if qkv.dtype == torch.float64 or not compiled():
        return reference.attention_forward(qkv, cos, sin, radius, lengths)
    if qkv.dtype not in DTYPES:
        out, lse = attention_forward(qkv.float(), cos, sin, radius, lengths, kernels)
        return out.to(qkv.dtype), lse
    batch, positions, _, heads, width = qkv.shape
    everything = lengths is None and (radius is None or radius >= positions - 1)
    if _AMX and kernels is None and qkv.dtype == torch.bfloat16 and everything and positions >= _AMX_POSITIONS:
        return _global_forward_by_torch(_rows(qkv), cos, sin)
    out = tiles.scratch((batch, positions, heads, width), qkv.dtype, qkv.device)
    lse = tiles.scratch((batch, heads, positions), torch.float32, qkv.device)
    _Call(qkv, cos, sin, radius, lengths).run(kernels, out=address(out), lse=address(lse))
    return out, lse


def attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    lse: Tensor,
    radius: int | None,
    lengths: Tensor | None,
    kernels: str | None = None,
) -> Tensor:
    """`reference.attention_backward`; `kernels` as above."""
    if qkv.dtype == torch.float64 or not compiled():
        return reference.attention_backward(grad_out, qkv, cos, sin, out, lse, radius, lengths)
    if qkv.dtype not in DTYPES:
        floats = (x.float() for x in (grad_out, qkv))
        grad = attention_backward(*floats, cos, sin, out.float(), lse, radius, lengths, kernels)
        return grad.to(qkv.dtype)
    grad_qkv = tiles.scratch(qkv.shape, qkv.dtype, qkv.device)
    grad_out, out, lse = _rows(grad_out.to(qkv.dtype)), out.contiguous(), lse.contiguous()
    _Call(qkv, cos, sin, radius, lengths).run(
        kernels,
        out=address(out),
        lse=address(lse),
        grad_out=address(grad_out),
        grad_out_strides=grad_out.stride()[:3],
        grad_qkv=address(grad_qkv),
    )
    return grad_qkv
