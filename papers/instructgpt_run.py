"""
A finished `python rlhf.py`, which papers/instructgpt.py and papers/overoptimization.py start from.
"""
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
import rlhf
from data import Batches, Tokenizer, UserError
from gpt import GPT, PRESETS, GPTConfig, load_model
from rlhf import RewardModel, WorldTask

# The models of a run and their files.
CHATS = {"SFT": "sft", "PPO round one": "ppo1", "PPO": "ppo", "PPO-ptx": "ppo_ptx"}

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
    reward_model: RewardModel        # of round two

    @property
    def sft(self) -> GPT:
        return self.chats["SFT"]

    def speaker(self, model: GPT) -> rlhf.Speaker:
        return rlhf.chat_speaker(model, self.tokenizer, self.options.max_response)

    def stream(self, split: str) -> np.ndarray:
        return data.open_stream(self.folder / f"{split}.bin")

    def pretraining(self, sequences: int) -> Batches:
        """Batches of the pretraining text, `sequences` windows each."""
        block_size = self.base.config.block_size
        return Batches(self.stream("train"), sequences, block_size, self.options.seed)

    def score(self, model: GPT, reward_model=None, seed: int = 2):
        """One answer to each held-out prompt: (Rollout with scores and KL, texts, gold scores)."""
        config = rlhf.PPOConfig(max_response=self.options.max_response)
        rollout, answers = rlhf.answer_test(model, self.sft, reward_model or self.reward_model,
                                            self.tokenizer, self.task, config, seed)
        return rollout, answers, np.array(self.task.gold(answers))


def options_of(name: str, fast: bool) -> tuple[rlhf.Options, GPTConfig]:
    """What runs/NAME was made with, the defaults if there is none; of a tiny run if `fast`."""
    if fast:
        return rlhf.Options(name=f"{name}-fast", **FAST), FAST_SHAPE
    path = Path("runs") / name / "settings.json"
    if not path.exists():
        return rlhf.Options(name=name), PRESETS["laptop"]
    settings = json.loads(path.read_text())
    shape = {}
    for field in dataclasses.fields(GPTConfig):
        shape[field.name] = settings.pop(field.name)
    options = rlhf.Options(name=name, **settings)
    if options.demonstrations or options.comparisons or options.reward or options.init:
        raise UserError(f"runs/{name} is a run on your own data or model, which no rubric can judge")
    return options, GPTConfig(**shape)


def load_run(options: rlhf.Options, shape: GPTConfig, results: Path) -> Run:
    """The models in runs/NAME; `python rlhf.py` trains those that are missing."""
    folder = Path("runs") / options.name
    if not (folder / "ppo_ptx.pt").exists():
        rlhf.instructgpt(options, shape)
    base, tokenizer = load_model(folder / "pretrain.pt")
    chats = {}
    for name, file in CHATS.items():
        chats[name], _ = load_model(folder / f"{file}.pt")
    reward_model = rlhf.load_reward_model(folder / "reward2.pt")
    task = WorldTask(options.seed, options.test_prompts)
    return Run(options, folder, results, task, tokenizer, base, chats, reward_model)
