"""Patch embeddings of vision transformers as linears: a convolution whose stride is its kernel reads no pixel twice.

Convolutions have no rule here, and torchao's recipes quantize linears alone. The function is the same.
"""

from __future__ import annotations

import torch
from torch import nn


class PatchLinear(nn.Module):
    """x [B, C, H, W] -> [B, out_channels, H / kernel height, W / kernel width], as the convolution it is made of."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        height, width = convolution.kernel_size
        self.patch = (height, width)
        weight = convolution.weight.detach()
        self.linear = nn.Linear(weight[0].numel(), len(weight), bias=convolution.bias is not None)
        self.linear.weight = nn.Parameter(weight.reshape(len(weight), -1).clone(), requires_grad=False)
        if convolution.bias is not None:
            self.linear.bias = nn.Parameter(convolution.bias.detach().clone(), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """Of the linear: a model that asks for its convolution's dtype finds it here."""
        return self.linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        rows, columns = height // self.patch[0], width // self.patch[1]
        x = x[:, :, : rows * self.patch[0], : columns * self.patch[1]]
        # Two permutes of four dimensions each: one of six would have no kernel.
        x = x.reshape(batch * channels * rows, self.patch[0], columns, self.patch[1]).transpose(1, 2)
        x = x.reshape(batch, channels, rows * columns, -1).transpose(1, 2).reshape(batch, rows * columns, -1)
        y: torch.Tensor = self.linear(x).transpose(1, 2)
        return y.reshape(batch, -1, rows, columns)


def replace_patch_convolutions(model: nn.Module) -> nn.Module:
    """Replaces, in place, each 2-D convolution of a model that cuts its input into patches; the others stay."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and _cuts_patches(module):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PatchLinear(module))
    return model


def _cuts_patches(convolution: nn.Conv2d) -> bool:
    """A kernel of one element is a linear too, but a strided one skips pixels."""
    return (
        convolution.stride == convolution.kernel_size
        and convolution.padding in ((0, 0), "valid")
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    )
