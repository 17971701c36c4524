"""SmolLM2-135M-Instruct as 8da4w: exported once, then it answers a question through executorch.runtime on Vulkan.

The same as `zeropoint export smollm2-135m --output smollm2.pte` and `zeropoint generate smollm2.pte --prompt "..."`.
Exits with 1 unless every linear ran on the device and the answer is right.
"""

import sys
from pathlib import Path

import zeropoint
from zeropoint.cli import main as cli
from zeropoint.llm.chat import ask

PROGRAM = Path("smollm2.pte")
# One whose answer is decided: the order of a driver's float sums moves the logits by up to one in this model, and where
# two tokens are closer (as "The" and "L'" are for the capital of France), the driver chooses.
QUESTION, ANSWER = "What is the capital of Japan?", "tokyo"


def up_to_date() -> bool:
    """Whether the program is newer than the package that writes it."""
    sources = Path(zeropoint.__file__).parent.rglob("*.py")
    return PROGRAM.exists() and PROGRAM.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def write(piece: str) -> None:
    print(piece, end="", flush=True)


if not up_to_date():
    print("Exporting SmolLM2-135M-Instruct to", PROGRAM, flush=True)
    cli.main(["export", "smollm2-135m", "--output", str(PROGRAM)], standalone_mode=False)

print(f"\n> {QUESTION}\n", flush=True)
answer = ask(PROGRAM, QUESTION, write=write, max_new_tokens=48)
print(f"\n\n{answer}")

run = answer.delegation
if run.n_delegated != run.n_linears:
    sys.exit(f"{run.n_linears - run.n_delegated} linears did not run on the device; zeropoint inspect {PROGRAM}")
if ANSWER not in answer.text.lower():
    sys.exit("The answer is wrong.")
