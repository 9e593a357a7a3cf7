"""
A finished `python rlhf.py`, from which several scripts start: instructgpt.py, overoptimization.py,
gpt4_alignment.py, chat.py, label.py and inside.py.
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
from gpt import (GPT, PRESETS, GPTConfig, RunLog, load_checkpoint, load_model, pick_device,
                 save_checkpoint)
from rlhf import RewardModel, WorldTask

# The models of a run and their files.
CHATS = {"SFT": "sft", "PPO": "ppo", "PPO-ptx": "ppo_ptx"}

# The base of a smoke run.
FAST = {"pretrain_steps": 5, "sft_epochs": 1, "comparison_prompts": 24, "iterations": 1,
        "test_prompts": 16}
FAST_SHAPE = GPTConfig(1152, 128, n_layer=1, n_head=2, n_embd=16)


@dataclass
class Run:
    """A finished `python rlhf.py`: its options, its task and the models in its folder."""
    options: rlhf.Options
    folder: Path
    results: Path                    # the folder of the script that tests it
    task: WorldTask
    tokenizer: Tokenizer
    base: GPT                        # pretrained only
    chats: dict[str, GPT]
    reward_model: RewardModel

    @property
    def sft(self) -> GPT:
        return self.chats["SFT"]

    def speaker(self, model: GPT, temperature: float = 1.0) -> rlhf.Speaker:
        return rlhf.chat_speaker(model, self.tokenizer, self.options.max_response, temperature)

    def ladder(self, temperature: float = 1.0) -> dict[str, rlhf.Speaker]:
        """GPT, GPT prompted, SFT, PPO and PPO-ptx."""
        speakers = {}
        for name, shots in (("GPT", []), ("GPT prompted", self.task.shots)):
            speakers[name] = rlhf.forum_speaker(self.base, self.tokenizer, shots,
                                                self.options.max_response, temperature)
        for name, model in self.chats.items():
            speakers[name] = self.speaker(model, temperature)
        return speakers

    def stream(self, split: str) -> np.ndarray:
        path = self.folder / "tokens.bin"
        train, val = data.open_stream(path, self.tokenizer.vocab_size)
        return train if split == "train" else val

    def pretraining(self, sequences: int) -> Batches:
        """Batches of the pretraining text, `sequences` windows each, as PPO-ptx draws them."""
        block_size = self.base.config.block_size
        return Batches(self.stream("train"), sequences, block_size, 5000 + self.options.seed)

    def score(self, model: GPT, reward_model=None, seed: int = 2):
        """One answer to each held-out prompt: (Rollout with scores and KL, texts, gold
        scores)."""
        config = rlhf.PPOConfig(max_response=self.options.max_response)
        prompts = [prompt.messages for prompt in self.task.test]
        generator = torch.Generator(model.device).manual_seed(seed)
        rollout = rlhf.roll_out(model, self.sft, reward_model or self.reward_model,
                                self.tokenizer, prompts, config, generator)
        answers = rollout.answers(self.tokenizer)
        return rollout, answers, np.array(self.task.gold(answers))


class NearGPT:
    """A reward model's score minus beta log(pi / pi_GPT) of the whole answer. With kl_coef 0
    PPO then has the pretrained model as its KL reference, as in Fig. 34; the penalty is paid
    at the last token, and the value network starts as the policy."""

    def __init__(self, run: Run, policy, beta: float):
        self.score, self.policy, self.beta = run.reward_model, policy, beta
        self.gpt = copy.deepcopy(run.base)
        rlhf.warm_start(self.gpt, run.tokenizer)  # it has never seen the control tokens

    def __call__(self, ids, mask):
        logprobs = rlhf.response_logprobs(self.policy, ids, mask)  # (B, T-1)
        log_ratio = logprobs - rlhf.response_logprobs(self.gpt, ids, mask)
        return self.score(ids, mask) - self.beta * log_ratio.sum(dim=1)  # (B,)


def trained(path: Path, model, tokenizer, train: Callable):
    """One stage of a script: the model from `path` if the file is there; else train(log) it."""
    if not rlhf.load_stage(path, model):
        train(RunLog(path.with_suffix(".jsonl")))
        save_checkpoint(path, model, tokenizer, chat=True)
    return model


def options_of(name: str) -> tuple[rlhf.Options, GPTConfig]:
    """What runs/NAME was made with, and its model's shape; the defaults if there is no
    such run."""
    path = Path("runs") / name / "settings.json"
    if not path.exists():
        return rlhf.Options(name=name), PRESETS["laptop"]
    with reading(path, "the settings of a run of `python rlhf.py`"):
        settings = json.loads(path.read_text())
        shape = {field.name: settings[field.name] for field in dataclasses.fields(GPTConfig)}
        options = {field.name: settings[field.name] for field in dataclasses.fields(rlhf.Options)
                   if field.name in settings}
        return rlhf.Options(**{**options, "name": name}), GPTConfig(**shape)


def base_of(options) -> tuple[rlhf.Options, GPTConfig]:
    """The run that a script starts from, by its options `base`, `name` and `fast`."""
    if options.fast:
        return rlhf.Options(name=f"{options.base}-fast", **FAST), FAST_SHAPE
    if options.name == options.base:
        raise UserError("--name and --base are the same: "
                        "the base keeps its folder to itself")
    base, shape = options_of(options.base)
    if base.demonstrations or base.comparisons or base.reward or base.init:
        raise UserError(f"runs/{base.name} is a run on your own data or model: "
                        "no rubric knows its gold score")
    return base, shape


def show_hacked(task, answered: dict[str, tuple[rlhf.Rollout, list]], count: int = 4):
    """Prompts where PPO gained most in score relative to the gold score, with both answers."""
    golds, scores = {}, {}
    for name, (rollout, texts) in answered.items():
        golds[name], scores[name] = np.array(task.gold(texts)), rollout.scores.cpu().numpy()
        print(f"  {name:4s} score {scores[name].mean():6.2f}   "
              f"gold score {golds[name].mean():6.2f}   KL {rollout.kl.mean():6.2f}")
    print("the answers that gained most in score beyond what they gained in gold score:")
    gain = (scores["PPO"] - scores["SFT"]) - (golds["PPO"] - golds["SFT"])
    for i in np.argsort(-gain)[:count]:
        print(f"  {task.test[i].prompt}")
        for name, (_, texts) in answered.items():
            print(f"    {name:4s} score {scores[name][i]:6.2f}   "
                  f"gold score {golds[name][i]:5.1f}   {texts[i][0]}")


def load_reward_model(path: Path) -> RewardModel:
    """A reward model of a finished run."""
    content = load_checkpoint(path)
    with reading(path, "a checkpoint of a reward model"):
        model = RewardModel(GPT(content["config"]))
        model.load_state_dict(content["model"])
    return model.to(pick_device()).eval()


def load_run(options: rlhf.Options, shape: GPTConfig, results: Path) -> Run:
    """The models in runs/NAME; `python rlhf.py` trains those that are missing."""
    folder = Path("runs") / options.name
    if not (folder / "ppo_ptx.pt").exists():
        rlhf.instructgpt(options, shape)
    base, tokenizer = load_model(folder / "pretrain.pt")
    chats = {}
    for name, file in CHATS.items():
        chats[name], _ = load_model(folder / f"{file}.pt")
    reward_model = load_reward_model(folder / "reward.pt")
    task = WorldTask(options.seed, options.test_prompts)
    return Run(options, folder, results, task, tokenizer, base, chats, reward_model)
