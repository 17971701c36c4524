"""Makes quantized weights that are said to need gradients ones that do not: nothing could decompose the program."""

from __future__ import annotations

from torch import nn
from torch.export import ExportedProgram
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def freeze_weights(program: ExportedProgram) -> None:
    """Changes a program in place, its module's parameters not.

    `load_state_dict(assign=True)` of a quantized checkpoint leaves such weights: their codes are integers, which
    PyTorch refuses as parameters with gradients as soon as it takes the weight apart.
    """
    for name, tensor in program.state_dict.items():
        if tensor.requires_grad and is_traceable_wrapper_subclass(tensor):
            program.state_dict[name] = nn.Parameter(program.state_dict[name].detach(), requires_grad=False)
