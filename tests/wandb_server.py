"""A stand-in for the W&B server: for `wandb sweep`, `wandb agent`, and the runs that agents start.

It answers what wandb 0.31.0 asks: GraphQL operations and, of a run, POST
/files/ENTITY/PROJECT/RUN/file_stream, its metrics, summary and exit status. An agent asks by a
Heartbeat every few seconds, answered by the next configuration while no run is going on, and by
``exit`` after the last.

Whatever else arrives is refused and listed. As the server is also a proxy that lets nothing
through, that includes what is meant for other hosts, if HTTPS_PROXY and HTTP_PROXY name it.
"""

import gzip
import json
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY, SWEEP, AGENT = "somebody", "sweep1", "agent1"
# As long as W&B wants it.
API_KEY = "0123456789" * 4

Values = dict[str, Any]


@dataclass
class Run:
    """What a run has said.

    Attributes:
        sweep: the name of the sweep that it belongs to.
        config: its configuration, the agent's parameters and the program's own.
        history: what it has logged, in this order.
        summary: the last value of everything.
        exit_status: None until it has ended.
    """

    sweep: str | None = None
    config: Values = field(default_factory=dict)
    history: list[Values] = field(default_factory=list)
    summary: Values = field(default_factory=dict)
    exit_status: int | None = None


class WandbServer(ThreadingHTTPServer):
    """The stand-in, on a free port of 127.0.0.1 while it is used as a context manager.

    Attributes:
        url: its address.
        project, sweep: the project and the content of the YAML file that `wandb sweep` has sent.
            Whoever changes ``sweep["command"]`` changes what agents run.
        runs: what runs have said, by their id.
        refused: requests that it has no answer to, as in ``CONNECT api.wandb.ai:443``.
    """

    def __init__(self, configurations: Sequence[Values]) -> None:
        """Serve nothing yet.

        Args:
            configurations: what agents are to run, one after the other, as run-0, run-1, ...
        """
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.project = ""
        self.sweep: Values = {}
        self.runs: dict[str, Run] = {}
        self.refused: list[str] = []
        self._to_run = {f"run-{number}": values for number, values in enumerate(configurations)}
        # Requests arrive in threads of their own.
        self._lock = threading.Lock()

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, method: str, path: str, body: bytes) -> Values | None:
        """The answer to a request; None refuses it."""
        with self._lock:
            if (method, path) == ("POST", "/graphql"):
                request = json.loads(body)
                name = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"]).group(1)
                if operation := getattr(self, f"_{name}", None):
                    return {"data": operation(request.get("variables") or {})}
                path = name
            elif method == "POST" and (stream := re.fullmatch(r"/files/.*/(.*)/file_stream", path)):
                return self._file_stream(self._run(stream[1]), json.loads(body))
            elif method == "PUT" and path.startswith("/uploads/"):
                return {}
            self.refused.append(f"{method} {path}")
            return None

    def _run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run())

    def _file_stream(self, run: Run, sent: Values) -> Values:
        files = {name: chunk["content"] for name, chunk in (sent.get("files") or {}).items()}
        run.history += map(json.loads, files.get("wandb-history.jsonl", []))
        for summary in files.get("wandb-summary.json", []):
            run.summary = json.loads(summary)
        if sent.get("complete"):
            run.exit_status = sent["exitcode"]
        return {}

    def _project(self, name: str) -> Values:
        return {"id": name, "name": name, "entity": {"id": ENTITY, "name": ENTITY}}

    # The operations, by their names.

    def _Viewer(self, _: Values) -> Values:
        names = dict.fromkeys(("id", "entity", "username", "email"), ENTITY)
        return {"viewer": {**names, "flags": "{}", "teams": {"edges": []}}}

    def _ServerFeaturesQuery(self, _: Values) -> Values:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _: Values) -> Values:
        return {"entity": {"organization": None}}

    def _UpsertSweep(self, sent: Values) -> Values:
        self.project, self.sweep = sent["projectName"], yaml.safe_load(sent["config"])
        sweep = {"name": SWEEP, "project": self._project(self.project)}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _SweepWithRuns(self, asked: Values) -> Values:
        if (asked["entity"], asked["project"], asked["sweep"]) != (ENTITY, self.project, SWEEP):
            return {"project": None}
        config = yaml.safe_dump(self.sweep)
        return {"project": {"sweep": {"id": SWEEP, "config": config, "runs": {"edges": []}}}}

    def _CreateAgent(self, _: Values) -> Values:
        return {"createAgent": {"agent": {"id": AGENT}}}

    def _Heartbeat(self, sent: Values) -> Values:
        commands: list[Values] = []
        is_idle = not json.loads(sent["runState"])
        if is_idle and self._to_run:
            name = next(iter(self._to_run))
            arguments = {key: {"value": value} for key, value in self._to_run.pop(name).items()}
            program = self.sweep["program"]
            commands = [{"type": "run", "run_id": name, "program": program, "args": arguments}]
        elif is_idle:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": AGENT}, "commands": json.dumps(commands)}}

    def _RunResumeStatus(self, asked: Values) -> Values:
        # No bucket: the run is new.
        return {"model": {**self._project(asked["project"]), "bucket": None}}

    def _UpsertBucket(self, sent: Values) -> Values:
        run = self._run(sent["name"])
        run.sweep = sent["sweep"] or run.sweep
        config = json.loads(sent["config"] or "{}")
        run.config |= {name: item["value"] for name, item in config.items()}
        bucket = {
            "id": sent["name"],
            "name": sent["name"],
            "displayName": sent["displayName"] or sent["name"],
            "config": sent["config"],
            "sweepName": run.sweep,
            "project": self._project(sent["project"]),
            "historyLineCount": 0,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, sent: Values) -> Values:
        urls = [{"name": name, "uploadUrl": f"{self.url}/uploads/{name}"} for name in sent["files"]]
        return {"createRunFiles": {"runID": sent["run"], "uploadHeaders": [], "files": urls}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def handle(self) -> None:
        # A client that has ended leaves its connections open.
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer = self.server.answer(self.command, self.path, body)
        content = json.dumps({} if answer is None else answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = _respond
