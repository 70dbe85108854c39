#!/usr/bin/env python3
"""The speed of mistral.rs, from its wheel, on a checkpoint; compare.py runs it with the Python of `benches/peer/build`.

    FOLDER/venv/bin/python benches/peer/mistral.py MODEL decode=32 3

Prints tokens/s of each turn. `decode=N`: N streams of 64 tokens at once, what comes after the last of them has begun;
`prefill=N`: one prompt of about N tokens, by mistral.rs's own figure. Prompts differ, as it remembers their beginnings.
"""

import os
import sys
import tempfile
import threading
import time

from mistralrs import Architecture, ChatCompletionRequest, Runner, Which

NEW_TOKENS = 64


def request(prompt, max_tokens, stream):
    return ChatCompletionRequest(
        model="default", messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens, temperature=0.0, stream=stream,
        ignore_eos=True
    )


def decode(runner, prompts):
    """Tokens/s of all streams from when the last of them has begun."""
    # A send must not run beside another; each returns at once.
    streams = [runner.send_chat_completion_request(request(prompt, NEW_TOKENS, True)) for prompt in prompts]
    arrivals = [[] for _ in streams]

    def read(stream, times):
        for _ in stream:
            times.append(time.monotonic())

    threads = [threading.Thread(target=read, args=pair) for pair in zip(streams, arrivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began, ended = max(times[0] for times in arrivals), max(times[-1] for times in arrivals)
    return sum(time > began for times in arrivals for time in times) / (ended - began)


def speed(runner, kind, count, turn):
    if kind == "decode":
        return decode(runner, [f"{turn} {number} " + "a b " * 31 for number in range(count)])
    usage = runner.send_chat_completion_request(request(f"{turn} " + "a b " * (count // 2), 1, False)).usage
    return usage.avg_prompt_tok_per_sec


def main():
    model, work, turns = sys.argv[1:]
    kind, count = work.split("=")
    # The words of its log would go to the same place as the figures.
    figures = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as template:
        template.write("{{ messages[0]['content'] }}")
        template.flush()
        which = Which.Plain(model_id=model, arch=Architecture.GptOss)
        runner = Runner(which=which, max_seqs=max(16, int(count)), chat_template=template.name)
    for turn in ["warm", *range(int(turns))]:
        found = speed(runner, kind, int(count), turn)
        if turn != "warm":
            print(found, file=figures, flush=True)


if __name__ == "__main__":
    main()
