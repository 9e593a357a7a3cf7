"""
Every claim that the scripts beside this one test, as a row with a verdict.

    python -m papers.claims     collects the finished runs into papers/README.md: their claims,
                                their tables and (in figures/) their figures

A script ends with `save_claims(folder, claims)`. The verdict is a rule: more than two
standard errors in the claimed direction *holds*, as much in the other *does not hold*, else
*cannot tell*. By chance alone two standard errors are passed in this direction once in
eleven times with three seeds, in 17 with five, in 26 with ten pieces of text. A claim that
the world was built to contain says so in `says`.
"""
import dataclasses
import json
import math
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import (UserError, atomic_write, command_line, option, reading, run_folder,
                  write_json)
from gpt import aligned

README = Path(__file__).with_name("README.md")
MARK = "<!-- python -m papers.claims writes what follows -->"


@dataclass
class Claim:
    """One claim of a paper and what we measured of it.

    ours: the measured difference that is positive if the claim holds, in the unit that
    `says` names. standard_error: of `ours`, over seeds and distinct cases.
    """
    paper: str               # "GPT-1"
    where: str               # section, table or figure
    says: str                # the claim, in one sentence, with the unit of its numbers
    paper_number: str        # the paper's, as text; "" where it prints none
    ours: float
    standard_error: float
    seeds: int
    cases: int               # distinct ones behind each number

    @property
    def verdict(self) -> str:
        if math.isnan(self.standard_error) or abs(self.ours) <= 2 * self.standard_error:
            return "cannot tell"
        return "holds" if self.ours > 0 else "does not hold"


@dataclass
class RunOptions:
    """What a script can be asked for, beside its own options."""
    fast: bool = option(False, "a smoke run of seconds to minutes, in a folder of its own")
    fresh: bool = option(False, "make all that is in runs/NAME anew")


def folder_of(options, *names: str, part: str = "", **settings) -> Path:
    """The run folder of a script's options: runs/NAME or, with `part`, runs/NAME/PART. A smoke run
    (--fast) has a folder of its own, runs/NAME-fast. What is in it depends on the options `names`
    and on `settings`."""
    for name in names:
        settings[name] = getattr(options, name)
    name = options.name + ("-fast" if options.fast else "")
    return run_folder(f"{name}/{part}" if part else name, settings, options.fresh)


def over_seeds(differences) -> tuple[float, float]:
    """Mean and standard error of one difference per seed, or per distinct case; of a single one the
    error is unknown. differences: a list or an array."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return mean, math.nan
    return mean, float(np.std(differences, ddof=1)) / math.sqrt(len(differences))


def proportion_error(share: float, cases: int) -> float:
    """The standard error of a share of `cases` independent cases."""
    return math.sqrt(max(share * (1 - share), 1 / cases) / cases)


def save_claims(folder: Path, claims: list[Claim]):
    """Keep a script's claims in its run folder and print them."""
    write_json(folder / "claims.json", [dataclasses.asdict(claim) for claim in claims])
    print("\n" + table(claims))


def table(claims: list[Claim]) -> str:
    """Claims as a Markdown table."""
    lines = ["| paper | where | claim | paper's | ours | s.e. | seeds | cases | verdict |",
             "|---|---|---|---|---|---|---|---|---|"]
    for c in claims:
        error = "?" if math.isnan(c.standard_error) else f"{c.standard_error:.3f}"
        cells = [c.paper, c.where, c.says, c.paper_number, f"{c.ours:.3f}", error, str(c.seeds),
                 str(c.cases), c.verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables_of(folder: Path) -> str:
    """The tables of a run as Markdown. Its figures are copied to figures/."""
    parts = [f"## runs/{folder.name}"]
    for path in sorted(folder.glob("*.json")):
        rows = json.loads(path.read_text())
        if isinstance(rows, list) and path.name != "claims.json":
            parts += [f"{path.stem}:", textwrap.indent(aligned(rows), "    ")]
    for path in sorted(folder.glob("*.png")):
        shutil.copy(path, README.parent.parent / "figures")
        parts.append(f"![{path.stem}](../figures/{path.name})")
    return "\n\n".join(parts)


def claims():
    """Write the claims and tables of all finished runs into papers/README.md. UserError if it has
    results of runs that are not here and would be lost."""
    found, folders = [], []
    for path in sorted(Path("runs").glob("*/claims.json")):
        if not path.parent.name.endswith("-fast"):
            with reading(path, "a list of claims"):
                found += [Claim(**record) for record in json.loads(path.read_text())]
            folders.append(path.parent)
    if not found:
        raise UserError("no run has claims yet: run one of the scripts, such as "
                        "python -m papers.exact")
    before, _, after = README.read_text().partition(MARK)
    for run in re.findall("^## (runs/.*)$", after, re.MULTILINE):
        if Path(run) not in folders:
            raise UserError(f"{README} has results of {run}, which is not here: run that script "
                            "first (each prints its own claims), or delete the section")
    parts = [before.rstrip(), MARK, table(found), *map(tables_of, folders)]
    with atomic_write(README) as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    print(table(found))


if __name__ == "__main__":
    command_line({"claims": claims}, default="claims")
