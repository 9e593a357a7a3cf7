"""
InstructGPT's main result: GPT, GPT prompted, SFT, PPO and PPO-ptx, compared on several seeds.

Each seed is another town, another pretraining, another everything: a finished run of
`python rlhf.py`, whose table this script reads. It also draws new answers, at lower temperatures and
to see which kinds of prompts gain. The claims, of the paper's §4:
    steps       a prompt with examples, SFT and PPO are steps forward, ptx changes little
    tax         PPO loses on what pretraining taught, PPO-ptx wins it back
    invention   PPO-ptx states something false less often than GPT

    python rlhf.py --seed 1 --name s1             and so on
    python -m papers.ladder --base instructgpt,s1,s2,s3,s4

Results go to runs/ladder; its figure has the logs of the first run. Paper: InstructGPT
(arXiv:2203.02155).
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
from data import command_line, option
from gpt import print_table
from papers.claims import Claim, RunOptions, folder_of, over_seeds, save_claims
from papers.figures import column, logged, plot
from papers.instructgpt_run import Run, runs_of
from rlhf import win_rate

TEMPERATURES = (1.0, 0.3, 0.0)  # of the newly drawn answers
MODELS = ("GPT", "GPT prompted", "SFT", "PPO", "PPO-ptx")


@dataclass
class Options(RunOptions):
    base: str = option("instructgpt", "runs of `python rlhf.py`, with commas between them")
    name: str = option("ladder", "results go to runs/NAME")


def by_seed(tables: dict[int, dict]) -> list[dict]:
    """A row for each seed: win rate against SFT, gold score and pretraining loss of each model."""
    rows = []
    for seed, table in tables.items():
        row = {"seed": seed}
        for name in MODELS:
            of_model = table[name]
            row[name] = (f"{of_model['win']:.3f} {of_model['gold']:.2f} "
                         f"{of_model['pretrain_loss']:.3f}")
        rows.append(row)
    return rows


def means(tables: dict[int, dict]) -> list[dict]:
    """A row for each model: its values, averaged over the seeds."""
    rows = []
    for name in MODELS:
        of_seeds = [table[name] for table in tables.values()]
        win, error = over_seeds(column(of_seeds, "win"))
        row = {"model": name, "win": win, "s.e.": error}
        for key in ("gold", "helpful", "invented", "rude", "off", "refused", "pretrain_loss"):
            row[key] = float(column(of_seeds, key).mean())
        rows.append(row)
    return rows


def by_temperature(runs: list[Run]) -> list[dict]:
    """The comparison of `python rlhf.py` at several temperatures: every model's answers to the
    held-out prompts, each against three by SFT at the same temperature. Means over the runs, and
    the standard error of the win rate."""
    grades = {}  # (temperature, model) -> the grades of each run
    for run in runs:
        prompts = [prompt.messages for prompt in run.task.test]
        for temperature in TEMPERATURES:
            speakers = run.ladder(temperature)
            baseline = []
            for seed in (3, 4, 5):
                baseline += run.task.gold(speakers["SFT"](prompts, seed))
            for name, speaker in speakers.items():
                own = run.task.grades(speaker(prompts, 1), baseline)
                grades.setdefault((temperature, name), []).append(own)
    rows = []
    for (temperature, name), of_runs in grades.items():
        win, error = over_seeds(column(of_runs, "win"))
        row = {"temperature": temperature, "model": name, "win": win, "s.e.": error}
        for part in ("gold", "helpful", "invented", "rude", "off"):
            row[part] = float(column(of_runs, part).mean())
        rows.append(row)
    return rows


def by_kind(runs: list[Run]) -> list[dict]:
    """Where PPO helps: for each kind of held-out prompt the mean helpfulness, which the rubric
    gives, and the win rate against SFT, of three answers at temperature 1, each against one by SFT,
    all runs together."""
    values = {}  # kind -> name of a column -> the values of all answers
    for run in runs:
        world, test = run.task.world, run.task.test
        prompts = [prompt.messages for prompt in test]
        for seed in (3, 4, 5):
            baseline = run.task.gold(run.speaker(run.sft)(prompts, seed))
            for name, model in run.chats.items():
                answers = run.speaker(model)(prompts, seed + 3)
                for prompt, answer, other in zip(test, answers, baseline):
                    gold = data.gold(world, prompt, *answer)
                    helpful = data.judge(world, prompt, *answer)["helpful"]
                    of_kind = values.setdefault(kind_of(prompt), {})
                    of_kind.setdefault(f"{name} helpful", []).append(helpful)
                    of_kind.setdefault(f"{name} wins", []).append(win_rate([gold], [other])["win"])
    rows = []
    for kind, columns in sorted(values.items()):
        row = {"kind": kind, "prompts": len(columns["SFT wins"]) // 3}
        for name, numbers in columns.items():
            row[name] = float(np.mean(numbers))
        rows.append(row)
    return rows


def kind_of(prompt: data.Instruction) -> str:
    """The use case, the number of facts asked for, and whether a system message asks for one word
    or for silence."""
    if prompt.count:
        return f"{prompt.use_case}, facts: {prompt.count}"
    is_ruled = prompt.use_case in ("generation", "open qa") and not prompt.unknowable
    return f"{prompt.use_case}, one word or silence" if is_ruled else prompt.use_case


def claims(tables: dict[int, dict], prompts: int) -> list[Claim]:
    """Errors are over seeds."""
    win, loss, invented = {}, {}, {}  # of each model, an array with a value for each seed
    for name in MODELS:
        of_seeds = [table[name] for table in tables.values()]
        win[name] = column(of_seeds, "win")
        loss[name] = column(of_seeds, "pretrain_loss")
        invented[name] = column(of_seeds, "invented")
    lost = loss["PPO"] - loss["GPT"]
    won_back = (loss["PPO"] - loss["PPO-ptx"]) / lost

    def claim(where: str, says: str, paper_number: str, differences: np.ndarray) -> Claim:
        return Claim("InstructGPT", where, says, paper_number, *over_seeds(differences),
                     len(tables), prompts)

    habit = "(built in, for the most part: demonstrations have a habit that labelers dislike)"
    return [
        claim("§4.1", "GPT is better after a prompt with two good examples: win rate against SFT, "
              "with the prompt minus without", "a significant step",
              win["GPT prompted"] - win["GPT"]),
        claim("§4.1", "SFT is preferred to GPT prompted: .5 minus the win rate of the latter (built "
              "in: the web is often wrong, evasive or rude)", "a significant step",
              0.5 - win["GPT prompted"]),
        claim("§4.1", f"PPO is preferred to SFT: win rate minus .5 {habit}", "a significant step",
              win["PPO"] - 0.5),
        claim("§4.1", f"PPO-ptx is preferred to SFT: win rate minus .5 {habit}", "as PPO",
              win["PPO-ptx"] - 0.5),
        claim("§4.1", "PPO-ptx wins more against SFT than PPO does (our question)",
              "no large changes", win["PPO-ptx"] - win["PPO"]),
        claim("§4.2", "PPO loses on what pretraining taught: its pretraining loss minus GPT's, nats "
              "per token", "on public NLP tasks", lost),
        claim("§4.2", "PPO-ptx wins back more than half of this: share minus .5 (built in: it "
              "trains on this loss)", "on public NLP tasks", won_back - 0.5),
        claim("Fig. 4", "PPO-ptx invents less than GPT: share of answers that state something "
              "false about a person (built in: a forum with guesses)", "0.20 (0.41 to 0.21)",
              invented["GPT"] - invented["PPO-ptx"]),
        claim("Fig. 4", "PPO-ptx invents less than SFT, the same share", "chart",
              invented["SFT"] - invented["PPO-ptx"])]


def draw(path: Path, rows: list[dict], run: Path):
    """The mean win rates, and score, KL and pretraining loss along PPO in one run."""
    wins = {row["model"]: row["win"] for row in rows}
    panels = [{"title": "win rate against SFT, mean of the seeds", "bars": {None: wins}}]
    for key, title in (("score", "score by the reward model"),
                       ("kl", "KL to SFT, nats per answer"),
                       ("pretrain_loss", "held-out pretraining loss")):
        lines = []
        for stage, label in (("ppo", "PPO"), ("ppo_ptx", "PPO-ptx")):
            log = logged(run / f"{stage}.jsonl", key)
            lines.append((label, column(log, "step"), column(log, key)))
        panels.append({"title": title, "xlabel": "PPO iteration", "lines": lines})
    plot(path, panels)


def ladder(options: Options = Options()):
    """Compare the models of several runs. [InstructGPT §4]"""
    folder = folder_of(options, "base")
    runs = runs_of(options)
    tables = {}  # seed -> model -> the row of its run's table
    for run in runs:
        rows = json.loads((run.folder / "table.json").read_text())
        tables[run.options.seed] = {row["model"]: row for row in rows}
    print("\nwin rate against SFT, gold score, pretraining loss")
    print_table(by_seed(tables), folder / "seeds.json")
    print("\nmeans over the seeds; the standard error of the win rate")
    rows = means(tables)
    print_table(rows, folder / "table.json")
    print("\nnewly drawn answers, each against three by SFT at the same temperature: means")
    print_table(by_temperature(runs), folder / "temperature.json")
    print("\nby kind of prompt, temperature 1")
    print_table(by_kind(runs), folder / "kinds.json")
    draw(folder / "ladder.png", rows, runs[0].folder)
    save_claims(folder, claims(tables, len(runs[0].task.test)))


if __name__ == "__main__":
    command_line({"ladder": ladder}, default="ladder")
