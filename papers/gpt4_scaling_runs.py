"""
The training runs of gpt4_scaling.py, on code and on a made-up language.

Papers: GPT-4 (arXiv:2303.08774) §3; Kaplan et al. (arXiv:2001.08361).
"""
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import gpt
from data import World
from gpt import GPT, GPTConfig, completion_logprobs
from papers.figures import column
from papers.gpt4_scaling_language import make_language
from papers.gpt4_scaling_tasks import hindsight_cases, make_text, problems
from papers.models import choice_accuracy

# width -> tokens of a small run: about a fixed multiple of its parameters.
CODE_LADDER = {16: 90_000, 20: 140_000, 24: 190_000, 28: 256_000}
LANGUAGE_LADDER = {16: 53_000, 20: 82_000, 24: 116_000, 32: 204_000, 40: 317_000}
FAST_LADDER = {8: 2000, 12: 4000}
# of the language's training text, by Options.scale in gpt4_scaling.py
LANGUAGE_TOKENS = {"default": 4_500_000, "full": 16_000_000, "fast": 100_000}
# One more run of each size on code reads only this share of its tokens: on the ladder N and D grow
# together, and L(N, D) needs runs in which they do not.
FEWER = 1 / 3
BUCKETS = 6
HARDEST = 15   # problems that are in no bucket, as in the paper


@dataclass
class Setting:
    """What all runs on one text have in common. Muon's learning rate is the default, .02."""
    block_size: int
    n_layer: int
    lr: float                                  # AdamW's rate is lr / width
    tokens_per_step: Callable[[float], float]  # by the tokens of the run, see Kaplan §5.1


CODE = Setting(256, 2, .4, lambda tokens: 512 if tokens < 1e6 else 1024)
# At widths 32 and 96 half or twice this rate or batch lowers the loss by less than .1 %, if at all.
LANGUAGE = Setting(16, 1, .6, lambda tokens: tokens ** (2 / 3) / 13)


def train_run(setting: Setting, text: tuple, path: Path, width: int, seed: int,
              tokens: float = 0, compute: float = 0):
    """Train a model on so many tokens, or with so much compute 6 N D, or load it: (model, what is
    known of the run). text: (tokenizer, training tokens, validation tokens)."""
    tokenizer, _, validation = text
    torch.manual_seed(seed)
    model = GPT(GPTConfig(tokenizer.vocab_size, setting.block_size, n_layer=setting.n_layer,
                          n_head=2, n_embd=width)).to(gpt.pick_device())
    N = model.num_params() - model.wte.weight.numel() - model.wpe.weight.numel()
    tokens = tokens or compute / (6 * N)
    batch_size = max(1, round(setting.tokens_per_step(tokens) / setting.block_size))
    per_step = batch_size * setting.block_size
    steps = math.ceil(tokens / per_step)
    D = steps * per_step
    config = gpt.TrainConfig(steps=steps, batch_size=batch_size, lr=setting.lr / width, seed=seed,
                             eval_every=500)
    gpt.train(model, *text, config, path, gpt.RunLog(path.with_suffix(".jsonl")))
    loss = gpt.evaluate(model, tokenizer, validation, max_tokens=200_000)["loss"]
    return model, {"width": width, "N": N, "D": D, "compute": 6.0 * N * D, "loss": loss}


@dataclass
class Study:
    """All that belongs to one seed. A run is a dict of what was measured."""
    folder: Path
    seed: int
    code: tuple      # tokenizer, training tokens, validation tokens
    language: tuple  # the same; its tokenizer only counts bytes
    entropy: float   # the language's, nats per token
    problems: list
    games: dict      # "agree", "disagree" -> cases
    code_ladder: list[dict] = dataclasses.field(default_factory=list)  # small runs
    code_fewer: list[dict] = dataclasses.field(default_factory=list)   # those of fewer tokens
    language_ladder: list[dict] = dataclasses.field(default_factory=list)
    buckets: list[np.ndarray] = dataclasses.field(default_factory=list)  # indices of problems

    def path(self, name: str) -> Path:
        return self.folder / f"{self.seed}-{name}.pt"

    def seed_of(self, width: int, number: int) -> int:
        """The seed of a run's initial weights and windows."""
        return 1_000_000 * self.seed + 1000 * width + number

    def run_language(self, width: int, name: str, number: int, **size) -> dict:
        """Train a model on the made-up language."""
        _, found = train_run(LANGUAGE, self.language, self.path(f"language-{name}"), width,
                             self.seed_of(width, number), **size)
        return found

    def run_code(self, width: int, name: str, number: int, **size) -> dict:
        """Train a model on code; measure the problems and the games, too."""
        tokenizer = self.code[0]
        model, found = train_run(CODE, self.code, self.path(f"code-{name}"), width,
                                 self.seed_of(width, number), **size)
        nats = [-total for total, _ in completion_logprobs(model, tokenizer, self.problems)]
        found["nats"] = np.array(nats)  # -log(pass rate), (problems,)
        for kind, cases in self.games.items():
            found[kind] = choice_accuracy(model, tokenizer, [(case, 0) for case in cases])
        return found


def small_runs(options, folder: Path, seed: int) -> Study:
    """The texts of one seed, its small runs, and the problems in buckets by their pass rates."""
    games = {}
    for kind in ("agree", "disagree"):
        games[kind] = hindsight_cases(World(seed), options.cases // 3, kind == "agree")
    code = make_text(folder, seed, options.modules)
    train, validation, entropy = make_language(folder, seed, LANGUAGE_TOKENS[options.scale])
    study = Study(folder, seed, code, (code[0], train, validation), entropy,
                  problems(seed, options.modules, options.cases), games)
    for width, tokens in (FAST_LADDER if options.fast else CODE_LADDER).items():
        for number in range(options.runs):
            run = study.run_code(width, f"{width}-{number}", number, tokens=tokens)
            study.code_ladder.append(run)
        run = study.run_code(width, f"{width}-fewer", 0, tokens=FEWER * tokens)
        study.code_fewer.append(run)
    for width, tokens in (FAST_LADDER if options.fast else LANGUAGE_LADDER).items():
        for number in range(2 * options.runs):
            run = study.run_language(width, f"{width}-{number}", number, tokens=tokens)
            study.language_ladder.append(run)

    easiest_first = np.argsort(column(study.code_ladder, "nats").mean(axis=0))
    hardest = min(HARDEST, len(easiest_first) // 4)
    study.buckets = np.array_split(easiest_first[:-hardest], BUCKETS)
    return study
