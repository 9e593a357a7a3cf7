"""
A look inside a finished `python rlhf.py`: which tokens of a demonstration have a loss, and an
answer token by token with what PPO computes for each token. Nothing is written.

    python -m papers.inside             on runs/instructgpt (made if it is missing)
    python -m papers.inside --prompt 7  another of the held-out prompts

The policy is the finished PPO model, the average of the weights along its training. The values come
from the network that PPO's value network starts as: the reward model. """
from dataclasses import dataclass

import torch

from data import command_line, option, show_mask
from gpt import print_table
from papers.instructgpt_run import base_of, load_run
from rlhf import PPOConfig, Rollout, roll_out


@dataclass
class Options:
    base: str = option("instructgpt", "the run to look into")
    prompt: int = option(0, "the number of a held-out prompt")
    fast: bool = option(False, "a smoke run, on a base of its own")


def show_rollout(rollout: Rollout, tokenizer):
    """Print the first answer of a rollout, a row for each token."""
    columns = {"log pi": rollout.logprobs, "log pi_SFT": rollout.ref_logprobs,
               "reward": rollout.rewards, "value": rollout.values,
               "advantage": rollout.advantages, "return": rollout.returns}
    rows = []
    for t in rollout.mask[0].nonzero().squeeze(1).tolist():
        row = {"token": repr(tokenizer.decode([rollout.ids[0, t + 1]]))}
        for name, x in columns.items():
            row[name] = x[0, t].item()
        rows.append(row)
    print_table(rows)


def inside(options: Options = Options()):
    """Show the loss mask of a demonstration, and an answer by PPO token by token."""
    base, shape = base_of(options)
    run = load_run(base, shape)
    prompt = run.task.test[options.prompt % len(run.task.test)]
    print("\nthe tokens of a demonstration that have a loss, in brackets:")
    print(show_mask(run.tokenizer, run.task.demonstrations[0]))
    conversation = " / ".join(message["content"] for message in prompt.messages)
    print(f"\nan answer as PPO sees it: {conversation}")
    generator = torch.Generator(run.sft.device).manual_seed(0)
    rollout = roll_out(run.chats["PPO"], run.sft, run.reward_model, run.tokenizer,
                       [prompt.messages], PPOConfig(max_response=base.max_response), generator,
                       run.reward_model)
    show_rollout(rollout, run.tokenizer)


if __name__ == "__main__":
    command_line({"inside": inside}, default="inside")
