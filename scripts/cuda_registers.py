#!/usr/bin/env python3
"""Compiles every kernel for every architecture, warnings as errors, and holds registers and spills to a list.

usage: cuda_registers.py NVCC [--write]
The list is kernels/cuda/registers.txt: kernel, architecture, registers, bytes spilled (stores + loads). More of either than
listed fails, as does a kernel that is not listed, or one that is listed and gone. --write makes the list anew.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "kernels/cuda/registers.txt"
ARCHITECTURES = ["sm_80", "sm_89", "sm_90a", "sm_100a"]
# A few registers come and go with unrelated changes; what matters is a step up.
SLACK = 8


def compile_one(nvcc, source, architecture):
    command = [nvcc, "-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills", "-cubin"]
    command += [f"-arch={architecture}", str(source), "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "spill" not in done.stderr.lower():
        raise SystemExit(f"{source.name} for {architecture}:\n{done.stdout}{done.stderr}")
    found, name, spilled = [], None, 0
    for line in (done.stdout + done.stderr).splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            name = entry[1]
        elif spills := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(spills[1]) + int(spills[2])
        elif (used := re.search(r"Used (\d+) registers", line)) and name:
            found.append(((name, architecture), (int(used[1]), spilled)))
            name = None
    return found


def listed():
    rows = [line.split() for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    return {(name, architecture): (int(registers), int(spilled)) for name, architecture, registers, spilled in rows}


def complaints(found, known):
    for key, (registers, spilled) in found.items():
        if key not in known:
            yield f"{key[0]} {key[1]}: not in the list"
        elif spilled > known[key][1]:
            yield f"{key[0]} {key[1]}: {spilled} bytes spilled, {known[key][1]} listed"
        elif registers > known[key][0] + SLACK:
            yield f"{key[0]} {key[1]}: {registers} registers, {known[key][0]} listed"
    for key in known.keys() - found.keys():
        yield f"{key[0]} {key[1]}: listed, but there is no such kernel"


def main():
    nvcc = sys.argv[1]
    sources = sorted((ROOT / "kernels/cuda").glob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        work = [pool.submit(compile_one, nvcc, source, arch) for source in sources for arch in ARCHITECTURES]
        found = dict(pair for one in work for pair in one.result())
    rows = [f"{name} {arch} {registers} {spilled}" for (name, arch), (registers, spilled) in sorted(found.items())]
    print("\n".join(rows))
    if "--write" in sys.argv:
        LIST.write_text("# kernel architecture registers spilled_bytes; made by scripts/cuda-check --write\n" + "\n".join(rows) + "\n")
        return
    wrong = list(complaints(found, listed()))
    if wrong:
        raise SystemExit("registers and spills differ from kernels/cuda/registers.txt:\n" + "\n".join(wrong))
    print(f"{len(found)} kernels and architectures as listed")


if __name__ == "__main__":
    main()
