"""
InstructGPT's main result: GPT, GPT prompted, SFT, PPO and PPO-ptx, compared on several seeds.

Each seed is another town, another pretraining, another everything: a finished run of `python
rlhf.py`, whose table this script reads. It also draws new answers, at lower temperatures and to see
which kinds of prompts gain. The claims, of the paper's §4:
    steps       a prompt with examples, SFT and PPO are steps forward; whether ptx wins more is
                our question (the paper: no large changes)
    tax         PPO loses on what pretraining taught, PPO-ptx wins it back
    invention   PPO-ptx states something false less often than GPT, but more often than SFT

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
from papers.claims import Claim, RunOptions, folder_of, mean_and_error, save_claims
from papers.figures import column, logged, plot
from papers.instructgpt_run import Run, runs_of
from rlhf import win_rate

TEMPERATURES = (1.0, 0.3, 0.0)  # of the newly drawn answers
MODELS = ("GPT", "GPT prompted", "SFT", "PPO", "PPO-ptx")
WINDOWS = 256  # of held-out text, from which gpt.evaluate computes the pretraining loss


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


def mean_row(of_seeds: list[dict], *parts: str) -> dict:
    """The mean win rate with its standard error over seeds, and the means of these parts."""
    win, error = mean_and_error(column(of_seeds, "win"))
    return {"win": win, "s.e.": error,
            **{part: float(column(of_seeds, part).mean()) for part in parts}}


def means(tables: dict[int, dict]) -> list[dict]:
    """A row for each model: its values, averaged over the seeds."""
    rows = []
    for name in MODELS:
        of_seeds = [table[name] for table in tables.values()]
        rows.append({"model": name, **mean_row(of_seeds, "gold", "helpful", "invented", "rude",
                                               "off", "refused", "pretrain_loss")})
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
    for (temperature, name), of_seeds in grades.items():
        rows.append({"temperature": temperature, "model": name,
                     **mean_row(of_seeds, "gold", "helpful", "invented", "rude", "off")})
    return rows


def by_kind(runs: list[Run]) -> list[dict]:
    """Where PPO helps: for each kind of held-out prompt, all runs together, the mean helpfulness
    and the win rate against SFT, of three answers at temperature 1. All models meet the same
    answers by SFT: compare a win rate with SFT's own, not with .5."""
    values = {}  # kind -> model -> of each answer its helpfulness, its gold score and SFT's
    for run in runs:
        test = run.task.test
        prompts = [prompt.messages for prompt in test]
        for seed in (3, 4, 5):
            baseline = run.task.gold(run.speaker(run.sft)(prompts, seed))
            for name, model in run.chats.items():
                answers = run.speaker(model)(prompts, seed + 3)
                golds = run.task.gold(answers)
                for prompt, answer, gold, other in zip(test, answers, golds, baseline):
                    helpful = data.judge(run.task.world, prompt, *answer)["helpful"]
                    of_kind = values.setdefault(kind_of(prompt), {})
                    of_kind.setdefault(name, []).append((helpful, gold, other))
    rows = []
    for kind, of_models in sorted(values.items()):
        row = {"kind": kind, "prompts": len(of_models["SFT"]) // 3}
        for name, of_answers in of_models.items():
            helpful, golds, others = zip(*of_answers)
            row[f"{name} helpful"] = float(np.mean(helpful))
            row[f"{name} wins"] = win_rate(golds, others)["win"]
        rows.append(row)
    return rows


def kind_of(prompt: data.Instruction) -> str:
    """The use case, the number of facts asked for, whether a system message asks for one word or
    for silence, and whether nothing is known of the person."""
    if prompt.count:
        return f"{prompt.use_case}, facts: {prompt.count}"
    if prompt.unknowable:
        return f"{prompt.use_case}, a stranger"
    is_ruled = prompt.use_case in ("generation", "open qa")
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

    def claim(where: str, says: str, paper_number: str, differences: np.ndarray,
              cases: int = prompts) -> Claim:
        return Claim("InstructGPT", where, says, paper_number, *mean_and_error(differences),
                     len(tables), cases)

    habit = "(built in, for the most part: demonstrations have a habit that labelers dislike)"
    return [
        claim("§4.1", "GPT is better after a prompt with two good examples: win rate against SFT, "
              "with the prompt minus without", "a significant step",
              win["GPT prompted"] - win["GPT"]),
        claim("§4.1", "SFT is preferred to GPT prompted: .5 minus the win rate of the latter "
              "(built in: the web is often wrong, evasive or rude)", "a significant step",
              0.5 - win["GPT prompted"]),
        claim("§4.1", f"PPO is preferred to SFT: win rate minus .5 {habit}", "a significant step",
              win["PPO"] - 0.5),
        claim("§4.1", f"PPO-ptx is preferred to SFT: win rate minus .5 {habit}", "as PPO",
              win["PPO-ptx"] - 0.5),
        claim("§4.1", "PPO-ptx wins more against SFT than PPO does (our question)",
              "no large changes", win["PPO-ptx"] - win["PPO"]),
        claim("§4.2", "PPO loses on what pretraining taught: its pretraining loss minus GPT's, "
              "nats per token", "on public NLP tasks (Table 14)", lost, WINDOWS),
        claim("§4.2", "PPO-ptx wins back more than half of this: share minus .5 (built in: it "
              "trains on this loss)", "on public NLP tasks (Table 14)", won_back - 0.5, WINDOWS),
        claim("§1, Fig. 4", "PPO-ptx invents less than GPT: share of answers that state something "
              "false about a person (built in: a forum with guesses)",
              "0.20 (0.41 to 0.21; of closed-domain prompts, not in the input)",
              invented["GPT"] - invented["PPO-ptx"]),
        claim("Fig. 4", "PPO-ptx invents more than SFT, the same share", "more (chart)",
              invented["PPO-ptx"] - invented["SFT"])]


def draw(path: Path, rows: list[dict], logs: Path):
    """The mean win rates, and score, KL and pretraining loss along PPO in one run."""
    wins = {row["model"]: row["win"] for row in rows}
    panels = [{"title": "win rate against SFT, mean of the seeds", "bars": {None: wins}}]
    for key, title in (("score", "score by the reward model"),
                       ("kl", "KL to SFT, nats per answer"),
                       ("pretrain_loss", "held-out pretraining loss")):
        lines = []
        for stage, label in (("ppo", "PPO"), ("ppo_ptx", "PPO-ptx")):
            log = logged(logs / f"{stage}.jsonl", key)
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
