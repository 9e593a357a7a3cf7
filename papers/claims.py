"""
What every script uses: claims, each a row with a verdict, and the run folder.

    python -m papers.claims     writes the claims, tables and figures of all finished runs that
                                have claims into papers/README.md and figures/

A script with an option --seed, or with one run of `python rlhf.py` as its base, makes its claims of
one seed. On other seeds it makes the same claims again, and here they become one, with the standard
error over seeds:

    python -m papers.gpt1 --seed 1 --name gpt1-s1
    python rlhf.py --seed 1 --name s1
    python -m papers.instructgpt --base s1 --name instructgpt-depth-s1

The verdict is "holds" if the measured effect is more than two standard errors in the claimed
direction, "does not hold" if it is more than two in the other, else "cannot tell". Without any
effect, "holds" comes up by chance once in eleven times with three seeds, in 17 with five, in 26
with ten pieces of text, in 44 with hundreds of independent cases.
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

from data import UserError, atomic_write, command_line, option, reading, run_folder, write_json
from gpt import aligned

README = Path(__file__).with_name("README.md")
MARK = "<!-- python -m papers.claims writes what follows -->"


@dataclass
class Claim:
    """A claim of a paper and what we measured."""
    paper: str               # "GPT-1"
    where: str               # section, table or figure
    says: str                # one sentence, with the unit of the numbers; whether it is built in
    paper_number: str        # the paper's number, as text
    ours: float              # the measured difference, positive if the claim holds
    standard_error: float    # of `ours`, over seeds or distinct cases; nan: unknown
    seeds: int
    cases: int               # distinct test cases: of all seeds if one run has several, else of one

    @property
    def verdict(self) -> str:
        if self.ours > 2 * self.standard_error:
            return "holds"
        if self.ours < -2 * self.standard_error:
            return "does not hold"
        return "cannot tell"  # also if the error is nan, which compares as false

    @property
    def words(self) -> tuple[str, str, str]:
        """What is claimed: equal in runs of the same script on other seeds."""
        return self.paper, self.where, self.says


@dataclass
class RunOptions:
    """The options of every script, besides its own."""
    fast: bool = option(False, "a smoke run of seconds to minutes, in a folder of its own")
    fresh: bool = option(False, "make all that is in runs/NAME anew")


def folder_of(options, *names: str, part: str = "", **settings) -> Path:
    """The folder runs/NAME of a script, NAME-fast if it is a smoke run (--fast), or a folder `part`
    in it. What it contains depends on the options `names` and on `settings`."""
    for name in names:
        settings[name] = getattr(options, name)
    name = options.name + ("-fast" if options.fast else "")
    return run_folder(f"{name}/{part}" if part else name, settings, options.fresh)


def mean_and_error(differences) -> tuple[float, float]:
    """Mean and standard error of independent differences: one per seed, case or piece of text. Of a
    single one the error is nan."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return mean, math.nan
    return mean, float(np.std(differences, ddof=1)) / math.sqrt(len(differences))


def proportion_error(share: float, cases: int) -> float:
    """The standard error of a share of `cases` independent cases; at least 1 / cases, so that it is
    not 0 where all cases are alike."""
    return math.sqrt(max(share * (1 - share), 1 / cases) / cases)


def mean_gain(before, after, cases) -> tuple[float, float]:
    """The mean over tasks of after - before, which are shares of `cases` cases each, and its
    standard error, as if the two were shares of different cases."""
    errors = []
    for a, b, count in zip(before, after, cases):
        errors += [proportion_error(a, count), proportion_error(b, count)]
    return float(np.mean(np.subtract(after, before))), math.hypot(*errors) / len(cases)


def save_claims(folder: Path, claims: list[Claim]):
    """Write a script's claims into its run folder and print them."""
    write_json(folder / "claims.json", [dataclasses.asdict(claim) for claim in claims])
    print("\n" + table(claims))


def table(claims: list[Claim]) -> str:
    """Claims as a Markdown table."""
    lines = ["| paper | where | claim | paper's | ours | s.e. | seeds | cases | verdict |",
             "|---|---|---|---|---|---|---|---|---|"]
    for c in claims:
        error = "?" if math.isnan(c.standard_error) else f"{c.standard_error:.3f}"
        lines.append(f"| {c.paper} | {c.where} | {c.says} | {c.paper_number} | {c.ours:.3f} | "
                     f"{error} | {c.seeds} | {c.cases} | {c.verdict} |")
    return "\n".join(lines)


def pooled(claims: list[Claim]) -> list[Claim]:
    """One claim in place of those that runs of several seeds make in the same words: the mean, with
    its standard error over seeds, and the least number of cases. UserError if one of these runs has
    several seeds itself."""
    groups = {}  # what is claimed -> the claims of all seeds
    for claim in claims:
        groups.setdefault(claim.words, []).append(claim)
    rows = []
    for words, group in groups.items():
        row = group[0]
        if len(group) > 1:
            if any(claim.seeds > 1 for claim in group):
                raise UserError(f"two runs, of several seeds each, make one claim: {row.says}")
            mean, error = mean_and_error([claim.ours for claim in group])
            cases = min(claim.cases for claim in group)
            row = Claim(*words, row.paper_number, mean, error, len(group), cases)
        rows.append(row)
    return rows


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
    """Write the claims, tables and figures of all finished runs into papers/README.md; of several
    runs that make the same claims, the tables and figures of the first. UserError if it has results
    of runs that are not here and would be lost."""
    found, runs, folders = [], [], []
    for path in sorted(Path("runs").glob("*/claims.json")):
        if path.parent.name.endswith("-fast"):
            continue
        with reading(path, "a list of claims"):
            own = [Claim(**record) for record in json.loads(path.read_text())]
        known = {claim.words for claim in found}
        if any(claim.words not in known for claim in own):
            folders.append(path.parent)
        found += own
        runs.append(path.parent)
    before, _, after = README.read_text().partition(MARK)
    for run in re.findall(r"\bruns/\w[\w.-]*\w", after):
        if Path(run) not in runs:
            raise UserError(f"{README} has results of {run}, which is not here: run that script "
                            "first (each prints its own claims), or delete its name there")
    rows = table(pooled(found))
    made_from = "Made from " + ", ".join(map(str, runs)) + "."
    parts = [before.rstrip(), MARK, rows, made_from, *map(tables_of, folders)]
    with atomic_write(README) as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    print(rows)


if __name__ == "__main__":
    command_line({"claims": claims}, default="claims")
