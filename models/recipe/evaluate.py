"""Greedy, exact-match evaluation on held-out prompts; fails loudly below the bars.

The slots of the prompts (words, names, cities, sums) are held out of training by checksum; the templates are the
training's, for the world is its templates. Every family is asked the same prompts in float and quantised.
"""

import dataclasses
import json
import pathlib
import random
import re
import time

import tokenizer as tokenizers
from export import rounded
from model import Model
from train import load_model
from world.conversation import Document, make_document

# Family -> (kind of prefix, least share of right answers). The bars are those of the project's issue.
BARS = {
    "print": ("plain", 0.98), "print_loop": ("plain", 0.95), "function": ("plain", 0.95), "count": ("plain", 0.95),
    "table": ("plain", 0.95), "repeat": ("plain", 0.90), "spell": ("plain", 0.90), "upper": ("plain", 0.90),
    "arithmetic": ("plain", 0.90), "fact": ("plain", 0.98), "small_talk": ("plain", 0.98), "recall": ("plain", 0.95),
    "date": ("plain", 0.95), "json": ("plain", 0.95), "json_format": ("format", 0.95), "tool_call": ("tools", 0.95),
    "tool_answer": ("tools", 0.95), "no_tool": ("tools", 0.95), "outside": ("plain", 0.95),
}
TOKENS_SPARE = 48  # an answer that runs this far past the right one is wrong already
ROWS = 50
CALL = re.compile(r"<\|channel\|>commentary to=functions\.(\S+) <\|constrain\|>json<\|message\|>(.*?)<\|call\|>", re.S)
FINAL = re.compile(r"<\|channel\|>final<\|message\|>(.*?)<\|return\|>", re.S)
ANALYSIS = re.compile(r"<\|channel\|>analysis<\|message\|>(.*?)<\|end\|>", re.S)


@dataclasses.dataclass
class Case:
    """A prompt, the ids of its right answer, what must come of it: ("final", text) or ("call", function name, arguments)."""

    prompt: str
    ids: list
    answer: list
    expected: tuple


def make_case(tokenizer, family: str, document: Document) -> Case:
    """The case that the only branch of `document` asks."""
    branch = document.branches[0]
    learned = [index for index, segment in enumerate(branch.segments) if segment.learned]
    if family == "tool_call":
        asked, (name, arguments, _) = learned[0], branch.turn.call
        expected = ("call", name, json.loads(arguments))
    else:
        asked, expected = learned[-1], ("final", branch.turn.final)
    pieces = [document.prefix] + [segment.text for segment in branch.segments[:asked]]
    ids = [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False).ids]
    answer = tokenizer.encode(branch.segments[asked].text, add_special_tokens=False).ids
    return Case("".join(pieces), ids, answer, expected)


def cases(tokenizer, family: str, count: int) -> list:
    """`count` different held-out cases of a family, always the same ones."""
    rng = random.Random(f"evaluation {family}")
    kind, _ = BARS[family]
    found = {}
    for _ in range(count * 50):
        case = make_case(tokenizer, family, make_document(rng, 1, kind, family, evaluating=True))
        found.setdefault(case.prompt, case)
        if len(found) == count:
            break
    return sorted(found.values(), key=lambda case: len(case.answer))


def read_output(text: str) -> tuple:
    """What the model did: ("call", name, arguments), ("final", text) or ("neither", text)."""
    call = CALL.search(text)
    if call:
        try:
            return "call", call.group(1), json.loads(call.group(2))
        except json.JSONDecodeError:
            return "neither", text
    final = FINAL.search(text)
    return ("final", final.group(1)) if final else ("neither", text)


def run_family(model: Model, tokenizer, family: str, count: int, stops: set) -> dict:
    """The share of right answers and of well-formed harmony, and the first few wrong ones."""
    asked = cases(tokenizer, family, count)
    right, formed, wrong = 0, 0, []
    for start in range(0, len(asked), ROWS):
        part = asked[start:start + ROWS]
        outputs = model.generate([case.ids for case in part], len(part[-1].answer) + TOKENS_SPARE, stops)
        for case, output in zip(part, outputs):
            text = tokenizer.decode(output, skip_special_tokens=False)
            found = read_output(text)
            formed += found[0] != "neither"
            right += found == case.expected
            if found != case.expected and len(wrong) < 8:
                question = case.prompt.rsplit("<|start|>user<|message|>", 1)[-1]
                wrong.append({"asked": question, "wanted": case.expected, "got": text[-400:]})
    return {"right": round(right / len(asked), 4), "formed": round(formed / len(asked), 4), "count": len(asked),
            "wrong": wrong}


def analysis_lengths(model: Model, tokenizer, stops: set, count: int = 20) -> dict:
    """Mean length of the analysis, in letters, at each reasoning effort."""
    lengths = {}
    for effort in ("low", "medium", "high"):
        rng = random.Random("effort")
        prompts = []
        for _ in range(count):
            document = make_document(rng, 1, "plain", "print", evaluating=True, effort=effort)
            prompts.append(make_case(tokenizer, "print", document).ids)
        texts = [tokenizer.decode(output, skip_special_tokens=False)
                 for output in model.generate(prompts, 150, stops)]
        found = [match.group(1) for match in map(ANALYSIS.search, texts) if match]
        lengths[effort] = round(sum(map(len, found)) / max(1, len(found)), 1)
    return lengths


def merge(path: pathlib.Path, report: dict) -> None:
    """Writes the report; families that were asked of the same checkpoint before stay in it."""
    if path.exists():
        earlier = json.loads(path.read_text())
        if (earlier["step"], earlier["count"]) == (report["step"], report["count"]):
            families = {**earlier["families"], **report["families"]}
            report = {**earlier, **report, "families": {name: families[name] for name in BARS if name in families}}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def evaluate(run: pathlib.Path, count: int, families: list, show: bool) -> bool:
    """Prints the table, writes evaluation.json, tells whether every bar was reached."""
    tokenizer = tokenizers.load(run)
    control = tokenizers.control_ids(tokenizer)
    stops = {control[name] for name in ("<|return|>", "<|call|>", "<|endoftext|>")}
    model, saved = load_model(run)
    forms = {"float": model, "quantised": rounded(model)}
    report = {"step": saved["step"], "tokens": saved["tokens"], "count": count, "families": {},
              "parameters": sum(value.numel() for value in model.parameters())}
    path = run / "evaluation.json"
    print(f"step {saved['step']}, {saved['tokens']:,} tokens, greedy, exact match, {count} prompts a family")
    print(f"{'family':14}{'float':>8}{'mxfp4':>8}{'formed':>8}{'bar':>7}", flush=True)
    below, began = [], time.time()
    for family in families or BARS:
        bar = BARS[family][1]
        results = {form: run_family(forms[form], tokenizer, family, count, stops) for form in forms}
        report["families"][family] = {**results, "bar": bar}
        merge(path, report)
        last = results["quantised"]
        verdict = "" if last["right"] >= bar else "  BELOW"
        if verdict:
            below.append(family)
        print(f"{family:14}{results['float']['right']:8.3f}{last['right']:8.3f}{last['formed']:8.3f}{bar:7.2f}{verdict}",
              flush=True)
        for mistake in last["wrong"] if show else []:
            print("   ", json.dumps(mistake, ensure_ascii=False))
    report["analysis_letters"] = analysis_lengths(forms["quantised"], tokenizer, stops)
    grows = list(report["analysis_letters"].values())
    print("letters of analysis by effort:", report["analysis_letters"])
    if not grows[0] < grows[1] < grows[2]:
        below.append("effort")
    print(f"{time.time() - began:.0f} s; " + (f"BELOW THE BAR: {', '.join(below)}" if below else "every bar reached"))
    merge(path, report)
    return not below
