"""`python -m tests.compilers`: compiles and translates every variant, prints tables, compares with the record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from backend.kernels.manifest_reader import load_manifests
from backend.kernels.toolchain import find_toolchain

from . import record as records
from .jobs import Job, is_for_cpus, modules, plan
from .radv import CPUS_WITH, FAMILIES, Compiler, Family, Result
from .translate import targets, translate, untranslated

HERE = Path(__file__).parent
RECORD, UNTRANSLATED = HERE / "record.txt", HERE / "untranslated.txt"
_AGAIN = "look at it, then `scripts/test_compilers.sh --update`"


def main() -> int:
    options = _parser().parse_args()
    manifests = load_manifests(Path("shaders"))
    library = options.library.read_bytes()
    spirv = modules(library)
    jobs = plan(manifests, library, spirv)
    for_cpus = {f"{one.name}/{a.name}" for one in manifests for a in one.algorithms if is_for_cpus(a)}
    problems = _translate(jobs, spirv, options)
    problems += _compile(jobs, for_cpus, options)
    for problem in problems:
        print(f"worse: {problem}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} worse than recorded: {_AGAIN}", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/test_compilers.sh")
    parser.add_argument("families", nargs="*", help=f"default: {' '.join(family.name for family in FAMILIES)}")
    parser.add_argument("--update", action="store_true", help="write the record anew; review it")
    for name in ("pipelines", "library", "installed", "mesa-25", "cache"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--spirv-cross", required=True, help=argparse.SUPPRESS)
    return parser


def _translate(jobs: Sequence[Job], spirv: Sequence[bytes], options: argparse.Namespace) -> list[str]:
    commands = targets(find_toolchain().spirv_val, options.spirv_cross.split())
    answers = translate(spirv, commands, options.cache / "translations.txt", _progress("modules", len(spirv)))
    text = untranslated(jobs, answers)
    n_variants = len({(job.name, job.index) for job in jobs})
    print("\n| target | variants | not translated |\n|---|---|---|")
    for target, reasons in answers.items():
        kept = {(job.name, job.index) for job in jobs if reasons[job.module]}
        print(f"| {target} | {n_variants - len(kept)} | {len(kept)} |")
    print()
    if options.update:
        UNTRANSLATED.write_text(text)
    known = UNTRANSLATED.read_text().splitlines()
    return [line for line in text.splitlines() if line not in known]


def _compile(jobs: Sequence[Job], for_cpus: set[str], options: argparse.Namespace) -> list[str]:
    compiler = Compiler(options.pipelines, {"installed": options.installed, "mesa-25": options.mesa_25}, options.cache)
    recorded = records.read(RECORD.read_text()) if RECORD.exists() else {}
    rows, problems = [], []
    for family in _chosen(options.families):
        # What only software devices are given: whether it compiles, once.
        given = [job for job in jobs if family.name == CPUS_WITH or job.name not in for_cpus]
        result = compiler.compile(family, given, _progress(family.name, len({job.digest for job in given})))
        worst = records.worst(given, result.answers)
        section = records.Section(result.driver, {name: row for name, row in worst.items() if name not in for_cpus})
        if options.update:
            recorded[family.name] = section
            RECORD.write_text(records.write(recorded))
        problems += _failures(family, given, result)
        problems += records.compare(family.name, recorded.get(family.name), section)
        rows.append(_row(family, given, result, section))
    print("\n| family | driver | variants | refused | failed | most registers | spill | one subgroup a SIMD |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    return problems


def _chosen(names: Sequence[str]) -> tuple[Family, ...]:
    known = {family.name: family for family in FAMILIES}
    for name in names:
        if name not in known:
            raise SystemExit(f"test_compilers: {name}: no such family; offered {', '.join(known)}")
    return tuple(known[name] for name in names or known)


def _failures(family: Family, jobs: Sequence[Job], result: Result) -> list[str]:
    return [
        f"{family.name}: {job.key} with {job.specs}: {answer.removeprefix('failed').strip()}"
        for job, answer in zip(jobs, result.answers, strict=True)
        if answer.startswith("failed")
    ]


def _row(family: Family, jobs: Sequence[Job], result: Result, section: records.Section) -> str:
    """A line of the README's table; registers and below are of what a GPU is given."""
    ways = {
        word: {
            (job.name, job.index) for job, answer in zip(jobs, result.answers, strict=True) if answer.startswith(word)
        }
        for word in ("refused", "failed")
    }
    n_variants = len({(job.name, job.index) for job in jobs})
    vgprs, _, spilled, _, _, subgroups = range(len(records.COLUMNS))
    most = max(section.worst, key=lambda name: section.worst[name].values[vgprs])
    spills = [f"{name} {row.values[spilled]}" for name, row in section.worst.items() if row.values[spilled]]
    lonely = [name for name, row in section.worst.items() if row.values[subgroups] == 1]
    compiled = n_variants - len(ways["refused"]) - len(ways["failed"])
    cells = (
        f"{family.name} ({family.gpu})",
        result.driver.removeprefix("radv "),
        compiled,
        len(ways["refused"]),
        len(ways["failed"]),
        f"{section.worst[most].values[vgprs]}, {most}",
        ", ".join(spills) or "none",
        ", ".join(lonely) or "none",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _progress(what: str, total: int) -> Callable[[int], None]:
    """A line for every tenth."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        if done * 10 // total != (done + more) * 10 // total:
            print(f"{what}: {done + more}/{total}", file=sys.stderr, flush=True)
        done += more

    return count


if __name__ == "__main__":
    sys.exit(main())
