"""Writes tests/golden/v<version>: a .pte, inputs, and what eager PyTorch makes of them. Run once per Program version.

python -m tests.golden.make
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchao.quantization.quant_primitives import MappingType

import zeropoint
from tests.e2e.models import Activations, Forms, Weights
from tests.e2e.running import export, lower, rows_of
from zeropoint.program import VERSION

FOLDER = Path(__file__).parent / f"v{VERSION}"
FORMS = (
    *(Activations(zero_point=dtype) for dtype in (torch.int8, torch.int32, torch.float32, torch.float16)),
    Activations(mapping=MappingType.SYMMETRIC, zero_point=torch.int8),
    Activations(form="per_token_asymmetric"),
    Activations(form="per_token"),
    Activations(form="none"),
)


class Golden(torch.nn.Module):
    """Every form of activation before a 4-bit and an 8-bit linear; from version 3 on, what becomes an alternative."""

    def __init__(self) -> None:
        super().__init__()
        self.four = Forms(96, FORMS, Weights(n=21, group_size=32, asymmetric=True, bias=True))
        self.eight = Forms(96, FORMS, Weights(n=10, group_size=96, bits=8))
        self.norm = torch.nn.RMSNorm(96, eps=1e-6)
        self.residual = Forms(96, FORMS[:1], Weights(n=96, group_size=32))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*self.four(x), *self.eight(x), x + self.residual(self.norm(x))[0])


def main() -> None:
    if FOLDER.exists():
        raise SystemExit(f"{FOLDER} exists; a golden program is never rewritten")
    FOLDER.mkdir(parents=True)
    model = Golden().eval()
    x = rows_of(96, 11)
    program = export(model, x, max_sizes={0: 32})
    for storage in ("buffer", "image"):
        pte, _ = lower(program, zeropoint.CompileOptions(qparams_storage=storage))
        (FOLDER / f"{storage}.pte").write_bytes(pte)
    with torch.no_grad():
        outputs = {f"y{index}": y.numpy() for index, y in enumerate(model(x))}
    np.savez_compressed(FOLDER / "expected.npz", x=x.numpy(), **outputs)


if __name__ == "__main__":
    main()
