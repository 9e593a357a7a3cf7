"""
Prompts with several pictures among the text, for papers/gpt4_pictures.py.

Two pictures, and questions that name one of them or need both:

    The first picture: ... The second picture: ...
    Which color is square in the first picture? red
    In which picture is red square? second
    In which picture are more red? first

Few-shot: up to four examples, each a picture and an answer, then a picture alone. No word says
what is asked. It is one of seven tasks: the shape, the color or the place of the picture's first
or last thing, in reading order, or the number of its things. The kind of the answers tells the
attribute. What tells the first from the last, but for places, is how answers fit their pictures.

All pictures of a test prompt, examples too, hold held-out combinations only. Design ours.
"""
import dataclasses
import random

import gpt
from papers.gpt4_pictures_tasks import (COLORS, NUMBERS, PLACES, SHAPES, VALUES, Document, Scene,
                                        cases_of, parts_of, questions_about, random_document,
                                        random_scene)
from papers.tasks import distinct

# ------------------------------------------------------------------------------
# Two pictures

PAIR_KINDS = ("in one of two", "which of two", "more of two")
ORDINALS = ("first", "second")


def questions_about_two(kind: str, pair: tuple[Scene, Scene]) -> dict[str, str]:
    """All questions of one of PAIR_KINDS with their answers, which would change if the pictures
    changed places."""
    turns = {}
    if kind == "in one of two":
        answers = []
        for scene in pair:
            answers.append({})
            for thing in scene:
                answers[-1].update(questions_about(scene, thing).values())
        for question in answers[0].keys() & answers[1].keys():
            if answers[0][question] != answers[1][question]:
                for ordinal, known in zip(ORDINALS, answers):
                    named = question.replace("?", f" in the {ordinal} picture?")
                    turns[named] = known[question]
    elif kind == "which of two":
        for ordinal, scene, other in zip(ORDINALS, pair, pair[::-1]):
            seen = {(thing.color, thing.shape) for thing in other}
            for thing in scene:
                if (thing.color, thing.shape) not in seen:
                    turns[f"In which picture is {thing.color} {thing.shape}?"] = ordinal
    else:
        for value in COLORS + SHAPES:
            counts = []
            for scene in pair:
                counts.append(sum(value in (thing.color, thing.shape) for thing in scene))
            if counts[0] != counts[1]:
                turns[f"In which picture are more {value}?"] = ORDINALS[counts[1] > counts[0]]
    return dict(sorted(turns.items()))  # sets have no order of their own


def about_two(pair: tuple[Scene, Scene], questions: dict[str, str]) -> Document:
    """A document that shows two pictures and asks questions."""
    [first, *others] = questions.items()
    shown = ("The first picture:", pair[0], "\nThe second picture:", pair[1], f"\n{first[0]}")
    return Document(None, ((shown, first[1]), *others))


def random_two(rng: random.Random, split: str, seed: int, kind: str, most: int) -> Document:
    """Two pictures and up to `most` questions of a kind."""
    questions = {}
    while not questions:
        pair = random_scene(rng, split, seed), random_scene(rng, split, seed)
        questions = questions_about_two(kind, pair)
    chosen = rng.sample(list(questions), min(most, len(questions)))
    return about_two(pair, {question: questions[question] for question in chosen})


def exchanged(case: Document, kind: str) -> Document:
    """The same question about the same two pictures in the other order. Its answer is another."""
    [((_, first, _, second, question), _)] = case.turns
    asked = question.strip()
    answer = questions_about_two(kind, (second, first))[asked]
    return about_two((second, first), {asked: answer})


# ------------------------------------------------------------------------------
# Few-shot

SHOT_KINDS = {"0 examples": 0, "1 example": 1, "2 examples": 2, "4 examples": 4}
# what is asked of which thing; the number of things twice, so that all attributes are as frequent
TASKS = [(asked, which) for asked in VALUES for which in ("first", "last")]


def answer_of(task: tuple[str, str], scene: Scene) -> str:
    asked, which = task
    if asked == "number":
        return NUMBERS[len(scene)]
    return getattr(scene[0 if which == "first" else -1], asked)


def random_examples(rng: random.Random, split: str, seed: int) -> Document:
    """Five pictures with answers to the same unsaid question. In the test, the first and the last
    thing of the fifth differ in what is asked, so that the task must be known."""
    task = asked, _ = rng.choice(TASKS)
    scenes = [random_scene(rng, split, seed) for _ in range(5)]
    ends = [answer_of((asked, which), scenes[-1]) for which in ("first", "last")]
    if split == "test" and asked != "number" and ends[0] == ends[1]:
        return random_examples(rng, split, seed)
    return Document(None, tuple(((scene,), answer_of(task, scene)) for scene in scenes))


def shuffled(case: Document) -> Document:
    """Each example with the answer of the example before it: a control."""
    *examples, last = case.turns
    scenes = [scene for scene, _ in examples]
    answers = [answer for _, answer in examples]
    return dataclasses.replace(case, turns=(*zip(scenes, answers[-1:] + answers[:-1]), last))


# ------------------------------------------------------------------------------
# All documents and cases


def any_document(rng: random.Random, seed: int) -> Document:
    """A training document: questions about one picture or two, or examples."""
    [form] = rng.choices(("one", "two", "examples"), (1, 2, 1))
    if form == "one":
        return random_document(rng, seed)
    if form == "two":
        return random_two(rng, "train", seed, rng.choice(PAIR_KINDS), most=4)
    return random_examples(rng, "train", seed)


def any_cases(kind: str, count: int, split: str, seed: int) -> list[Document]:
    """Up to `count` distinct cases of a kind. Those with fewer examples are those with more, whose
    first examples are left out."""
    if kind not in PAIR_KINDS and kind not in SHOT_KINDS:
        return cases_of(kind, count, split, seed)
    rng = random.Random(f"{kind if kind in PAIR_KINDS else 'examples'} {split} {seed}")

    def make_case():
        if kind in PAIR_KINDS:
            return random_two(rng, split, seed, kind, most=1)
        case = random_examples(rng, split, seed)
        return dataclasses.replace(case, turns=case.turns[-1 - SHOT_KINDS[kind]:])
    return distinct(make_case, count, lambda case: case.turns[-1])


def unanswered(case: Document) -> Document:
    """The prompt of a case: all but the last answer."""
    *turns, (question, _) = case.turns
    return dataclasses.replace(case, turns=(*turns, (question, "")))


def in_words(document: Document) -> str:
    """A document's texts, and its pictures in words."""
    lines = []
    for part, _ in parts_of(document):
        if isinstance(part, str):
            lines.append(part.strip())
            continue
        cells = dict.fromkeys(PLACES, ".")
        for thing in part:
            cells[thing.place] = f"{thing.color} {thing.shape}"
        for row in gpt.chunks([cell.ljust(14) for cell in cells.values()], 3):
            lines.append("".join(row))
    return "\n".join(lines)


def without_pictures(documents: list[Document]) -> list[Document]:
    """The texts of documents, as one question and answer after another."""
    blind = []
    for document in documents:
        turns = []
        for question, answer in document.turns:
            if not isinstance(question, str):
                question = tuple(part for part in question if isinstance(part, str))
            turns.append((question, answer))
        blind.append(Document(None, tuple(turns)))
    return blind


def with_other_pictures(documents: list[Document]) -> list[Document]:
    """Each document with the picture, or pictures, of the one before it behind its last answer: a
    control. Examples keep theirs."""
    changed = []
    for document, other in zip(documents, documents[-1:] + documents[:-1]):
        question, answer = document.turns[-1]
        if not isinstance(question, str):
            theirs = iter(part for part in other.turns[-1][0] if not isinstance(part, str))
            question = tuple(part if isinstance(part, str) else next(theirs) for part in question)
        turns = (*document.turns[:-1], (question, answer))
        changed.append(Document(other.scene, turns))
    return changed
