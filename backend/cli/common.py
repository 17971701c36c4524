"""What the commands of `zeropoint` share."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import click

from ..errors import GraphBreakWarning, VersionWarning

FILE = click.Path(path_type=Path)


def echo_peak() -> None:
    """Of this process, on stderr."""
    from ..runtime.running import peak_bytes

    click.echo(f"peak memory: {peak_bytes() / 1e9:.2f} GB", err=True)


def quiet() -> None:
    """This process is the command's own: other packages' notes on their internals are no help to its user."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", GraphBreakWarning)
    warnings.simplefilter("always", VersionWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")  # our own bar says disable=False
    for name in ("torchao", "torch.utils._pytree", "torch.export", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
