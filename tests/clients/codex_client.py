"""Runs OpenAI's codex against a running antiphon: a task with two tool calls, whose every item codex sends back.

Usage: codex_client.py URL CODEX. The embedded model would not call a shell by itself, so a proxy between the two forces
the first two turns' calls, by `tool_choice` and a strict schema; everything else is as codex sends it.
"""

import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

CALLS = 2
# Without the parts of codex's prompt that a context of 8,192 tokens has no room for.
CONFIG = """
model = "gpt-oss-tiny"
model_provider = "antiphon"
model_instructions_file = "{home}/instructions.md"
[features]
apps = false
goals = false
multi_agent = false
plugins = false
skill_search = false
[model_providers.antiphon]
name = "antiphon"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


def forced(body):
    """`body`, with the call that this turn must make."""
    results = [item for item in body["input"] if item.get("type") == "function_call_output"]
    if len(results) < CALLS:
        (shell,) = [tool for tool in body["tools"] if tool.get("name") == "exec_command"]
        command = {"cmd": {"const": f"echo done {len(results)}"}}
        shell["parameters"] = {
            "type": "object", "properties": command, "required": ["cmd"], "additionalProperties": False
        }
        shell["strict"] = True
        body["tool_choice"] = {"type": "function", "name": "exec_command"}
    return body


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on, and remembers them with their statuses."""

    url = ""
    seen = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + self.path, json.dumps(forced(body)).encode(), headers)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        text = answer.read()
        self.seen.append((body, answer.status, text.decode()))
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers["content-type"])
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def main():
    url, codex = sys.argv[1], str(pathlib.Path(sys.argv[2]).resolve())
    Proxy.url = url
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        (home / "instructions.md").write_text("You are a coding agent.")
        (home / "config.toml").write_text(CONFIG.format(home=home, port=server.server_address[1]))
        (home / "project").mkdir()
        command = [codex, "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Print done."]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CODEX_HOME": folder, "HOME": folder}
        run = subprocess.run(
            command, cwd=home / "project", env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300
        )
    said = run.stdout.decode() + run.stderr.decode()
    assert run.returncode == 0, said
    assert [status for _, status, _ in Proxy.seen] == [200] * (CALLS + 1), (Proxy.seen, said)
    kinds = [item["type"] for item in Proxy.seen[-1][0]["input"]]
    assert kinds.count("function_call") == kinds.count("function_call_output") == CALLS, kinds
    for index in range(CALLS):
        assert f"done {index}" in said, said
    assert "event: response.completed" in Proxy.seen[-1][2], Proxy.seen[-1][2]
    version = subprocess.run([codex, "--version"], capture_output=True, check=True).stdout.decode().strip()
    print(f"{version} against {url}: a task with {CALLS} tool calls, 1 passed, 0 failed")


if __name__ == "__main__":
    main()
