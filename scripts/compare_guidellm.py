"""The reports of guidellm and of antiphon load side by side: a row a figure, medians over the rounds. Fails beyond 2 %."""

import json
import pathlib
import statistics
import sys

# On a machine with nothing else to do: docs/load.md has 1.2 % as the largest that was measured.
DIFFERENCE_MAX = 0.02

prefix, rounds = sys.argv[1], range(1, int(sys.argv[2]) + 1)
peer = [json.loads(pathlib.Path(f"{prefix}-guidellm-{n}.json").read_text())["benchmarks"][0]["metrics"] for n in rounds]
ours = [json.loads(pathlib.Path(f"{prefix}-antiphon-{n}.json").read_text())["runs"][0] for n in rounds]


def theirs(name, quantile):
    return [run[name]["successful"]["percentiles"][quantile] for run in peer]


def own(name, quantile):
    return [run["latencies"][name][quantile] for run in ours]


# guidellm's "inter-token latency" is a mean for each answer, (last - first) / (tokens - 1), which here is TPOT. Where the gaps
# of an answer are alike, the median gap agrees with it too.
ROWS = [
    ("TTFT p50", theirs("time_to_first_token_ms", "p50"), own("ttft", "p50"), True),
    ("TTFT p95", theirs("time_to_first_token_ms", "p95"), own("ttft", "p95"), False),
    ("ITL p50 (guidellm: mean of an answer; antiphon: gap)", theirs("inter_token_latency_ms", "p50"), own("itl", "p50"), True),
    ("mean of an answer's gaps, p50 (antiphon: TPOT)", theirs("inter_token_latency_ms", "p50"), own("tpot", "p50"), True),
    ("E2E p50", [1e3 * ms for ms in theirs("request_latency", "p50")], own("e2e", "p50"), False),
]
print("| milliseconds | guidellm | antiphon load | antiphon / guidellm |\n|---|---|---|---|")
bad = []
for name, a, b, required in ROWS:
    a, b = statistics.median(a), statistics.median(b)
    print(f"| {name} | {a:.2f} | {b:.2f} | {b / a:.3f} |")
    if required and abs(b / a - 1) > DIFFERENCE_MAX:
        bad.append(name)
completed = sum(run["counts"]["completed"] for run in ours)
answered = sum(run["request_totals"]["successful"] for run in peer)
print(f"\n{answered} answers read by guidellm, {completed} by antiphon load, in {len(rounds)} rounds", file=sys.stderr)
if bad:
    sys.exit(f"differ by more than {DIFFERENCE_MAX:.0%}: {', '.join(bad)}")
