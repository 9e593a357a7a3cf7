"""
FLAN's material: tasks in clusters, worded as instructions, and the text of the base model.

Every task shows three words and asks for one of them: "the animal of goat, Oslo and red". Similar
tasks form a cluster. The base reads each task in two forms, and never as an instruction:

    statements    "The animal of goat, Oslo and red is goat." These say what "animal" means
    lists         "goat, Oslo and red -> goat", solved cases of one task that is not named

So the base can learn to solve the tasks of every cluster, the held-out one included. Tuning on the
other clusters can only add that an instruction is to be answered. A fifth of all sets of three
words is held out for the test, for all tasks.

Paper: FLAN (Wei et al. 2021, arXiv:2109.01652) §2.
"""
import random
import zlib
from dataclasses import dataclass

from data import (HAPPY, MEN, PLACES, SAD, THINGS, TOPICS, WOMEN, Tokenizer, World,
                  join_list)
from gpt import GPT
from papers.models import choice_accuracy, continuations
from papers.tasks import distinct, foreign_words

SHOTS = 6  # solved examples in a prompt
NUMBERS = [str(number) for number in range(20)]

# Clusters whose tasks ask for the only word of some sort: cluster -> sort -> its words. The words
# of the cluster "language" depend on the world, see `sorts_of`.
SORTS = {
    "kinds": {
        "animal": TOPICS["pet"].values,
        "city": TOPICS["home"].values,
        "job": TOPICS["job"].values,
        "food": TOPICS["food"].values,
        "color": TOPICS["color"].values,
    },
    "parity": {"even number": NUMBERS[::2], "odd number": NUMBERS[1::2]},
    "people": {"woman": WOMEN, "man": MEN},
    "mood": {"happy word": HAPPY, "sad word": SAD},
    "objects": {"thing": THINGS, "place": PLACES},
}
NEGATED = ("kinds", "people", "mood", "objects")  # "the one that is no animal"
SIZES_ASKED = {"largest number": max, "smallest number": min}
CLUSTERS = ("kinds", "size", "people", "negation", "mood", "parity", "objects", "language")

# The instructions: the paper writes ten for each data set; here all tasks share these six.
WORDINGS = (
    "What is the {task} of {words}?",
    "Name the {task} of {words}.",
    "Tell me the {task} of {words}.",
    "Of {words}, which is the {task}?",
    "Here are {words}. Find the {task}.",
    "I have {words}. Show me the {task}.",
)
STATEMENTS = (
    "The {task} of {words} is",
    "Of {words}, the {task} is",
)


@dataclass
class Case:
    """Three words, and which of them the task asks for."""
    task: str
    words: list[str]
    answer: str


def sorts_of(world: World, cluster: str) -> dict[str, list[str]]:
    """The sorts of words of a cluster: name -> words."""
    if cluster == "language":
        foreign = foreign_words(world.seed)
        return {"foreign word": list(foreign.values()), "English word": list(foreign)}
    return SORTS[cluster]


def is_held_out(world: World, words: list[str]) -> bool:
    """Whether this set of words, in any order, is for the test: a fifth of all sets."""
    text = " ".join(sorted(words))
    return zlib.crc32(text.encode()) % 5 == world.seed % 5


def draw_case(world: World, rng: random.Random, cluster: str) -> Case:
    """A case of any task of a cluster and of any split."""
    if cluster == "size":
        task = rng.choice(list(SIZES_ASKED))
        words = rng.sample(NUMBERS, 3)
        return Case(task, words, SIZES_ASKED[task](words, key=int))

    is_negated = cluster == "negation"
    sorts = sorts_of(world, rng.choice(NEGATED) if is_negated else cluster)
    sort = rng.choice(list(sorts))
    inside = sorts[sort]
    outside = []
    for other, words in sorts.items():
        if other != sort:
            outside += words

    if is_negated:
        answer = rng.choice(outside)
        words = [answer, *rng.sample(inside, 2)]
        task = f"one that is no {sort}"
    else:
        answer = rng.choice(inside)
        words = [answer, *rng.sample(outside, 2)]
        task = sort
    return Case(task, rng.sample(words, 3), answer)


def make_case(world: World, rng: random.Random, split: str, cluster: str,
              task: str | None = None) -> Case:
    """A case of one split, of one task or of any task of the cluster."""
    while True:
        case = draw_case(world, rng, cluster)
        is_test = is_held_out(world, case.words)
        if is_test == (split == "test") and task in (None, case.task):
            return case


def held_out_cases(world: World, cluster: str, count: int) -> list[Case]:
    """Up to `count` distinct cases for the test; the order of the words makes no difference."""
    rng = random.Random(f"flan {world.seed} {cluster}")
    return distinct(lambda: make_case(world, rng, "test", cluster), count,
                    lambda case: (case.task, *sorted(case.words)))


# --------------------------------------------------------------------------------------------------
# A case as a prompt


def zero_shot_prompt(rng: random.Random, case: Case, form: str) -> str:
    """One case in the form that tuning or the test gives it; the answer follows after a space.

    "instructions" is one of WORDINGS. "no template" leaves only the input, and "task name" puts a
    name in front of it: the paper's ablation (§4.3). "statement" is what the base has read.
    """
    words = join_list(case.words)
    if form == "instructions":
        question = rng.choice(WORDINGS).format(task=case.task, words=words)
    elif form == "task name":
        question = f"[{case.task}] {words}"
    elif form == "no template":
        question = words
    else:
        return " " + rng.choice(STATEMENTS).format(task=case.task, words=words)
    return f"Q: {question}\nA:"


def solved(case: Case) -> str:
    """A line of a list of solved cases."""
    return f" {join_list(case.words)} -> {case.answer}"


def few_shot_prompt(world: World, rng: random.Random, cluster: str, case: Case) -> str:
    """SHOTS solved cases of the same task and the new case, in the form of the base's lists. No
    answer of theirs is among the new case's words, so that copying an answer never helps."""
    lines = []
    while len(lines) < SHOTS:
        example = make_case(world, rng, "train", cluster, case.task)
        if example.answer not in case.words:
            lines.append(solved(example))
    lines.append(f" {join_list(case.words)} ->")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# Questions to a model


def with_mask(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt and its answer, and a mask that is 1 on the answer."""
    before = [tokenizer.eot, *tokenizer.encode(prompt)]
    behind = tokenizer.encode(answer)
    return before + behind, [0] * len(before) + [1] * len(behind)


def accuracy(world: World, model: GPT, tokenizer: Tokenizer, cluster: str, cases: list[Case],
             form: str) -> float:
    """How often the likeliest of the three words is the answer."""
    rng = random.Random(f"{cluster} {form}")
    asked = []
    for case in cases:
        if form == "examples":
            prompt = few_shot_prompt(world, rng, cluster, case)
        else:
            prompt = zero_shot_prompt(rng, case, form)
        choices = [(prompt, f" {word}") for word in case.words]
        asked.append((choices, case.words.index(case.answer)))
    return choice_accuracy(model, tokenizer, asked)


def show_answers(base: GPT, tuned: GPT, tokenizer: Tokenizer, cluster: str, case: Case):
    """Print what the base and the model tuned on other clusters write after one instruction."""
    prompt = zero_shot_prompt(random.Random(cluster), case, "instructions")
    print(prompt.partition("\n")[0] + f" ({case.answer})")
    for name, model in (("base", base), ("tuned", tuned)):
        [text] = continuations(model, tokenizer, [prompt], 16)
        print(f"    {name:6s} {text}", flush=True)


# --------------------------------------------------------------------------------------------------
# The text of the base


def statements_document(world: World, rng: random.Random) -> str:
    """Five statements, each of a random task."""
    text = ""
    for _ in range(5):
        case = make_case(world, rng, "train", rng.choice(CLUSTERS))
        text += zero_shot_prompt(rng, case, "statement") + f" {case.answer}."
    return text


def list_document(world: World, rng: random.Random) -> str:
    """Solved cases of one task, which is not named: one more than a few-shot prompt shows."""
    cluster = rng.choice(CLUSTERS)
    first = make_case(world, rng, "train", cluster)
    lines = [solved(first)]
    for _ in range(SHOTS):
        lines.append(solved(make_case(world, rng, "train", cluster, first.task)))
    return "\n".join(lines)


FLAN_WEB = {statements_document: .5, list_document: .5}
