"""Asks a Prometheus that scrapes a server every query of the dashboard and every alert's; each must find something.

usage: check_dashboard.py SERVER KEY PROMETHEUS
"""

import json
import pathlib
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

server, key, prometheus = sys.argv[1:]
dashboard = json.loads(pathlib.Path("deploy/grafana/antiphon.json").read_text(encoding="utf-8"))
PATIENCE_SECONDS = 90


def fetch(url, body=None, **headers):
    """The JSON at `url`."""
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return json.load(answer)


def generate():
    """A chat, so that there is something to count."""
    body = {"messages": [{"role": "user", "content": "Count from 1 to 20"}], "max_tokens": 60}
    fetch(server + "/v1/chat/completions", body, Authorization="Bearer " + key, **{"Content-Type": "application/json"})


def query(expression):
    """The samples that an expression finds now."""
    for variable, value in (("$__rate_interval", "1m"), ("$job", "antiphon"), ("$instance", ".*")):
        expression = expression.replace(variable, value)
    return fetch(prometheus + "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))["data"]["result"]


def numbers(samples):
    """Whether there are samples and all are numbers."""
    return bool(samples) and all(sample["value"][1] != "NaN" for sample in samples)


queries = {target["expr"]: panel["title"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
begun = time.monotonic()
silent = queries
while silent and time.monotonic() - begun < PATIENCE_SECONDS:
    generate()
    time.sleep(0.5)
    try:
        silent = {expression: title for expression, title in silent.items() if not numbers(query(expression))}
    except urllib.error.HTTPError as error:
        sys.exit("check-deploy: Prometheus does not take a query: " + error.read().decode())
    except urllib.error.URLError:
        continue  # It is still starting.
for expression, title in silent.items():
    print(f"check-deploy: nothing under {title!r}: {expression}", file=sys.stderr)
if silent:
    sys.exit(1)
rules = [rule for group in fetch(prometheus + "/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
broken = [rule["name"] for rule in rules if rule["health"] == "err" or rule["state"] == "firing"]
if broken or not rules:
    sys.exit(f"check-deploy: alerts that cannot be evaluated, or fire at a well server: {broken}")
print(f"check-deploy: {len(queries)} queries find something, {len(rules)} alerts are quiet")
