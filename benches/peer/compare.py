#!/usr/bin/env python3
"""Runs antiphon and llama.cpp, with `--ik` ik_llama.cpp and with `--mistral` mistral.rs too, in turn on the same weights and prints the ratios of their speeds.

    cargo build --release --bin antiphon --bench forward
    benches/peer/build FOLDER
    antiphon synth --shape small MODEL && benches/peer/convert FOLDER MODEL MODEL.gguf
    benches/peer/compare.py FOLDER MODEL MODEL.gguf decode=1 decode=32 prefill=512 http=32

`decode=N`: N sequences that go on by 64 tokens behind 64; `prefill=N`: one prompt; `http=N`: N users of each server who ask
again and again with prompts of 64 words for answers of 64 tokens; prompts come again from turn to turn, so llama.cpp's cache of
prompts is off. Each work is done by one and the other in turn, `--turns` times,
so that both see the same machine; a line has medians, the ratio, and smallest and largest of each.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def output(*command, env=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def bench_program():
    """The compiled benches/forward.rs: the newest of its name."""
    found = [path for path in (ROOT / "target/release/deps").glob("forward-*") if not path.suffix]
    if not found:
        sys.exit("no target/release/deps/forward-*; expected it from `cargo build --release --bench forward`")
    return max(found, key=lambda path: path.stat().st_mtime)


def antiphon_speed(asked, work):
    command = [bench_program(), "--bench", "--model", asked.model, "--threads", asked.threads, "--seconds", asked.seconds]
    isa = ["--isa", asked.isa] if asked.isa else []
    line = output(*command, "--math", asked.math, "--dense", asked.dense, *isa, work)
    return float(line.split()[1])


def llama_speed(asked, work):
    kind, count = work.split("=")
    programs = pathlib.Path(asked.folder) / "build/bin"
    if kind == "prefill":
        runs = 1 if asked.seconds < 1 else 3
        text = output(
            programs / "llama-bench", "-m", asked.gguf, "-t", asked.threads, "-p", count, "-n", 0, "-r", runs, "-o", "json", *asked.llama.split()
        )
        return json.loads(text)[0]["avg_ts"]
    context = 128 * int(count)
    size = ["-c", context, "-b", max(512, int(count)), "-ub", 512, "-npp", 64, "-ntg", 64, "-npl", count, *asked.llama.split()]
    command = [programs / "llama-batched-bench", "-m", asked.gguf, "-t", asked.threads, *size, "--output-format", "jsonl"]
    for _ in range(3):  # It ends now and then with exit status 0 and no figures.
        for line in output(*command).splitlines():
            if line.startswith("{"):
                return json.loads(line)["speed_tg"]
    sys.exit(f"{' '.join(map(str, command))}: no line of figures in three runs")


def ik_speed(asked, work):
    """ik_llama.cpp with its weights repacked at the start; it fuses a token's experts unless told otherwise."""
    kind, count = work.split("=")
    programs = pathlib.Path(asked.folder) / "ik/bin"
    model = ["-m", asked.gguf, "-t", asked.threads]
    if kind == "prefill":
        runs = 1 if asked.seconds < 1 else 3
        text = output(programs / "llama-bench", *model, "-p", count, "-n", 0, "-r", runs, "-rtr", 1, "-fmoe", 1, "-o", "json")
        return json.loads(text)[0]["avg_ts"]
    size = ["-c", 128 * int(count), "-b", max(512, int(count)), "-ub", 512, "-npp", 64, "-ntg", 64, "-npl", count]
    # A table: of its last row the last speed but one is that of decoding.
    command = [str(word) for word in [programs / "llama-batched-bench", *model, *size, "-rtr"]]
    text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    row = [line for line in text.splitlines() if line.startswith("|")][-1]
    return float(row.split("|")[8])


def mistral_speed(asked, work):
    python, program = pathlib.Path(asked.folder) / "venv/bin/python", pathlib.Path(__file__).with_name("mistral.py")
    return float(output(python, program, asked.model, work, 1, env={**os.environ, "RAYON_NUM_THREADS": str(asked.threads)}))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(url, *command):
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    with urllib.request.urlopen(f"{url}/health", timeout=5):
                        break
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{command[0]} ended: {log.read()[-2000:].decode(errors='replace')}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()
            process.wait()


def http(asked, users):
    """What the users of each server saw: a list of runs for each."""
    ours, theirs = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    antiphon = ROOT / "target/release/antiphon"
    serve = [antiphon, "serve", "--model", asked.model, "--port", ours.rsplit(":")[-1], "--threads", asked.threads]
    serve += ["--cpu-math", asked.math, "--cpu-dense", asked.dense, "--profile", asked.profile, "--log-level", "warn"]
    if asked.isa:
        serve += ["--cpu-isa", asked.isa.lower()]
    slots = asked.slots or users
    llama = [pathlib.Path(asked.folder) / "build/bin/llama-server", "-m", asked.gguf, "-t", asked.threads, "-np", slots]
    llama += ["-c", 512 * slots, "-b", 2048, "--no-cache-prompt", "--port", theirs.rsplit(":")[-1]]
    llama += asked.llama.split()
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        load = [antiphon, "load", "--url", ours, "--url", theirs, "--api", "completions", "--ignore-eos"]
        load += ["--concurrency", users, "--requests", asked.requests or 3 * users, "--prompt-tokens", 64]
        load += ["--output-tokens", 64, "--rounds", asked.turns, "--json", report.name]
        with server(ours, *serve), server(theirs, *llama):
            output(*load)
        runs = json.load(report)["runs"]
    return [[run for run in runs if run["url"].startswith(url)] for url in (ours, theirs)]


def show(name, ours, theirs, unit, peer="llama.cpp"):
    a, b = statistics.median(ours), statistics.median(theirs)
    spread = ", ".join(f"{min(values):.1f} to {max(values):.1f}" for values in (ours, theirs))
    print(f"{name:<20} antiphon {a:>9.1f}  {peer:<12} {b:>9.1f} {unit:<9} ratio {a / b:5.2f}   ({spread})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where benches/peer/build has built")
    parser.add_argument("model", help="the checkpoint's directory")
    parser.add_argument("gguf", help="the same, converted by benches/peer/convert")
    parser.add_argument("works", nargs="+", help="decode=N, prefill=N, http=N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="how long antiphon's part of a turn lasts at least")
    parser.add_argument("--math", default="int16", choices=["exact", "int16", "fast"])
    parser.add_argument("--dense", default="bf16", choices=["bf16", "int8"])
    parser.add_argument("--isa", help="antiphon's instructions, such as AVX2; the fastest unless told otherwise")
    parser.add_argument("--ik", action="store_true", help="run ik_llama.cpp as well, but for http=N")
    parser.add_argument("--mistral", action="store_true", help="run mistral.rs as well, but for http=N")
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--llama", default="", help="more arguments for llama.cpp's programs, such as --llama=--no-repack")
    parser.add_argument("--slots", type=int, help="of llama.cpp's server; as many as there are users unless told otherwise")
    parser.add_argument("--requests", type=int, help="in a turn; three for each user unless told otherwise")
    asked = parser.parse_args()
    for work in asked.works:
        kind, count = work.split("=")
        if kind == "http":
            ours, theirs = http(asked, int(count))
            of = lambda runs, value: [value(run) for run in runs]
            show(work, of(ours, lambda run: run["output_tokens_per_s"]), of(theirs, lambda run: run["output_tokens_per_s"]), "tokens/s")
            for name, key, point in [("TTFT p50", "ttft", "p50"), ("TTFT p95", "ttft", "p95"), ("ITL p50", "itl", "p50"), ("ITL p95", "itl", "p95")]:
                value = lambda run: run["latencies"][key][point]
                show(f"  {name}", of(ours, value), of(theirs, value), "ms")
            continue
        peers = {"llama.cpp": llama_speed, **({"ik_llama.cpp": ik_speed} if asked.ik else {})}
        peers |= {"mistral.rs": mistral_speed} if asked.mistral else {}
        turns = [[speed(asked, work) for speed in (antiphon_speed, *peers.values())] for _ in range(asked.turns)]
        ours, *theirs = zip(*turns)
        for peer, speeds in zip(peers, theirs):
            show(work, ours, speeds, "tokens/s", peer)


if __name__ == "__main__":
    main()
