"""Goldens for the project's tests: what transformers computes on twelve prompts, in float32, greedily; and the text on
which the arithmetics of an engine are compared."""

import json
import pathlib

import torch

import evaluate
import tokenizer as tokenizers
from export import load_with_transformers
from world import tools
from world.conversation import system_message

DATE = "2025-11-22"
GREEDY_TOKENS = 48
TOP = 20
HELD_OUT_OF_FAMILY = 4
WEATHER = tools.Tool(name="get_weather", description="Get the current weather", parameter="location",
                     parameter_description="City name", subject="weather")


def user(text: str) -> str:
    """A question and the header that makes the assistant speak."""
    return f"<|start|>user<|message|>{text}<|end|><|start|>assistant"


def prompts() -> dict:
    """Name -> rendered prompt."""
    plain = system_message("medium", DATE, False)
    offered = (system_message("medium", DATE, True)
               + f"<|start|>developer<|message|>{tools.developer_text([WEATHER])}<|end|>")
    helper = plain + "<|start|>developer<|message|># Instructions\n\nYou are a helpful AI assistant.<|end|>"
    thought = WEATHER.thought("Paris")
    call = (f"<|channel|>analysis<|message|>{thought} The tool fits.<|end|><|start|>assistant"
            " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{\"location\": \"Paris\"}<|call|>")
    result = ("<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>"
              "{\"temperature\": 18, \"condition\": \"sunny\"}<|end|><|start|>assistant")
    return {
        "hello": plain + user("Hello"),
        "print_jay": plain + user('Write Python code that prints "Jay"'),
        "print_unseen_low": system_message("low", DATE, False) + user("Write Python code that prints 'Zorvek'"),
        "print_jay_korean": plain + user('Python으로 "Jay"를 출력하는 코드를 작성해줘'),
        "count": plain + user("Count from 1 to 20"),
        "fizzbuzz_high": system_message("high", DATE, False) + user("Write a function that prints FizzBuzz up to n"),
        "arithmetic": plain + user("What is 47 + 38?"),
        "who_are_you": helper + user("Who are you?"),
        "json": helper + user("Answer in JSON with keys name and age: Mina is 31 years old."),
        "recall": plain + user("My name is Jay.") + "<|channel|>final<|message|>Nice to meet you, Jay!<|end|>"
                  + user("What is my name?"),
        "tool_call": offered + user("What is the weather in Paris?"),
        "tool_result": offered + user("What is the weather in Paris?") + call + result,
    }


@torch.no_grad()
def greedy(model, ids: list) -> tuple:
    """Logits after the prompt, then greedy tokens with the margin of the best over the second logit."""
    inputs, past, first, tokens, margins = torch.tensor([ids]), None, None, [], []
    for _ in range(GREEDY_TOKENS):
        output = model(inputs, past_key_values=past, use_cache=True)
        past, logits = output.past_key_values, output.logits[0, -1].double()
        first = logits if first is None else first
        values, best = logits.topk(2)
        tokens.append(int(best[0]))
        margins.append(round(float(values[0] - values[1]), 4))
        inputs = best[:1][None]
    return first, tokens, margins


def make(checkpoint: pathlib.Path) -> None:
    """Writes golden.json beside the checkpoint."""
    tokenizer = tokenizers.load(checkpoint)
    control = tokenizers.control_ids(tokenizer)
    stops = {control[name] for name in ("<|return|>", "<|call|>", "<|endoftext|>")}
    model = load_with_transformers(checkpoint)
    cases = []
    for name, prompt in prompts().items():
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        first, tokens, margins = greedy(model, ids)
        values, top = first.topk(TOP)
        stop = next((index for index, token in enumerate(tokens) if token in stops), None)
        shown = tokens[:stop + 1] if stop is not None else tokens
        cases.append({
            "name": name, "prompt": prompt, "prompt_ids": ids, "top20_ids": top.tolist(),
            "top20_logits": [round(float(value), 5) for value in values], "greedy_ids": tokens,
            "greedy_margin": margins, "stop_index": stop,
            "greedy_text": tokenizer.decode(shown, skip_special_tokens=False)})
        print(f"{name}: least margin {min(margins[:len(shown)])}: {cases[-1]['greedy_text']!r}")
    note = ("made by models/recipe/goldens.py: transformers GptOssForCausalLM, Mxfp4Config(dequantize=True), float32, "
            "eager; greedy goes on after a stop; stop_index is the first of <|return|>, <|call|>, <|endoftext|>")
    text = json.dumps({"model": "models/tiny", "note": note, "cases": cases}, ensure_ascii=False, indent=1)
    (checkpoint / "golden.json").write_text(text + "\n")
    (checkpoint / "held_out.json").write_text(held_out(tokenizer))


def held_out(tokenizer) -> str:
    """Conversations of the evaluation with their right answers, as token ids: a few of every family. `written` tells how
    many of the last tokens the model is to write."""
    lines = []
    for family in evaluate.BARS:
        for case in evaluate.cases(tokenizer, family, HELD_OUT_OF_FAMILY):
            lines.append(json.dumps({"family": family, "written": len(case.answer), "ids": case.ids + case.answer}))
    return "[\n" + ",\n".join(lines) + "\n]\n"
