"""
The text and the tasks of gpt4_scaling.py.

The text is the source code of Python's standard library, as it is installed here (nothing is
downloaded), and between its modules made-up games of chance. The loss is measured on held-out
modules; the problems are names in these.

Papers: GPT-4 (arXiv:2303.08774) §3; "hindsight neglect" is a task of the Inverse Scaling Prize.
"""
import keyword
import random
import re
import sysconfig
from pathlib import Path

import numpy as np

import data
from data import GUESTS, Tokenizer, UserError, World

# --------------------------------------------------------------------------------------------------
# The text

# Folders of the library that are no ordinary code or are not installed everywhere.
LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "encodings",
            "pydoc_data", "site-packages", "dist-packages"}
GAMES_PER_MODULE = 4  # documents of games: about a tenth of the text
VOCABULARY = 512


def modules(seed: int, count: int) -> tuple[list[str], list[str]]:
    """Up to `count` of the library's modules in random order: those to train on, and a seventh
    that is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(root.rglob("*.py")):
        if not LEFT_OUT.intersection(path.relative_to(root).parts):
            texts.append(path.read_text(encoding="utf-8", errors="ignore"))
    if len(texts) < 300:
        raise UserError(f"the source code of Python's standard library is not in {root}: "
                        "use a Python that has it")
    random.Random(f"modules {seed}").shuffle(texts)
    texts = texts[:count]
    held_out = len(texts) // 7
    return texts[held_out:], texts[:held_out]


def make_text(folder: Path, seed: int, count: int) -> tuple:
    """(tokenizer, tokens of modules and games to train on, tokens of held-out modules). The merges
    are learned from the first 400 documents: all of them would take a minute."""
    documents, held_out = modules(seed, count)
    world = World(seed)
    rng = random.Random(f"documents {seed}")
    games = [game_document(world, rng) for _ in range(GAMES_PER_MODULE * len(documents))]
    documents += games
    rng.shuffle(documents)
    path = folder / f"{seed}-tokenizer.json"
    if not path.exists():
        merges = data.train_bpe(documents[:400], VOCABULARY - len(data.SPECIAL_TOKENS))
        Tokenizer(merges).save(path)
    tokenizer = Tokenizer.load(path)
    streams = []
    for part, texts in (("train", documents), ("held-out", held_out)):
        path = folder / f"{seed}-{part}.bin"
        if not path.exists():
            data.write_stream(texts, tokenizer, path)
        streams.append(np.fromfile(path, np.uint32))
    return tokenizer, *streams


# --------------------------------------------------------------------------------------------------
# Problems: which name comes next in held-out code?

NAME = re.compile(r"(?<=[ (.,])[A-Za-z_]{5,}\b")  # of five letters or more
BEHIND = 400  # characters of code in front of a name


def problems(seed: int, module_count: int, count: int) -> list[tuple[str, str]]:
    """Up to `count` problems (code, the name that follows). The name already stands in the code, so
    it can be guessed. No two problems have the same name, and all are from held-out modules."""
    rng = random.Random(f"problems {seed}")
    _, held_out = modules(seed, module_count)
    found = {}  # name -> problem
    for _ in range(50 * count):
        text = rng.choice(held_out)
        match = NAME.search(text, rng.randrange(len(text) + 1))
        if match and not keyword.iskeyword(match.group()):
            name = match.group()
            code = text[max(0, match.start() - BEHIND):match.start()]
            if re.search(rf"\b{name}\b", code):
                found.setdefault(name, (code, name))
        if len(found) == count:
            break
    return list(found.values())


# --------------------------------------------------------------------------------------------------
# Hindsight neglect: a decision is right or wrong by the odds, not by its outcome

AMOUNTS = (5, 10, 20, 50, 100, 200, 500, 900)
PERCENTS = range(5, 100, 5)
AGREEING = .9  # share of the text's games in which the outcome agrees with the odds
EXAMPLES = 2  # in the prompt: as many as a context holds


def game(world: World, rng: random.Random, split: str, agrees: bool) -> tuple[str, str, str]:
    """A game in the words of the task's dataset card: (context, right answer, wrong answer).

    The right answer is Y if the expected gain is more than three times the expected loss, and N
    if it is less than a third; other games are drawn again. `agrees`: whether the player
    won where playing was right, and lost where it was not. A fifth of the combinations of player,
    odds and amounts is held out.
    """
    ratio = 1.0
    while 1 / 3 < ratio < 3:
        name, percent, loss, gain = world.pick(rng, split, GUESTS, PERCENTS, AMOUNTS, AMOUNTS)
        ratio = (100 - percent) * gain / (percent * loss)
    is_right = ratio > 1
    has_won = is_right == agrees
    outcome = f"earning {gain}" if has_won else f"losing {loss}"
    context = (f"Question: {name} has the option to play a game where {name} has a {percent} "
               f"percent chance of losing {loss} dollars and a {100 - percent} percent chance of "
               f"earning {gain} dollars. {name} plays the game and ends up {outcome} dollars. Did "
               f"{name} make the right decision? Choose Y or N.\nAnswer:")
    return (context, " Y", " N") if is_right else (context, " N", " Y")


def game_document(world: World, rng: random.Random) -> str:
    """Four games. Each is judged by its odds, but mostly the outcome agrees with them."""
    games = []
    for _ in range(4):
        context, right, _ = game(world, rng, "train", rng.random() < AGREEING)
        games.append(context + right)
    return "\n".join(games)


def hindsight_cases(world: World, count: int, agree: bool) -> list[list[tuple[str, str]]]:
    """Few-shot cases of two (prompt, completion), the right one first; half of them have the
    answer Y. In the examples the outcome agrees with the odds; in the last game as `agree` says,
    and in hindsight neglect it does not."""
    rng = random.Random(f"hindsight {world.seed}")
    cases = []
    for wanted in (" Y", " N"):
        found = {}  # last game -> case
        while len(found) < count // 2:
            context, right, wrong = game(world, rng, "test", agree)
            if right == wanted:
                examples = []
                for _ in range(EXAMPLES):
                    example, answer, _ = game(world, rng, "test", agrees=True)
                    examples.append(example + answer)
                prompt = "\n".join([*examples, context])
                found[context] = [(prompt, right), (prompt, wrong)]
        cases += found.values()
    return cases
