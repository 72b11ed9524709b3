"""The processes of a training: one, or the ranks that torchrun started, each with a device of its own."""

import os
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from relume.training.config import TrainingSettings

T = TypeVar("T")


def launched(training: TrainingSettings) -> Fabric:
    """Fabric on one device, or on all ranks of the process group that torchrun describes in the environment."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products on a GPU
    torch.set_num_threads(training.threads)
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    strategy: Any = "auto"
    if world > 1 and training.strategy == "ddp":
        # The official networks have parameters that no output depends on, and phases leave some out.
        strategy = DDPStrategy(find_unused_parameters=True)
    elif world > 1:
        strategy = ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=training.precision,
    )
    fabric.launch()
    # Some operations have no deterministic form on a GPU; bits are promised on the CPU.
    torch.use_deterministic_algorithms(True, warn_only=fabric.device.type != "cpu")
    return fabric


def emulates_bfloat16() -> bool:
    """Whether this processor has no instructions for bfloat16, so that PyTorch emulates them, at a sixth of the speed.

    A convolution of 48 channels took 310 ms instead of 52 ms in float32 (AMD EPYC with AVX2). Known of x86-64 only;
    other processors count as having the instructions.
    """
    capabilities = torch.cpu.get_capabilities()
    return capabilities["architecture"] == "x86_64" and not (capabilities["avx512_bf16"] or capabilities["amx_bf16"])


def _shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spreads weights, gradients, moments and average over the ranks; a pass gathers the weights all at once.

    By block would save the memory of the gathered weights too, but blocks here use the weights of their parts
    directly; and the largest published network has 0.8 GB of them.
    """
    return fully_shard(network, mesh=mesh["data_parallel"])


def is_sharded(fabric: Fabric) -> bool:
    """Whether the network's parameters are spread over the ranks."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def agreed(value: T, fabric: Fabric) -> T:
    """The value of the first rank: clocks and last bits differ, and all ranks must decide alike."""
    return fabric.broadcast(value) if fabric.world_size > 1 else value


def seed_network(seed: int, step: int, fabric: Fabric) -> None:
    """Makes what a network draws itself, such as masks and dropped paths, a function of the step."""
    # torch.manual_seed keeps a traceback for each kind of device that is not in use, two milliseconds a step.
    seed_all = torch.default_generator.manual_seed if fabric.device.type == "cpu" else torch.manual_seed
    seed_all(int(np.random.SeedSequence((seed, step, fabric.global_rank)).generate_state(1, np.uint64)[0]))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from its shards, which every rank must ask for; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut into shards as another one is, or as it is."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor
