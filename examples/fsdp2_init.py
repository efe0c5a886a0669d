"""FSDP2 from the meta device: the same weights at any number of processes.

    torchrun --nproc-per-node=1 examples/fsdp2_init.py
    torchrun --nproc-per-node=4 examples/fsdp2_init.py

Both print the same digest. No rank holds or sends more than its own shards, or makes more, but of
orthogonal matrices; the full tensors are put together below only to look at them.
"""

import hashlib

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit


class Block(nn.Module):
    """A block of a transformer, initialised as trainers do it: by torch.nn.init on DTensors."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.depth = depth

    def init_weights(self) -> None:
        self.norm.reset_parameters()
        nn.init.trunc_normal_(self.up.weight, mean=0.0, std=0.02)
        nn.init.trunc_normal_(self.down.weight, mean=0.0, std=0.02 / (2 * self.depth) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.silu(self.up(self.norm(x))))


def build(device: str, width: int = 64, depth: int = 4) -> nn.Sequential:
    with torch.device("meta"):  # no memory yet
        model = nn.Sequential(*(Block(width, depth) for _ in range(depth)))
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model.to_empty(device=device)  # of the shards


def digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for parameter in model.parameters():
        found.update(parameter.detach().full_tensor().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(distributed.get_rank() % torch.cuda.device_count())
    model = build(device)

    # The modules' own initialisers, each weight under a key of its name.
    fastinit.initialize_(model, key=0)
    as_one = digest(model)

    # The trainer's own code, in order of its calls.
    with fastinit.patch(key=0), torch.no_grad():
        for block in model:
            block.init_weights()
    by_call = digest(model)

    # By name: a layer more changes no other, and pipeline stages agree with the whole model.
    key = fastinit.Key(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            fastinit.kaiming_normal_(parameter, key=key.fold_in(name))
    by_name = digest(model)

    # Without a key: torch.manual_seed decides, and has to be alike on all ranks. Is it?
    torch.manual_seed(0)
    with fastinit.check_ranks(model):
        fastinit.orthogonal_(model[0].up.weight)

    if distributed.get_rank() == 0:
        print(f"as one {as_one}, by call {by_call}, by name {by_name}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
