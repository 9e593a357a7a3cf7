"""
A finished `python rlhf.py`, from which several scripts start.
"""
import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import data
import rlhf
from data import Batches, Tokenizer, UserError, reading
from gpt import (GPT, PRESETS, GPTConfig, RunLog, load_checkpoint, load_model, save_checkpoint,
                 to_tensors)
from papers.models import SIZES
from rlhf import RewardModel, WorldTask

# The models of a run that answer in the chat format: name in the tables -> name of the file.
CHATS = {"SFT": "sft", "PPO": "ppo", "PPO-ptx": "ppo_ptx"}

# The base of a smoke run.
FAST = {"pretrain_steps": 5, "sft_epochs": 1, "comparison_prompts": 24, "iterations": 1,
        "test_prompts": 16}
FAST_SHAPE = SIZES["24k"]


@dataclass
class Run:
    """A finished `python rlhf.py`: its options, its task and the models in its folder."""
    options: rlhf.Options
    folder: Path
    results: Path | None             # the folder of the script that tests it, if it has one
    task: WorldTask
    tokenizer: Tokenizer
    base: GPT                        # pretrained only
    chats: dict[str, GPT]            # SFT, PPO and PPO-ptx, see CHATS
    reward_model: RewardModel

    @property
    def sft(self) -> GPT:
        return self.chats["SFT"]

    def speaker(self, model: GPT, temperature: float = 1.0) -> rlhf.Speaker:
        return rlhf.chat_speaker(model, self.tokenizer, self.options.max_response, temperature)

    def ladder(self, temperature: float = 1.0) -> dict[str, rlhf.Speaker]:
        """The speakers that `python rlhf.py` compares: GPT, GPT prompted, SFT, PPO, PPO-ptx."""
        speakers = {}
        for name, shots in (("GPT", []), ("GPT prompted", self.task.shots)):
            speakers[name] = rlhf.forum_speaker(self.base, self.tokenizer, shots,
                                                self.options.max_response, temperature)
        for name, model in self.chats.items():
            speakers[name] = self.speaker(model, temperature)
        return speakers

    def streams(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of the pretraining text: (for training, for validation)."""
        return data.open_stream(self.folder / "tokens.bin", self.tokenizer.vocab_size)

    def pretraining(self, sequences: int) -> Batches:
        """Batches of the pretraining text, `sequences` windows each, as PPO-ptx draws them (also
        where a script trains SFT)."""
        train_stream, _ = self.streams()
        block_size = self.base.config.block_size
        return Batches(train_stream, sequences, block_size, 5000 + self.options.seed)

    @torch.no_grad()
    def answer_logprobs(self, model: GPT, conversations: list[list[dict]]) -> torch.Tensor:
        """A model's log-probability of all answers in each conversation, with the <|end|> behind
        each, in nats: (conversations,)."""
        limit = model.config.block_size
        rendered = [data.render_within(self.tokenizer, messages, limit)
                    for messages in conversations]
        rows, masks = zip(*rendered)
        ids, _ = to_tensors(rows, self.tokenizer.pad, model.device)  # (B, T)
        mask, _ = to_tensors(masks, 0, model.device)  # (B, T)
        return rlhf.response_logprobs(model, ids, mask[:, 1:].float()).sum(dim=1)

    def score(self, model: GPT, reward_model=None, seed: int = 2):
        """One answer to each held-out prompt, at temperature 1: (Rollout with scores and KL,
        [(text, whether it ended)], gold scores)."""
        config = rlhf.PPOConfig(max_response=self.options.max_response)
        prompts = [prompt.messages for prompt in self.task.test]
        generator = torch.Generator(model.device).manual_seed(seed)
        rollout = rlhf.roll_out(model, self.sft, reward_model or self.reward_model,
                                self.tokenizer, prompts, config, generator)
        answers = rollout.answers(self.tokenizer)
        return rollout, answers, np.array(self.task.gold(answers))


class NearGPT:
    """A reward: the reward model's score minus beta log(pi / pi_GPT) of the whole answer. With it
    and kl_coef 0, the KL reference of PPO is the pretrained model instead of the SFT model, as in
    Fig. 34. The penalty is part of the last token's reward, and PPO's unfinished_cap applies to
    the sum. Since this is no RewardModel, the value network starts as a copy of the policy."""

    def __init__(self, run: Run, policy, beta: float):
        self.reward_model, self.policy, self.beta = run.reward_model, policy, beta
        self.reference = copy.deepcopy(run.base)
        rlhf.init_control_tokens(self.reference, run.tokenizer)  # it has never seen them

    def __call__(self, ids, mask):
        logprobs = rlhf.response_logprobs(self.policy, ids, mask)  # (B, T-1)
        log_ratio = logprobs - rlhf.response_logprobs(self.reference, ids, mask)
        return self.reward_model(ids, mask) - self.beta * log_ratio.sum(dim=1)  # (B,)


def trained(path: Path, model, tokenizer, train: Callable):
    """A model that a script trains: loaded from `path` if the file is there; else train(log) is
    called, which trains `model` in place, and the file is written."""
    if not rlhf.load_stage(path, model):
        train(RunLog(path.with_suffix(".jsonl")))
        save_checkpoint(path, model, tokenizer, chat=True)
    return model


def options_of(name: str) -> tuple[rlhf.Options, GPTConfig]:
    """What runs/NAME was made with (but test_prompts, which is not recorded: the default), and its
    model's shape. Of the default run, runs/instructgpt, the defaults if it is missing."""
    path = Path("runs") / name / "settings.json"
    if not path.exists():
        if name != "instructgpt":  # made now, it would be a second run of seed 0
            raise UserError(f"runs/{name} is missing: python rlhf.py --name {name} --seed N")
        return rlhf.Options(name=name), PRESETS["laptop"]
    with reading(path, "the settings of a run of `python rlhf.py`"):
        settings = json.loads(path.read_text())
        shape = {field.name: settings[field.name] for field in dataclasses.fields(GPTConfig)}
        options = {field.name: settings[field.name] for field in dataclasses.fields(rlhf.Options)
                   if field.name in settings}
        return rlhf.Options(**options, name=name), GPTConfig(**shape)


def base_of(options) -> tuple[rlhf.Options, GPTConfig]:
    """The run that a script starts from, by the script's options `base`, `fast` and, if it writes
    into a folder, `name`."""
    if options.fast:
        return rlhf.Options(name=f"{options.base}-fast", **FAST), FAST_SHAPE
    if getattr(options, "name", None) == options.base:
        raise UserError("--name and --base are the same: the results need another folder")
    base, shape = options_of(options.base)
    if base.demonstrations or base.comparisons or base.reward or base.init:
        raise UserError(f"runs/{base.name} is a run on your own data or model: "
                        "no rubric knows its gold score")
    return base, shape


def runs_of(options) -> list[Run]:
    """The runs that a script's option `base` names, with commas between them; each must have its
    own seed."""
    runs = []
    for name in options.base.split(","):
        runs.append(load_run(*base_of(dataclasses.replace(options, base=name))))
    if len({run.options.seed for run in runs}) < len(runs):
        raise UserError(f"--base {options.base}: two of these runs have the same seed")
    return runs


def load_run(options: rlhf.Options, shape: GPTConfig, results: Path | None = None) -> Run:
    """The models in runs/NAME; if the run is not finished, `python rlhf.py` finishes it first."""
    folder = Path("runs") / options.name
    if not (folder / "table.json").exists():
        rlhf.instructgpt(options, shape)
    base, tokenizer = load_model(folder / "pretrain.pt")
    chats = {}
    for name, file in CHATS.items():
        chats[name], _ = load_model(folder / f"{file}.pt")
    reward_model = RewardModel(chats["SFT"]).eval()
    with reading(folder / "reward.pt", "a checkpoint of a reward model"):
        reward_model.load_state_dict(load_checkpoint(folder / "reward.pt")["model"])
    task = WorldTask(options.seed, options.test_prompts)
    return Run(options, folder, results, task, tokenizer, base, chats, reward_model)
