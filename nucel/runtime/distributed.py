"""The ranks of a run: one process each, started by torchrun, or a single process without any of this.

Each rank holds the whole model and its share of every batch; torch's DistributedDataParallel averages the gradients.
Rank 0 alone validates, writes and prints.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


class World(NamedTuple):
    """All ranks, as this process sees them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on its own machine: the GPU that it takes."""
    local_size: int = 1
    """Ranks on this machine."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def launched(self, command: str) -> str:
        """A command that begins with `python -m`, to be started on as many ranks as these."""
        if self.size == 1:
            return command
        machines = f"--nnodes {self.size // self.local_size} " if self.size > self.local_size else ""
        return command.replace("python -m", f"torchrun {machines}--nproc-per-node {self.local_size} -m", 1)

    def add(self, total: Tensor) -> None:
        """Add a tensor up over the ranks, in ranks."""
        if self.size > 1:
            distributed.all_reduce(total)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks have to ask."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        return bool(flags)

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let rank 0 go through a block before the others: it makes the files that they find."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.size > 1:
            distributed.barrier()

    def exchange_gradients(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The same model, its gradients averaged over the ranks while its backward pass runs."""
        if self.size == 1:
            return model

        def parallel(network: nn.Module) -> DistributedDataParallel:
            # Gradients are views into the buckets that are exchanged: no copy, and no second set of them in memory.
            ids = [device] if device.type == "cuda" else None
            return DistributedDataParallel(network, device_ids=ids, gradient_as_bucket_view=True)

        return type(model)(model.config, *(parallel(network) for network in model.children()))


ALONE = World()
PATIENT = timedelta(days=30)
"""For commands whose ranks work alone for long and meet at the end. torchrun ends all where one has died."""


@contextlib.contextmanager
def world(timeout: timedelta | None = None) -> Iterator[World]:
    """Join the ranks that torchrun started, for the length of a block; alone without torchrun.

    Args:
        timeout: how long a rank waits for the others before it takes them for lost; by default as long as torch does.
    """
    if not distributed.is_torchelastic_launched():
        yield ALONE
        return
    ranks = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
        backend += ",cuda:nccl"
    distributed.init_process_group(backend, timeout=timeout)
    try:
        yield ranks
    finally:
        gc.collect()  # what holds on to the group, the parallel networks' cycles among it, must be gone before it
        distributed.destroy_process_group()


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error is what the other ranks see when one is gone. gloo's have no type of their own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
