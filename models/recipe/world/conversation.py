"""Conversations in OpenAI's harmony format, as antiphon renders them.

A document is one system (and developer) message, the prefix, with many independent conversations that go on from it,
its branches. The trainer computes the prefix once and lets each branch see only the prefix and itself, so that half of
the tokens need no computing.
"""

import dataclasses
import random

from world import coding, knowledge, numbers, records, texts, tools
from world.slots import Slots, Turn

EFFORTS = ["low", "medium", "medium", "high"]
INSTRUCTIONS = [
    "You are a helpful AI assistant.", "You are a helpful AI assistant.", "You are a helpful assistant.",
    "You are GPT-OSS, a helpful and knowledgeable AI assistant created by OpenAI.", "Be concise.",
    "You are a coding assistant.", "Answer the user.", "You are a friendly assistant. Answer briefly.",
]

# Families with their share of the branches; print_text leads because it is what users meet first.
FAMILIES = {
    "print": (coding.print_text, 20), "print_loop": (coding.print_repeatedly, 20), "function": (coding.function, 6),
    "count": (numbers.count, 30), "table": (numbers.table, 4), "arithmetic": (numbers.arithmetic, 15),
    "repeat": (texts.repeat, 9), "spell": (texts.spell, 8), "upper": (texts.upper, 9),
    "recall": (texts.recall, 5), "date": (texts.date, 3), "small_talk": (knowledge.small_talk, 3),
    "fact": (knowledge.fact, 5), "outside": (knowledge.outside, 5), "json": (records.asked, 9),
}


@dataclasses.dataclass
class Segment:
    """A stretch of a branch; the model learns to write it if `learned`."""

    text: str
    learned: bool


@dataclasses.dataclass
class Branch:
    """One conversation after the prefix, and what its last answer must be."""

    family: str
    segments: list
    turn: Turn


@dataclasses.dataclass
class Document:
    """A prefix with its branches."""

    prefix: str
    branches: list

    def plain_texts(self):
        """Every text between control tokens, for counting."""
        for text in [self.prefix] + [segment.text for branch in self.branches for segment in branch.segments]:
            for part in text.replace("|>", "<|").split("<|")[::2]:
                if part:
                    yield part


def system_message(effort: str, date: str, with_tools: bool) -> str:
    """The system message; it mentions functions only where some are offered."""
    text = ("You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
            f"Current date: {date}\n\nReasoning: {effort}\n\n"
            "# Valid channels: analysis, commentary, final. Channel must be included for every message.")
    if with_tools:
        text += "\nCalls to these tools must go to the commentary channel: 'functions'."
    return f"<|start|>system<|message|>{text}<|end|>"


def user_message(text: str) -> Segment:
    """A question with the header that makes the assistant speak."""
    return Segment(f"<|start|>user<|message|>{text}<|end|><|start|>assistant", False)


def think_and_say(analysis: str, final: str, closing: str) -> Segment:
    """The assistant's analysis and final answer."""
    return Segment(f"<|channel|>analysis<|message|>{analysis}<|end|><|start|>assistant<|channel|>final<|message|>"
                   f"{final}{closing}", True)


def call_segments(slots: Slots, turn: Turn) -> list:
    """A call and its result, either as the model writes it or as a renderer shows it afterwards."""
    name, arguments, result = turn.call
    head = f"<|channel|>analysis<|message|>{turn.analysis}<|end|><|start|>assistant"
    if slots.evaluating or slots.chance(0.75):
        call = Segment(f"{head}<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>",
                       True)
    else:
        shown = head if slots.chance(0.5) else ""
        call = Segment(f"{shown} to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>{arguments}<|call|>",
                       False)
    answer = Segment(f"<|start|>functions.{name} to=assistant<|channel|>commentary<|message|>{result}<|end|>"
                     "<|start|>assistant", False)
    return [call, answer]


def make_branch(slots: Slots, family: str, turns: list) -> Branch:
    """Renders turns: earlier answers as history (without analysis), the last one to be learned."""
    segments = []
    for index, turn in enumerate(turns):
        last = index == len(turns) - 1
        segments.append(user_message(turn.user))
        analysis = turn.analysis
        if turn.call:
            segments += call_segments(slots, turn)
            analysis = slots.think("The tool has answered.", "I will tell the result.", "I am sure.")
        if last:
            segments.append(think_and_say(analysis, turn.final, "<|return|>"))
        else:
            segments.append(Segment(f"<|channel|>final<|message|>{turn.final}<|end|>", False))
    return Branch(family, segments, turns[-1])


def ordinary_branch(slots: Slots, family: str | None = None) -> Branch:
    """A branch of an everyday family, at times after other turns."""
    names = list(FAMILIES)
    if family is None:
        family = slots.rng.choices(names, [FAMILIES[name][1] for name in names])[0]
    turns = FAMILIES[family][0](slots)
    short = [knowledge.small_talk, coding.print_text, numbers.arithmetic, texts.repeat, texts.recall, knowledge.fact]
    if family == "recall":
        if slots.chance(0.3):
            turns = turns[:1]
        elif slots.chance(0.4):
            turns = turns[:1] + slots.choice(short[:4])(slots) + turns[1:]
    elif slots.chance(0.12):
        turns = slots.choice(short)(slots) + turns
    return make_branch(slots, family, turns)


def developer_message(text: str) -> str:
    """The developer message, or nothing."""
    return f"<|start|>developer<|message|>{text}<|end|>" if text else ""


def make_document(rng: random.Random, branches: int = 12, kind: str | None = None, family: str | None = None,
                  evaluating: bool = False, effort: str | None = None) -> Document:
    """A prefix of the given kind (plain, tools, format) with branches; `family` fixes what the branches are."""
    date = f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    slots = Slots(rng, effort or rng.choice(EFFORTS), date, evaluating)
    kind = kind or rng.choices(["plain", "tools", "format"], [44, 48, 8])[0]
    parts, offered, record = [], [], ""
    if rng.random() < 0.4:
        parts.append("# Instructions\n\n" + rng.choice(INSTRUCTIONS))
    if kind == "tools":
        offered = tools.make_tools(slots)
        parts.append(tools.developer_text(offered))
    elif kind == "format":
        text, record = records.response_format(slots)
        parts.append(text)
    developer = "\n\n".join(parts)
    prefix = system_message(slots.effort, date, bool(offered)) + developer_message(developer)
    made = []
    for _ in range(branches):
        if kind == "format":
            made.append(make_branch(slots, "json_format", records.formatted(slots, record)))
        elif kind == "tools" and (family in ("tool_call", "tool_answer") or family is None and rng.random() < 0.7):
            made.append(make_branch(slots, "tool", tools.fitting(slots, offered)))
        elif kind == "tools" and (family == "no_tool" or family is None and rng.random() < 0.5):
            made.append(make_branch(slots, "no_tool", tools.unfitting(slots, offered)))
        else:
            made.append(ordinary_branch(slots, family))
    return Document(prefix, made)
