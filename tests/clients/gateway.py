"""Three replicas behind a gateway: same answers, and what happens when a replica or a client leaves.

Usage: gateway.py ANTIPHON VENV_BIN [smg|vllm-router ...]. Exits with 1 at the first promise that does not hold.
"""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import openai

KEY = "a-key-of-the-replicas"
MODEL = "gpt-oss-tiny"
WAIT_SECONDS = 60
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Get the current weather", "parameters": {
    "type": "object", "properties": {"location": {"type": "string", "description": "City name"}}, "required": ["location"]}}}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(what: str, holds, seconds: float = WAIT_SECONDS) -> float:
    """Waits for `holds` and returns the seconds that it took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if holds():
            return time.monotonic() - began
        time.sleep(0.005)
    sys.exit(f"check-gateway: after {seconds} s still not so: {what}")


def ask(url: str, path: str, body=None, key: str | None = KEY) -> tuple:
    """Status and JSON of an answer; (0, None) where nothing listens."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else text
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, None


class Replica:
    """One antiphon."""

    def __init__(self, binary: str, folder: pathlib.Path, *options: str):
        self.log = folder / f"replica-{free_port()}.log"
        key_file = folder / "keys"
        key_file.write_text(KEY + "\n")
        with self.log.open("w") as log:
            self.process = subprocess.Popen([binary, "serve", "--port", "0", "--threads", "1", "--api-key-file", key_file,
                                             "--drain-delay-seconds", "4", *options], stderr=log, stdout=log)
        until(f"a replica is ready ({self.log})", lambda: self.address() is not None)
        self.url = "http://" + self.address()

    def address(self) -> str | None:
        found = re.search(r"ready address=([0-9.]+:[0-9]+)", re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text()))
        return found and found.group(1)

    def active(self) -> int:
        """Requests that have not ended."""
        return ask(self.url, "/stats")[1]["active_requests"]

    def total(self) -> int:
        """Requests that were admitted."""
        return ask(self.url, "/stats")[1]["requests_total"]


class Smg:
    """Shepherd Model Gateway."""

    name = "smg"
    # How a stream ends whose replica dies.
    broken = "error event"

    def __init__(self, programs: pathlib.Path, folder: pathlib.Path, replicas: list, policy: str):
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [programs / "smg", "launch", "--host", "127.0.0.1", "--port", self.url.rsplit(":", 1)[1],
                   "--prometheus-port", str(free_port()), "--policy", policy, "--api-key", KEY,
                   "--health-check-endpoint", "/health/ready", "--health-check-interval-secs", "1",
                   "--health-failure-threshold", "1", "--worker-startup-check-interval", "1",
                   "--worker-urls", *[replica.url for replica in replicas]]
        with (folder / f"smg-{policy}.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until("smg is ready with every replica", lambda: self.healthy() == len(replicas))

    def healthy(self) -> int:
        status, report = ask(self.url, "/readiness")
        return report["healthy_workers"] if status == 200 else 0

    def add(self, url: str) -> None:
        status, text = ask(self.url, "/workers", {"url": url, "api_key": KEY})
        assert status in (200, 202), (status, text)


class VllmRouter:
    """vllm-router."""

    name = "vllm-router"
    # It closes the connection before the last chunk, so a client sees a cut answer.
    broken = "cut"

    def __init__(self, programs: pathlib.Path, folder: pathlib.Path, replicas: list, policy: str):
        self.replicas = list(replicas)
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [programs / "vllm-router", "--host", "127.0.0.1", "--port", self.url.rsplit(":", 1)[1],
                   "--prometheus-port", str(free_port()), "--policy", policy, "--api-key", KEY,
                   "--health-check-endpoint", "/health/ready", "--health-check-interval-secs", "1",
                   "--health-failure-threshold", "1", "--worker-startup-check-interval", "1",
                   "--worker-urls", *[replica.url for replica in replicas]]
        with (folder / f"vllm-router-{policy}.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until("vllm-router answers", lambda: ask(self.url, "/v1/models")[0] == 200)

    def healthy(self) -> int:
        return len(self.replicas) if ask(self.url, "/health")[0] == 200 else 0

    def add(self, url: str) -> None:
        status, text = ask(self.url, f"/add_worker?url={url}", {"url": url})
        assert status == 200, (status, text)


def choices(answer) -> list:
    """What an answer says, without ids and times."""
    shown = []
    for choice in answer.model_dump()["choices"]:
        for call in (choice.get("message") or {}).get("tool_calls") or []:
            call.pop("id")
        shown.append(choice)
    return shown


def streamed(stream) -> list:
    """The deltas of a stream, without ids and times."""
    return [choice["delta"] for chunk in stream for choice in chunk.model_dump()["choices"]]


def items(response) -> list:
    """What a response says, without ids."""
    return [(item.type, getattr(item, "name", None), [part.text for part in getattr(item, "content", None) or []])
            for item in response.output]


def told(events) -> list:
    """The events of a streamed response and what they add, and the response that ends it."""
    events = list(events)
    return [(event.type, getattr(event, "delta", None)) for event in events] + items(events[-1].response)


def anthropic(url: str, stream: bool) -> list:
    """What Anthropic's route answers, or the events of its stream, without what a cache gave: that differs from answer to answer."""
    body = {"model": MODEL, "max_tokens": 40, "temperature": 0, "stream": stream,
            "messages": [{"role": "user", "content": "Count from 1 to 9"}]}
    status, answer = ask(url, "/v1/messages", body)
    assert status == 200, (status, answer)
    if not stream:
        return [answer["content"], answer["stop_reason"], answer["usage"]["output_tokens"]]
    events = [json.loads(line.removeprefix("data: ")) for line in answer.decode().splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "message_stop", events[-1]
    return [(event["type"], event.get("content_block"), event.get("delta")) for event in events]


def answers(url: str) -> dict:
    """What openai-python and a client of Anthropic's route are told by the server at `url`."""
    client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
    said = [{"role": "user", "content": "Count from 1 to 9"}]
    weather = [{"role": "user", "content": "What is the weather in Paris?"}]
    chat = client.chat.completions.create
    return {
        "chat": choices(chat(model=MODEL, messages=said, temperature=0)),
        "stream": streamed(chat(model=MODEL, messages=said, temperature=0, stream=True)),
        "tools": choices(chat(model=MODEL, messages=weather, temperature=0, tools=[TOOL])),
        "responses": items(client.responses.create(model=MODEL, input=said, temperature=0)),
        "streamed responses": told(client.responses.create(model=MODEL, input=said, temperature=0, stream=True)),
        "completions": choices(client.completions.create(model=MODEL, prompt="print", temperature=0, max_tokens=9)),
        "messages": anthropic(url, stream=False),
        "streamed messages": anthropic(url, stream=True),
    }


def long_stream(url: str, index: int) -> tuple:
    """Streams an answer of 1,500 tokens; returns what its last events were, and how it ended."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=WAIT_SECONDS)
    body = {"model": MODEL, "stream": True, "ignore_eos": True, "max_tokens": 1500, "temperature": 0,
            "messages": [{"role": "user", "content": f"{index * 7919} begins this question. Count from 1 to {index + 3}"}]}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        if answer.status != 200:
            return "refused", f"{answer.status} {answer.read()[:200]}"
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return "cut", repr(error)
    events = [line for line in text.splitlines() if line.startswith("data: ")]
    if any('"error"' in event for event in events[-3:]):
        return "error event", ""
    return ("whole", "") if '"finish_reason":"length"' in text else ("cut", text[-200:])


def load(url: str, count: int, workers: int) -> list:
    """`count` short chats; the statuses that were not 200."""
    def one(index: int) -> int:
        said = [{"role": "user", "content": f"print word{index}"}]
        return ask(url, "/v1/chat/completions", {"model": MODEL, "messages": said, "temperature": 0, "max_tokens": 8})[0]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return [status for status in pool.map(one, range(count)) if status != 200]


def same_answers(gateway, replicas: list) -> None:
    direct = answers(replicas[0].url)
    behind = answers(gateway.url)
    for name, answer in direct.items():
        assert answer == behind[name], f"{name} differs behind {gateway.name}:\n{answer}\n{behind[name]}"
    print(f"  same answers: {', '.join(direct)}")


def keys_and_ids(gateway) -> None:
    said = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    assert ask(gateway.url, "/v1/chat/completions", said, "another-key")[0] == 401, "a wrong key must be refused"
    request = urllib.request.Request(gateway.url + "/v1/chat/completions", json.dumps(said).encode(), {
        "content-type": "application/json", "authorization": f"Bearer {KEY}", "x-request-id": "an-id-of-the-client"})
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        given = answer.headers.get("x-request-id")
    print(f"  a wrong key: 401; x-request-id of the answer: {given}")


def client_leaves(gateway, replicas: list) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps({"model": MODEL, "stream": True, "ignore_eos": True, "max_tokens": 4000,
                       "messages": [{"role": "user", "content": "Count from 1 to 9"}]})
    taken = []
    for _ in range(5):
        client = socket.create_connection((host, int(port)))
        client.sendall((f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
                        f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n{body}").encode())
        client.recv(1 << 16)
        assert sum(replica.active() for replica in replicas) == 1
        client.close()
        taken.append(until("a client that left has freed its blocks", lambda: not any(r.active() for r in replicas)))
    print(f"  a client leaves: its request ended after {', '.join(f'{seconds * 1e3:.0f}' for seconds in sorted(taken))} ms")


def probed_often(gateway, replicas: list) -> None:
    """A health check of each replica comes every 10 ms."""
    over, statuses = threading.Event(), []

    def probe(replica) -> None:
        while not over.wait(0.01):
            statuses.append(ask(replica.url, "/health/ready", key=None)[0])
    with concurrent.futures.ThreadPoolExecutor(len(replicas)) as pool:
        probes = [pool.submit(probe, replica) for replica in replicas]
        same_answers(gateway, replicas)
        over.set()
        [future.result() for future in probes]
    assert set(statuses) == {200}, set(statuses)
    print(f"  the same beside {len(statuses)} probes of the replicas, one each 10 ms")


def gateway_vanishes(gateway, other, replicas: list) -> None:
    """Of two gateways before the same replicas one is killed: what it held ends, what the other holds goes on."""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        going = [pool.submit(long_stream, gateway.url, index) for index in range(3)]
        lost = [pool.submit(long_stream, other.url, index + 3) for index in range(3)]
        until("six streams run", lambda: sum(replica.active() for replica in replicas) == 6)
        other.process.kill()
        seconds = until("its streams end", lambda: sum(replica.active() for replica in replicas) <= 3)
        assert all(not future.done() for future in going), "three were running"
        ended = [[future.result()[0] for future in group] for group in (going, lost)]
    assert ended == [["whole"] * 3, ["cut"] * 3], ended
    print(f"  one of two gateways is killed: its 3 streams' requests ended after {seconds * 1e3:.0f} ms, the other's 3 went on")


def replica_stops_answering(gateway, replicas: list) -> None:
    """A replica that hangs is left out, and comes back when it answers again."""
    replicas[0].process.send_signal(signal.SIGSTOP)
    try:
        out = until("the gateway leaves it out", lambda: gateway.healthy() == len(replicas) - 1)
        failed = load(gateway.url, 40, 8)
    finally:
        replicas[0].process.send_signal(signal.SIGCONT)
    assert not failed, f"beside a replica that hangs failed: {failed}"
    back = until("it is back", lambda: gateway.healthy() == len(replicas))
    print(f"  a replica hangs: left out after {out:.1f} s, no error of 40 requests then, back after {back:.1f} s")


def replica_dies(gateway, replicas: list) -> None:
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        running = [pool.submit(long_stream, gateway.url, index) for index in range(9)]
        until("the streams run", lambda: sum(replica.active() for replica in replicas) == 9)
        held = [replica.active() for replica in replicas]
        victim = held.index(min(filter(None, held)))
        replicas[victim].process.kill()
        ended = [future.result()[0] for future in running]
    whole, told = ended.count("whole"), ended.count(gateway.broken)
    assert (whole, told) == (9 - held[victim], held[victim]), f"streams a replica: {held}, killed {victim}; ended: {ended}"
    assert not load(gateway.url, 20, 4), "later requests go to the others"
    replicas.pop(victim)
    print(f"  a replica dies: of 9 streams its {told} ended ({gateway.broken}), {whole} went on to their end")


def replica_joins(gateway, replicas: list, binary: str, folder: pathlib.Path) -> None:
    replicas.append(Replica(binary, folder))
    gateway.add(replicas[-1].url)

    def served() -> bool:
        assert not load(gateway.url, 6, 6)
        return replicas[-1].total() > 0
    print(f"  a replica joins: it serves after {until('the new replica serves', served):.1f} s")


def replica_drains(gateway, replicas: list) -> None:
    """SIGTERM: readiness is 503 at once, requests are taken for four seconds more; the gateway's probe comes each second."""
    leaving = replicas.pop(0)
    leaving.process.send_signal(signal.SIGTERM)
    failed, asked = [], 0
    while leaving.process.poll() is None:
        failed += load(gateway.url, 12, 6)
        asked += 12
    assert not failed, f"of {asked} requests during a drain failed: {failed}"
    print(f"  a replica drains: none of {asked} requests meanwhile failed; exit code {leaving.process.returncode}")


def cached_share(gateway, about: str) -> float:
    """Share of chats' later turns whose prompt was cached as far as the turn before had it: 12 chats of 4 turns, those of a turn
    in any order. Beyond the last whole block of 16 tokens nothing can be."""
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY)
    chats = [[] for _ in range(12)]
    known = [0] * len(chats)
    cached = asked = 0
    for turn in range(4):
        order = list(range(len(chats)))
        random.Random(turn).shuffle(order)
        for chat in order:
            said = " ".join(f"{about} {chat} {turn} {word}" for word in range(40))
            chats[chat].append({"role": "user", "content": said})
            usage = client.chat.completions.create(model=MODEL, messages=chats[chat], max_tokens=4, temperature=0).usage
            chats[chat].append({"role": "assistant", "content": "I see."})
            if turn > 0:
                cached += usage.prompt_tokens_details.cached_tokens >= known[chat] - 32
                asked += 1
            known[chat] = usage.prompt_tokens
    return cached / asked


def check(kind, binary: str, programs: pathlib.Path, folder: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        replicas = [Replica(binary, folder) for _ in range(3)]
        all_replicas = list(replicas)
        stack.callback(lambda: [replica.process.kill() for replica in all_replicas + replicas])
        began = time.monotonic()
        gateway = kind(programs, folder, replicas, "round_robin")
        stack.callback(gateway.process.kill)
        print(f"{kind.name}, round robin: ready after {time.monotonic() - began:.1f} s")
        same_answers(gateway, replicas)
        cache_aware = kind(programs, folder, replicas, "cache_aware")
        stack.callback(cache_aware.process.kill)
        same_answers(cache_aware, replicas)
        shares = [cached_share(gateway, "stone"), cached_share(cache_aware, "river")]
        assert shares[1] >= 2 * shares[0], f"cached: {shares}"
        print(f"  later turns of chats that found the turn before cached: {shares[0]:.0%}, with cache_aware {shares[1]:.0%}")
        gateway_vanishes(gateway, cache_aware, replicas)
        keys_and_ids(gateway)
        probed_often(gateway, replicas)
        client_leaves(gateway, replicas)
        failed = load(gateway.url, 500, 16)
        assert not failed, f"of 500 requests failed: {failed}"
        print(f"  500 requests: no error; a replica had {[replica.total() for replica in replicas]}")
        if kind is Smg:
            replica_stops_answering(gateway, replicas)
        replica_dies(gateway, replicas)
        replica_joins(gateway, replicas, binary, folder)
        replica_drains(gateway, replicas)


def main() -> None:
    binary, programs, *names = sys.argv[1:]
    kinds = [kind for kind in (Smg, VllmRouter) if not names or kind.name in names]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="check-gateway-"))
    print(f"logs: {folder}")
    for kind in kinds:
        check(kind, binary, pathlib.Path(programs), folder)


if __name__ == "__main__":
    main()
