"""Tries mutants out of one build: each is an arm in the function that it changes, and the variable MUTANT says which one runs.

usage: plant_mutants.py LIST OUT SAMPLE ROOM...

LIST is what `cargo mutants --list --json` prints. Of each room every k-th is tried, so that about SAMPLE are (0: all). The tree is
copied to OUT/tree and built in OUT/target, both kept for the next time. A mutant is found when a library test of its room fails
(ROOM `engine/sampling`: the tests `engine::sampling::`), or one of the tests over the whole that SUITE has for the room, if the
environment has SUITE=1. OUT/{caught,timeout,missed,unviable}.txt have a line a mutant, the first two with what found it.

One that cannot be an arm (in a const, a const fn, a fn that returns an `impl`) is built alone, as cargo-mutants builds each.
"""

import collections
import filecmp
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A mutant that allocates without end must not take the machine with it. The suite's whole server needs less than 3 GiB.
DATA_MAX_BYTES = 6 << 30
WHICH = """
/// The mutant that this process runs: plant_mutants.py.
pub mod planted {
    /// 0 is none.
    pub fn which() -> u32 {
        static WHICH: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
        *WHICH.get_or_init(|| std::env::var("MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}
"""
# What of a signature may hold a brace that does not open the body, and what opens and closes.
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|[][(){}]', re.DOTALL)
FOLDERS = {"antiphon": "", "antiphon-kernels": "kernels/"}
# The tests of the suite that hold a room, where they are not named like it.
SUITE = {"scheduler": ["simulation::"], "engine/sampling": ["goldens::reports"]}


class Mutant:
    def __init__(self, number, seen):
        self.number, self.name, self.file = number, seen["name"], seen["file"]
        self.folder, self.replacement = FOLDERS[seen["package"]], seen["replacement"]
        self.text = (ROOT / self.file).read_text()
        self.start, self.end = self.span(seen["span"])
        self.body, function = None, seen["function"]
        if function and "impl " not in function["return_type"]:
            start, end = self.span(function["span"])
            depth = 0
            for token in TOKEN.finditer(self.text, start, end):
                if token[0] == "{" and depth == 0:
                    if not re.search(r"\bconst (unsafe )?fn\b", self.text[start : token.start()]):
                        self.body = (token.start() + 1, end - 1)
                    break
                depth += (token[0] in "([") - (token[0] in ")]")

    def span(self, span):
        lines = self.text.splitlines(keepends=True)
        return [sum(map(len, lines[: at["line"] - 1])) + at["column"] - 1 for at in (span["start"], span["end"])]

    def within(self, file, body):
        return self.file == file and body[0] < self.body[0] and self.body[1] < body[1]

    def mutated(self, start, end):
        return self.text[start : self.start] + self.replacement + self.text[self.end : end]


def planted(text, mutants):
    """The file with each of its mutants as an arm; the marks say which lines are whose."""
    bodies = collections.defaultdict(list)
    for mutant in mutants:
        bodies[mutant.body].append(mutant)
    for (start, end), inside in sorted(bodies.items(), reverse=True):
        arms = "".join(f"\n/*arm {one.number}*/ {one.number} => {{ {one.mutated(start, end)}\n}}" for one in inside)
        whole = f" match crate::planted::which() {{{arms}\n/*arm 0*/ _ => {{{text[start:end]}\n}} }} "
        text = text[:start] + whole + text[end:]
    return text


class Tree:
    def __init__(self, out):
        self.path, self.out = out / "tree", out
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        self.files = {name for name in names if name and (ROOT / name).is_file()}
        for old in [path for path in self.path.rglob("*") if path.is_file()]:
            if str(old.relative_to(self.path)) not in self.files:
                old.unlink()
        self.write({})

    def write(self, changed):
        """The tree with these files changed and all others as they are. What is the same keeps its time, for cargo."""
        for name in self.files:
            to = self.path / name
            if name in changed:
                if not to.exists() or to.read_text() != changed[name]:
                    to.write_text(changed[name])
            elif not to.exists() or not filecmp.cmp(ROOT / name, to, shallow=False):
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, to)
                shutil.copymode(ROOT / name, to)

    def cargo(self, *arguments):
        """Runs cargo; returns the test programs that it made, or None, and the errors' places."""
        command = ["cargo", *arguments, "--message-format=json"]
        env = os.environ | {"CARGO_TARGET_DIR": str(self.out / "target"), "CARGO_PROFILE_DEV_DEBUG": "0"}
        done = subprocess.run(command, cwd=self.path, env=env, capture_output=True, text=True, check=False)
        made, places, messages = [], [], []
        for line in done.stdout.splitlines():
            seen = json.loads(line)
            if seen["reason"] == "compiler-artifact" and seen["profile"]["test"] and seen["executable"]:
                made.append(seen["executable"])
            if seen["reason"] == "compiler-message" and seen["message"]["level"] == "error":
                messages.append(seen["message"]["rendered"])
                places += [(span["file_name"], span["line_start"]) for span in seen["message"]["spans"]]
        if done.returncode != 0 and not places:
            raise SystemExit("".join(messages) or done.stderr)
        return (made if done.returncode == 0 else None), places, messages

    def plant(self, mutants):
        """Leaves out what does not compile, until the rest does; returns the rest."""
        while True:
            changed, lines = {}, collections.defaultdict(dict)
            for name in {mutant.file for mutant in mutants}:
                inside = [mutant for mutant in mutants if mutant.file == name]
                changed[name] = planted(inside[0].text, inside)
                arm = 0
                for at, line in enumerate(changed[name].splitlines(), 1):
                    for mark in re.finditer(r"/\*arm (\d+)\*/", line):
                        arm = int(mark[1])
                    lines[name][at] = arm
            for folder in {mutant.folder for mutant in mutants}:
                lib = f"{folder}src/lib.rs"
                changed[lib] = changed.get(lib, (ROOT / lib).read_text()) + WHICH
            self.write(changed)
            packages = [f"--package={name}" for name, folder in FOLDERS.items() if any(m.folder == folder for m in mutants)]
            began = time.monotonic()
            made, places, messages = self.cargo("check", "--lib", *packages)
            print(f"checked {len(mutants)} in {time.monotonic() - began:.0f} s", flush=True)
            if made is not None:
                return mutants
            wrong = {lines[name].get(at, 0) for name, at in places} - {0}
            if not wrong:
                raise SystemExit("not of a mutant:\n" + "".join(messages))
            mutants = [mutant for mutant in mutants if mutant.number not in wrong]


class Judge:
    """The test program of a package's library, or of the suite. Runs some of its tests, until the first one fails."""

    def __init__(self, tree, folder, kind):
        self.tree, self.folder, self.kind = tree, folder, kind
        self.limits_s = {}

    def build(self):
        package, began = next(name for name, of in FOLDERS.items() if of == self.folder), time.monotonic()
        made, _, messages = self.tree.cargo("test", "--no-run", f"--package={package}", self.kind)
        print(f"built {package} {self.kind} in {time.monotonic() - began:.0f} s", flush=True)
        self.program = made and made[0]
        return "".join(messages)

    def baseline(self, filters):
        """Panics if the tests do not pass without a mutant."""
        if filters in self.limits_s:
            return
        self.limits_s[filters] = 1200
        for _ in range(2):
            began = time.monotonic()
            verdict, by = self.run(0, filters)
            if verdict == "missed":
                break
            print(f"{self.kind} {' '.join(filters)}: {verdict} without a mutant: {by}", flush=True)
        if verdict != "missed":
            raise SystemExit(f"{self.kind} {' '.join(filters)}: {verdict} without a mutant: {by}")
        took = time.monotonic() - began
        # Three times, because others may load the machine; a mutant that hangs costs that much.
        self.limits_s[filters] = 3 * took + 20
        print(f"{self.kind} {' '.join(filters)}: {took:.1f} s without a mutant", flush=True)

    def run(self, number, filters):
        """Whether a test found this mutant, and which. What ran while it was stopped from outside is run again."""
        while True:
            verdict, by, was_stopped = self.run_once(number, filters)
            if verdict == "missed" or not was_stopped:
                return verdict, by

    def run_once(self, number, filters):
        scratch = self.tree.out / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        process = subprocess.Popen(
            [self.program, *filters],
            cwd=self.tree.path / self.folder,
            env=os.environ | {"MUTANT": str(number), "TMPDIR": str(scratch), "RUST_BACKTRACE": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
            text=True,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (DATA_MAX_BYTES, DATA_MAX_BYTES)),
        )
        guard = Guard(process, self.limits_s[filters])
        by, ran = None, False
        for line in process.stdout:
            ran = ran or re.match(r"running [1-9]", line) is not None
            failed = re.match(r"test (\S+).* \.\.\. FAILED", line)
            if failed:
                by = failed[1]
                break
        guard.end()
        process.stdout.close()
        status = process.wait()
        if by:
            return "caught", by, guard.was_stopped
        if guard.is_late:
            return "timeout", f"{self.limits_s[filters]:.0f} s", guard.was_stopped
        if status != 0:
            return "caught", f"status {status}", guard.was_stopped
        if not ran:
            raise SystemExit(f"no test is named like {filters}")
        return "missed", "", guard.was_stopped


class Guard(threading.Thread):
    """Ends a program, and all that it started, after so many seconds in which it was not stopped by a signal."""

    def __init__(self, process, limit_s):
        super().__init__(daemon=True)
        self.process, self.left_s, self.is_late, self.was_stopped = process, limit_s, False, False
        self.ended = threading.Event()
        self.start()

    def run(self):
        while self.left_s > 0 and not self.ended.wait(1):
            try:
                state = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except FileNotFoundError:
                return
            self.was_stopped = self.was_stopped or state == "T"
            self.left_s -= state != "T"
        if self.left_s <= 0:
            self.is_late = True
            self.end()

    def end(self):
        self.ended.set()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def read(listed, sample, rooms):
    """The mutants to be tried by their room, and how many each room has."""
    by_room = {room: [] for room in rooms}
    for one in json.loads(pathlib.Path(listed).read_text()):
        path = one["file"].removeprefix(FOLDERS[one["package"]]).removeprefix("src/").removesuffix(".rs")
        matching = [room for room in rooms if f"{path}/".startswith(f"{room}/")]
        by_room[max(matching, key=len)].append(one)
    number, mutants = 0, {}
    for room, listed in by_room.items():
        step = max(1, round(len(listed) / sample)) if sample else 1
        mutants[room] = [Mutant(number + at, one) for at, one in enumerate(listed[::step], 1)]
        number += len(mutants[room])
    return mutants, {room: len(listed) for room, listed in by_room.items()}


def main():
    mutants, counts = read(sys.argv[1], int(sys.argv[3]), sys.argv[4:])
    tried = [mutant for room in mutants.values() for mutant in room]
    together = [mutant for mutant in tried if mutant.body]
    places = {(mutant.file, mutant.body) for mutant in together}
    # Not in a function that is inside of another one with mutants: the outer one's arms hold the text as it was.
    together = [one for one in together if not any(one.within(file, body) for file, body in places)]
    out = pathlib.Path(sys.argv[2]).resolve()
    tree = Tree(out)
    files = {verdict: open(out / f"{verdict}.txt", "w", buffering=1) for verdict in ("caught", "timeout", "missed", "unviable")}
    verdicts = {}

    def tell(mutant, verdict, by=""):
        verdicts[mutant] = verdict
        print(f"{mutant.name}\t{by}" if by else mutant.name, file=files[verdict])
        print(f"{verdict}\t{mutant.number}\t{mutant.name}\t{by}", flush=True)

    judges = [Judge(tree, folder, "--lib") for folder in sorted({mutant.folder for mutant in tried})]
    if os.environ.get("SUITE"):
        judges.append(Judge(tree, "", "--test=suite"))

    def tests(judge, room):
        return tuple(SUITE.get(room, [f"{room}::"]) if judge.kind == "--test=suite" else [room.replace("/", "::") + "::"])

    left = tree.plant(together)
    for mutant in set(together) - set(left):
        tell(mutant, "unviable")
    for judge in judges:
        wrong = judge.build() if left else None
        if wrong:
            raise SystemExit(wrong)
        for room, inside in mutants.items():
            for mutant in [mutant for mutant in inside if mutant in left and mutant.folder == judge.folder]:
                judge.baseline(tests(judge, room))
                verdict, by = judge.run(mutant.number, tests(judge, room))
                if verdict == "missed":
                    print(f"left by {judge.kind}\t{mutant.number}\t{mutant.name}", flush=True)
                else:
                    tell(mutant, verdict, by)
                    left.remove(mutant)
    for mutant in left:
        tell(mutant, "missed")
    for room, inside in mutants.items():
        for mutant in [mutant for mutant in inside if mutant not in together]:
            tree.write({mutant.file: mutant.mutated(0, len(mutant.text))})
            verdict, by = "missed", ""
            for judge in judges:
                if verdict == "missed" and judge.folder == mutant.folder:
                    wrong = judge.build()
                    verdict, by = ("unviable", "") if wrong else judge.run(0, tests(judge, room))
            tell(mutant, verdict, by)
    print("| room | mutants | tried | caught | missed | do not compile |")
    for room, inside in mutants.items():
        seen = collections.Counter(verdicts[mutant] for mutant in inside)
        caught = seen["caught"] + seen["timeout"]
        print(f"| {room} | {counts[room]} | {len(inside)} | {caught} | {seen['missed']} | {seen['unviable']} |")


main()
