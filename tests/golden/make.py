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
from tests.e2e.running import lower, rows_of
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
    """Every form of activation before a 4-bit and an 8-bit linear.

    From version 3 on, what becomes an alternative; from version 4 on, a state, and indices from an input and computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.four = Forms(96, FORMS, Weights(n=21, group_size=32, asymmetric=True, bias=True))
        self.eight = Forms(96, FORMS, Weights(n=10, group_size=96, bits=8))
        self.norm = torch.nn.RMSNorm(96, eps=1e-6)
        self.residual = Forms(96, FORMS[:1], Weights(n=96, group_size=32))
        self.table = torch.nn.Embedding(19, 8)
        self.register_buffer("latest", torch.zeros(19, 96))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.latest.index_copy_(0, ids[:1], x[:1])
        rows = self.table(ids), self.table(ids * 2 - ids)
        return (*self.four(x), *self.eight(x), x + self.residual(self.norm(x))[0], *rows)


def main() -> None:
    if FOLDER.exists():
        raise SystemExit(f"{FOLDER} exists; a golden program is never rewritten")
    FOLDER.mkdir(parents=True)
    model = Golden().eval()
    x, ids = rows_of(96, 11), torch.arange(11) + 8
    length = torch.export.Dim("length", min=1, max=32)
    with torch.no_grad():
        program = torch.export.export(model, (x, ids), dynamic_shapes=({0: length}, {0: length}))
    for storage in ("buffer", "image"):
        pte, _ = lower(program, zeropoint.CompileOptions(qparams_storage=storage))
        (FOLDER / f"{storage}.pte").write_bytes(pte)
    with torch.no_grad():
        outputs = {f"y{index}": y.numpy() for index, y in enumerate(model(x, ids))}
    np.savez_compressed(FOLDER / "expected.npz", x=x.numpy(), ids=ids.numpy(), **outputs)


if __name__ == "__main__":
    main()
