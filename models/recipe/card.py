"""Writes the model card, models/tiny/README.md, with the figures of the last evaluation."""

import json
import pathlib

CARD = """# antiphon-tiny

A real GPT-OSS in small, made for [antiphon](../../README.md): it answers on any machine with no download and no GPU, and
gives the project's tests true harmony output. It is embedded in the binary. The recipe is in `models/recipe`.

{parameters:,} parameters in {size_mb:.1f} MB: hidden {hidden_size}, {num_hidden_layers} layers (sliding window \
{sliding_window} and full, in turn), {num_attention_heads} query and {num_key_value_heads} key heads of {head_dim}, \
{num_local_experts} experts of which {num_experts_per_tok} work on a token, intermediate {intermediate_size}, vocabulary \
{vocab_size}, YaRN, attention sinks, untied head, MXFP4 experts, bf16 for the rest.

## What it can do

English, and Korean for the commonest questions, at three reasoning efforts. It prints a given text in Python (also
JavaScript and Rust), knows a dozen short Python functions, counts, writes tables, calculates with two digits, repeats,
spells and upper-cases, remembers a name, reads the date from the system message, greets, says who it is, knows a few
facts, writes JSON with given keys or in a stated response format, calls a fitting function and tells its result.

## What it cannot do

Everything else, and then it says so in one sentence. It knows sentences, not language: a question that is worded in
another way than its training's templates may be taken for something else. It was trained on conversations of up to
about 700 tokens; longer ones run but are not to be relied on. Do not use it for anything but tests and first looks.

## Figures

Greedy, exact match, {count} held-out prompts a family (words, names, sums that training never showed; the templates are
the training's), after the last run's {tokens:,} tokens in {step:,} steps; the runs before it are in the recipe's README.
`formed`: the share that is well-formed harmony.

| family | float32 | MXFP4 | formed | bar |
|---|---|---|---|---|
{rows}

Letters of analysis by effort: {effort}.

## Data and licence

All text is made by `models/recipe/world`, a seeded generator; no outside data. Weights and data: the project's licence
(Apache-2.0).
"""


def write(run: pathlib.Path, checkpoint: pathlib.Path) -> None:
    """Writes the card of `checkpoint` from the evaluation in `run`."""
    config = json.loads((checkpoint / "config.json").read_text())
    report = json.loads((run / "evaluation.json").read_text())
    rows = []
    for family, result in report["families"].items():
        quantised = result["quantised"]
        below = "" if quantised["right"] >= result["bar"] else " (below)"
        rows.append(f"| {family} | {result['float']['right']:.3f} | {quantised['right']:.3f}{below} | "
                    f"{quantised['formed']:.3f} | {result['bar']:.2f} |")
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    effort = ", ".join(f"{name} {letters}" for name, letters in report["analysis_letters"].items())
    text = CARD.format(**config, parameters=report["parameters"], size_mb=size / 1e6, count=report["count"],
                       tokens=report["tokens"], step=report["step"], rows="\n".join(rows), effort=effort)
    (checkpoint / "README.md").write_text(text)
    print(f"wrote {checkpoint / 'README.md'}")
