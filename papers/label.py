"""
Rank answers yourself. A reward model then trains on your comparisons.

InstructGPT's labelers rank K = 4 to 9 answers to a prompt at once [§3.4]. This shows a
prompt and up to K answers by a run's SFT model, those that end and differ; `3 1=4 2` says
that answer 3 is best, 1 and 4 are equal, 2 is last. Each ranking is appended to a file of
comparisons, and the command that trains on them is printed at the end.

    python -m papers.label                          answers by runs/instructgpt
    python -m papers.label --prompts FILE           your own prompts, one per line
    python rlhf.py --comparisons comparisons.jsonl  trains on your rankings

Prompts that the file has already are not asked again.
Paper: InstructGPT (arXiv:2203.02155).
"""
import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from data import (UserError, World, command_line, instructions, load_comparisons, load_text,
                  option)
from gpt import load_model
from papers.instructgpt_run import options_of
from rlhf import chat_speaker, check_room


@dataclass
class Options:
    name: str = option("instructgpt", "the run whose SFT model answers")
    model: str | None = option(None, "a checkpoint file instead (default: runs/NAME/sft.pt)")
    prompts: str | None = option(None, "your own prompts, one per line (default: the world's)")
    output: str = option("comparisons.jsonl", "your rankings are appended to this file")
    answers: int = option(4, "K, answers to each prompt; paper: 4 to 9", at_least=2)
    max_response: int = option(32, "tokens of an answer at the most", at_least=1)
    seed: int = option(0, "of the answers")


def parse_ranking(line: str, count: int) -> list[int] | None:
    """"3 1=4 2" -> the ranks of answers 1 to 4, [1, 2, 0, 1]. None unless it names each
    of them once."""
    groups = []
    for group in re.sub(r"\s*=\s*", "=", line).split():
        groups.append(group.split("="))

    rank_of = {}
    named = 0
    for rank, group in enumerate(groups):
        for answer in group:
            rank_of[answer] = rank
            named += 1
    answers = [str(number) for number in range(1, count + 1)]
    if named != count or set(rank_of) != set(answers):
        return None
    return [rank_of[answer] for answer in answers]


def read_ranking(count: int) -> list[int] | None:
    """Ask until the line is a ranking of `count` answers. [] skips the prompt, None ends
    the labeling."""
    while True:
        try:
            line = input("rank> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        if line == "q":
            return None
        if line == "":
            return []
        ranks = parse_ranking(line, count)
        if ranks is not None:
            return ranks
        print(f"name every answer from 1 to {count} once, as in: 2 1=3")


def read_prompts(path: str) -> list[list[dict]]:
    """A conversation of one question for every line that is not empty."""
    conversations = []
    for document in load_text(path):
        for line in document.splitlines():
            if line.strip():
                conversations.append([{"role": "user", "content": line.strip()}])
    return conversations


def append_comparison(path: str, messages: list[dict], responses: list, ranks: list):
    record = {"prompt": messages, "responses": responses, "ranks": ranks}
    with open(path, "a", encoding="utf-8") as file:  # the last line may lack its end
        file.write("\n" + json.dumps(record) + "\n")


def label(options: Options = Options()):
    """Rank K answers to each prompt yourself, for a reward model to train on."""
    path = options.model or f"runs/{options.name}/sft.pt"
    model, tokenizer = load_model(path)
    if not model.knows_chat:
        raise UserError(f"{path} has never seen a conversation: it cannot answer")
    check_room(options.max_response, model.config.block_size)
    speak = chat_speaker(model, tokenizer, options.max_response)

    run, _ = options_of(options.name)
    if options.prompts:
        conversations = read_prompts(options.prompts)
    else:
        drawn = instructions(World(run.seed), "train", 1000, seed=9)
        conversations = [instruction.messages for instruction in drawn]
    if not Path(options.output).absolute().parent.is_dir():
        raise UserError(f"the folder of --output {options.output} does not exist")
    labeled = []
    if Path(options.output).exists() and Path(options.output).stat().st_size:
        labeled = [comparison.messages for comparison in load_comparisons(options.output)]
        if Path(options.output).read_bytes().lstrip()[:1] == b"[":
            raise UserError(f"{options.output} is a JSON list, to which no line can be added: "
                            "choose another --output")

    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  lets the arrow keys edit what input() reads
    print("best first, = between equals: 3 1=4 2   Enter skips, q leaves", end="")
    unfit = 0
    for number, messages in enumerate(conversations):
        if messages in labeled:
            continue
        answers = speak([messages] * options.answers, options.seed + number)
        texts = [text for text, ended in answers if text and ended]  # whole answers
        responses = list(dict.fromkeys(texts))  # equal ones once
        if len(responses) < 2:
            unfit += 1
            continue

        print("\n\n" + " / ".join(message["content"] for message in messages))
        for place, response in enumerate(responses, start=1):
            print(f"  {place}  {response}")
        ranks = read_ranking(len(responses))
        if ranks is None:
            break
        if len(set(ranks)) > 1:  # one rank for all answers says nothing
            append_comparison(options.output, messages, responses, ranks)
    else:
        print(f"\nthere are no more prompts; {unfit} had fewer than two different answers that end")

    text = ""
    if not options.model:  # mix in its pretraining text again, if that is not of its own records
        is_own = run.demonstrations or run.comparisons
        source = run.data or ("" if is_own else "world")
        text = (f" --data {source}" if source else "") + f" --seed {run.seed}"
    text += f" --block-size {model.config.block_size} --max-response {options.max_response}"
    print("\ntrain on your rankings: python rlhf.py --name labeled "
          f"--init {path}{text} --comparisons {options.output}")


if __name__ == "__main__":
    command_line({"label": label}, default="label")
