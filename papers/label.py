"""
Rank answers yourself, as comparisons for a reward model to train on.

InstructGPT's labelers rank K = 4 to 9 answers to a prompt at once [§3.5]. This script shows a
prompt and up to K answers by a run's SFT model, those that end and differ. You type a ranking:
`3 1=4 2` says that answer 3 is best, 1 and 4 are equal, 2 is last. It is appended to a file of
comparisons. At the end the command that trains on this file is printed.

    python -m papers.label                          answers by runs/instructgpt
    python -m papers.label --prompts FILE           your own prompts, one per line
    python rlhf.py --comparisons comparisons.jsonl  trains on your rankings

Prompts that are in the file already are not shown again.
Paper: InstructGPT (arXiv:2203.02155).
"""
import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from data import UserError, World, command_line, instructions, load_comparisons, load_text, option
from gpt import load_model
from papers.instructgpt_run import options_of
from rlhf import chat_speaker, check_room


@dataclass
class Options:
    base: str = option("instructgpt", "the run whose SFT model answers")
    model: str | None = option(None, "a checkpoint file instead (default: runs/BASE/sft.pt)")
    prompts: str | None = option(None, "your own prompts, one per line (default: the world's)")
    output: str = option("comparisons.jsonl", "your rankings are appended to this file")
    answers: int = option(4, "K, answers to each prompt; paper: 4 to 9", at_least=2)
    max_response: int = option(32, "tokens of an answer at the most", at_least=1)
    seed: int = option(0, "of the answers")


def parse_ranking(line: str, count: int) -> list[int] | None:
    """"3 1=4 2" -> the ranks of answers 1 to 4, [1, 2, 0, 1]. None unless the line names each of
    them once."""
    rank_of = {}
    for rank, group in enumerate(re.sub(r"\s*=\s*", "=", line).split()):
        for answer in group.split("="):
            if answer in rank_of:
                return None
            rank_of[answer] = rank
    answers = [str(number) for number in range(1, count + 1)]
    if set(rank_of) != set(answers):
        return None
    return [rank_of[answer] for answer in answers]


def read_ranking(count: int) -> list[int] | None:
    """Ask until the line is a ranking of `count` answers, and return the ranks; [] if the prompt
    is to be skipped, None if the user leaves."""
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
    lines = "\n".join(load_text(path)).splitlines()
    return [[{"role": "user", "content": line.strip()}] for line in lines if line.strip()]


def labeled_prompts(path: Path) -> list[list[dict]]:
    """The prompts in a file of comparisons, if it exists. UserError if no line can be added."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of --output {path} does not exist")
    if not path.exists() or not path.stat().st_size:
        return []
    comparisons = load_comparisons(path)
    if path.read_bytes().lstrip()[:1] == b"[":
        raise UserError(f"{path} is a JSON list, to which no line can be added: choose another "
                        "--output")
    return [comparison.messages for comparison in comparisons]


def training_command(options: Options, checkpoint: str, block_size: int) -> str:
    """The command that trains on the rankings. --data is the text that the run was pretrained on;
    if this was the text of its own records, it is left out, and that of the rankings is read."""
    command = f"python rlhf.py --name labeled --init {checkpoint}"
    if not options.model:
        run, _ = options_of(options.base)
        if run.data:
            command += f" --data {run.data}"
        elif not run.demonstrations and not run.comparisons:
            command += " --data world"
        command += f" --seed {run.seed}"
    return (f"{command} --block-size {block_size} --max-response {options.max_response} "
            f"--comparisons {options.output}")


def label(options: Options = Options()):
    """Rank K answers to each prompt yourself, for a reward model to train on."""
    path = options.model or f"runs/{options.base}/sft.pt"
    model, tokenizer = load_model(path)
    if not model.knows_chat:
        raise UserError(f"{path} has never seen a conversation: it cannot answer")
    check_room(options.max_response, model.config.block_size)
    speak = chat_speaker(model, tokenizer, options.max_response)

    if options.prompts:
        conversations = read_prompts(options.prompts)
    else:
        run, _ = options_of(options.base)
        drawn = instructions(World(run.seed), "train", 1000, seed=9)
        conversations = [instruction.messages for instruction in drawn]
    labeled = labeled_prompts(Path(options.output))

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
        if len(set(ranks)) > 1:  # a skipped prompt has none; if all are equal, nothing is learned
            record = {"prompt": messages, "responses": responses, "ranks": ranks}
            with open(options.output, "a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(record) + "\n")  # the last line may lack its end
    else:
        print(f"\nthere are no more prompts; {unfit} had fewer than two different answers that end")
    if Path(options.output).exists():
        command = training_command(options, path, model.config.block_size)
        print(f"\ntrain on your rankings: {command}")


if __name__ == "__main__":
    command_line({"label": label}, default="label")
