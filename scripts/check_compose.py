"""What scripts/check-image asks of the services of deploy/docker/compose.yaml, once they are up.

Through the gateway: an answer, a stream, all replicas at work, one replica drained under load without an error. Of Prometheus:
each replica is scraped, the alerts are loaded and none fires.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

GATEWAY, PROMETHEUS, GRAFANA = "http://127.0.0.1:8000", "http://127.0.0.1:9090", "http://127.0.0.1:3000"
COMPOSE = os.environ["COMPOSE"].split()


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()


def until(what, seconds, ask):
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if found := ask():
                return found
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.2)
    sys.exit(f"check-image: {what}: not within {seconds} s ({last})")


def chat(content, **more):
    body = {"model": "gpt-oss-tiny", "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    return fetch(f"{GATEWAY}/v1/chat/completions", body)


def asked(index):
    try:
        return json.loads(chat(f"What is {index} + 25?"))["choices"][0]["finish_reason"]
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read()[:200]}"
    except OSError as error:
        return str(error)


def scraped():
    targets = json.loads(fetch(f"{PROMETHEUS}/api/v1/targets"))["data"]["activeTargets"]
    return [target["labels"]["instance"] for target in targets if target["health"] == "up"]


def value(query):
    url = f"{PROMETHEUS}/api/v1/query?query={urllib.parse.quote(query)}"
    return json.loads(fetch(url))["data"]["result"]


def main():
    services = sys.argv[1:]
    until("the gateway is ready", 120, lambda: fetch(f"{GATEWAY}/readiness"))
    answer = json.loads(until("an answer", 60, lambda: chat("What is 17 + 25?")))
    print(f"gateway: answered {answer['choices'][0]['message']['content']!r}")
    stream = chat("What is 17 + 25?", stream=True)
    assert stream.rstrip().endswith("data: [DONE]"), stream[-200:]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(asked, range(400))
        time.sleep(1)
        drained = output(*COMPOSE, "ps", "-q", "replica-2")
        begun = time.monotonic()
        output(*COMPOSE, "stop", "replica-2")
        seconds = time.monotonic() - begun
        wrong = [reason for reason in answers if reason != "stop"]
    assert not wrong, f"{len(wrong)} of 400 failed: {wrong[:3]}"
    code = output("docker", "inspect", "-f", "{{.State.ExitCode}}", drained)
    assert code == "0", f"the drained replica ended with {code}"
    print(f"gateway: 400 requests by 8 clients, replica-2 stopped in their midst ({seconds:.1f} s): no error")

    output(*COMPOSE, "start", "replica-2")
    instances = until("each replica is scraped", 60, lambda: len(found := scraped()) == 3 and found)
    # The one that was stopped counts from zero again.
    counted = until("replicas have answered", 60, lambda: value("sum by (instance) (llm_decode_tokens_total) > 0"))
    rules = json.loads(fetch(f"{PROMETHEUS}/api/v1/rules"))["data"]["groups"]
    alerts = [rule for group in rules for rule in group["rules"] if rule["type"] == "alerting"]
    assert alerts, "no alerts are loaded"
    print(f"prometheus: {len(instances)} replicas scraped, {len(counted)} have answered since they started, {len(alerts)} alerts loaded")
    if "grafana" in services:
        until("Grafana has the dashboard", 60, lambda: json.loads(fetch(f"{GRAFANA}/api/search?query=antiphon")))
        print("grafana: the dashboard is there")


main()
