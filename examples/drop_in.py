"""fastinit in place of torch.nn.init, with a key, and under code that one does not own."""

import torch

import fastinit

w = torch.empty(4096, 4096, dtype=torch.bfloat16)
fastinit.kaiming_uniform_(w)  # torch.manual_seed decides, as in torch
fastinit.normal_(w, std=0.02, key=0)  # a key decides: the same weights everywhere
key = fastinit.Key(0).fold_in("layers.0.weight")  # a key of its own for every parameter
fastinit.trunc_normal_(w, std=0.02, a=-0.04, b=0.04, key=key)

with fastinit.patch():  # torch's, transformers' and timm's own initialisers
    layer = torch.nn.Linear(4096, 4096)

print(fastinit.show_config())
print("weights of the layer:", layer.weight.min().item(), "to", layer.weight.max().item())
