"""The engine's Unix socket, spoken to byte by byte: what it answers, refuses and survives."""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from page import changes
from ryot_metrics import Engine, EngineConfig, SamplingParams
from ryot_metrics.cli import main
from ryot_metrics.uds import Client, Eos, Token, UdsError, serve_uds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 30.0
COMMAND = [sys.executable, "-c", "import sys; from ryot_metrics.cli import main; sys.exit(main())"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A toy engine that holds long answers."""
    with Engine("toy", EngineConfig(ctx_size=100_000, parallel=4, max_queue=4)) as engine:
        yield engine


@pytest.fixture
def path(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """The socket of that engine."""
    with serve_uds(engine, tmp_path / "engine.sock"):
        yield tmp_path / "engine.sock"


class Raw:
    """A connection without any of the package's client code."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(os.fspath(path))

    def send(self, message: object) -> None:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.socket.sendall(struct.pack("<I", len(payload)) + payload)

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError(data)
            data += more
        return data

    def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.exactly(*struct.unpack("<I", self.exactly(4))))
        return event

    def answer(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The tokens, and what comes after them."""
        tokens = []
        while (event := self.next())["event"] == "token":
            tokens.append(event)
        return tokens, event

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        data = b""
        try:
            while more := self.socket.recv(65536):
                data += more
        except ConnectionResetError:  # it left something unread
            pass
        return data

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def raw(path: Path) -> Iterator[Raw]:
    """A connection."""
    with closing(Raw(path)) as raw:
        yield raw


def until_idle(engine: Engine) -> None:
    """Returns when no request holds anything of the engine any more."""
    deadline = time.monotonic() + PATIENCE
    while any(engine.stats()[key] for key in ("running", "waiting", "used_cells")):
        assert time.monotonic() < deadline, engine.stats()
        time.sleep(0.01)


def ask(raw: Raw, **fields: Any) -> None:
    raw.send({"id": "a", "prompt": "hello", **fields})


def test_an_answer_token_by_token(raw: Raw, engine: Engine) -> None:
    """Each token is an event, and their text is what the engine answers in the process."""
    expected = engine.generate("hello", SamplingParams(max_tokens=20, temperature=0))
    for name in ("first", 2):  # the connection can be used again
        ask(raw, id=name, max_tokens=20, metadata={"ignored": [1]})
        tokens, eos = raw.answer()
        assert {token["id"] for token in tokens} == {name}
        assert [token["token_id"] for token in tokens] == expected.token_ids
        text = "".join(token["text"] for token in tokens) + eos.pop("text", "")
        assert text == expected.text
        counts = {"prompt_tokens": 5, "completion_tokens": 20}
        assert eos == {"event": "eos", "id": name, "reason": "length", **counts}


def test_an_answer_as_a_whole(raw: Raw, engine: Engine) -> None:
    """Without `stream` there is one event; a very long text comes in few."""
    ask(raw, max_tokens=20, stream=False)
    expected = engine.generate("hello", SamplingParams(max_tokens=20, temperature=0))
    assert raw.next()["text"] == expected.text


def test_metrics_in_both_framings(path: Path) -> None:
    """A line gets one line, a frame one frame, and the connection ends."""
    for line in (b"metrics\n", b"/metrics\n", b"metrics\r\n"):
        with closing(Raw(path)) as raw:
            raw.socket.sendall(line)
            answer = raw.rest()
            assert answer.count(b"\n") == 1
            assert json.loads(answer)["active_sessions"] == 1
    for key in ("type", "event"):
        with closing(Raw(path)) as raw, closing(Raw(path)) as other:
            ask(other, max_tokens=1)
            other.answer()
            raw.send({key: "metrics"})
            event = raw.next()
            assert (event["event"], event["metrics"]["active_sessions"]) == ("metrics", 2)
            assert raw.rest() == b""


def test_the_scorecard_counts_what_was_answered(raw: Raw) -> None:
    """Its figures are of this engine: the tokens that went over the socket are in them."""
    ask(raw, max_tokens=7)
    raw.answer()
    raw.send({"type": "metrics"})
    metrics = raw.next()["metrics"]
    assert metrics["tokens_generated_total"] >= 7
    assert metrics["decode_calls"] >= 6
    assert metrics["ttft_ms"]["count"] >= 1


def test_any_split_of_the_bytes_is_understood(path: Path) -> None:
    """Byte by byte, a frame and a line are what they are as a whole."""
    payload = b'{"id":"a","prompt":"hello","max_tokens":2}'
    frame = struct.pack("<I", len(payload)) + payload
    for message, start in ((frame, b'{"event":"token"'), (b"metrics\n", b"{")):
        with closing(Raw(path)) as raw:
            for byte in message:
                raw.socket.sendall(bytes([byte]))
            first = raw.socket.recv(65536)
            assert first.removeprefix(first[:4] if message is frame else b"").startswith(start)


def test_a_short_line_is_a_line(raw: Raw) -> None:
    """Text that is shorter than a frame's length is answered as a line after a pause."""
    raw.socket.sendall(b"?\n")
    answer = json.loads(raw.rest())
    assert answer["code"] == "E_PROTO_BAD_REQUEST"
    assert "'?'" in answer["message"] or '"?"' in answer["message"]


def test_cancel(raw: Raw, engine: Engine) -> None:
    """A cancelled request ends at the next step; the connection goes on."""
    ask(raw, max_tokens=50_000)
    assert raw.next()["event"] == "token"
    raw.send({"event": "cancel", "id": "another"})  # no effect
    raw.send({"event": "cancel", "id": "a"})
    _, eos = raw.answer()
    assert eos["reason"] == "cancelled"
    until_idle(engine)
    raw.send({"event": "cancel", "id": "a"})  # too late, no effect
    ask(raw, max_tokens=1)
    assert raw.answer()[1]["reason"] == "length"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (struct.pack("<I", 0), "E_PROTO_INVALID_LEN"),
        (struct.pack("<I", 2**20 + 1), "E_PROTO_FRAME_TOO_LARGE"),
        (struct.pack("<I", 2**24 - 1), "E_PROTO_FRAME_TOO_LARGE"),
        (b"\xff\xff\xff\xff", "E_PROTO_FRAME_TOO_LARGE"),
        (b"\x04\0\0\0\xff\xfe{}", "E_PROTO_INVALID_UTF8"),
        (b'\x05\0\0\0{"id"', "E_PROTO_INVALID_JSON"),
        (b"\x02\0\0\0[]", "E_PROTO_BAD_REQUEST"),
        (b"\x02\0\0\0{}", "E_PROTO_BAD_REQUEST"),
    ],
)
def test_what_is_no_request_has_a_code(raw: Raw, sent: bytes, code: str) -> None:
    """A documented code and a sentence, for a header alone too; then the connection ends."""
    raw.socket.sendall(sent)
    event = raw.next()
    assert (event["event"], event["code"]) == ("error", code)
    assert event["message"]
    assert raw.rest() == b""


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prompt": None}, "E_PROTO_BAD_REQUEST", ["prompt", "missing"]),
        ({"prompt": ""}, "E_PROTO_BAD_REQUEST", ["prompt", "0 tokens"]),
        ({"temperature": 200}, "E_PROTO_BAD_REQUEST", ["temperature", "200", "0 to 100"]),
        ({"slo": {"target_ttft_ms": -5}}, "E_PROTO_BAD_REQUEST", ["ttft_ms", "-5"]),
        ({"priority": "now"}, "E_PROTO_BAD_REQUEST", ["priority", "now", "background"]),
        ({"prompt": "x" * 262_145}, "E_LIMIT_PROMPT_TOO_LARGE", ["262145", "max_prompt_bytes"]),
        ({"prompt": "x" * 150_000}, "E_LIMIT_PROMPT_TOO_LARGE", ["150000 tokens", "ctx_size"]),
    ],
)
def test_what_cannot_be_answered_is_named(
    raw: Raw, fields: dict[str, Any], code: str, words: list[str]
) -> None:
    """The error is about the request, and names value and limit."""
    ask(raw, **fields)
    event = raw.next()
    assert (event["id"], event["code"]) == ("a", code)
    assert all(word in event["message"] for word in words), event
    assert raw.rest() == b""


def test_one_request_at_a_time(raw: Raw, engine: Engine) -> None:
    """A second request while one runs is an error, which ends the first one too."""
    ask(raw, max_tokens=50_000)
    assert raw.next()["event"] == "token"
    ask(raw, id="b")
    _, error = raw.answer()
    assert (error["code"], error["id"]) == ("E_PROTO_BAD_REQUEST", "a")
    assert raw.rest() == b""
    until_idle(engine)


def test_a_full_queue_says_when_to_come_back(path: Path) -> None:
    """Who is turned away by a full queue has `retry_after` and keeps the connection."""
    busy = [Raw(path) for _ in range(8)]  # 4 run, 4 wait
    for raw in busy:
        ask(raw, max_tokens=20_000)
    with closing(Raw(path)) as late:
        deadline = time.monotonic() + PATIENCE
        while True:
            ask(late, max_tokens=1)
            _, event = late.answer()
            if event["event"] == "error":
                break
            assert time.monotonic() < deadline
        assert event["code"] == "E_LIMIT_QUEUE_FULL"
        assert event["retry_after"] > 0
        for raw in busy:
            raw.close()
        while event["event"] == "error":
            assert time.monotonic() < deadline
            ask(late, max_tokens=1)
            _, event = late.answer()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("inherited", [True, False])
@pytest.mark.parametrize("overload", ["reject", "relegate", "accept"])
def test_a_promise_is_judged_as_over_http(
    overload: str, inherited: bool, stream: bool, tmp_path: Path, live: Any
) -> None:
    """A first token that cannot come in time ends the same by either way, whoever promised it."""
    promise = {"ttft_ms": 0.01} if inherited else {}
    fields = {"prompt": "hello " * 300, "max_tokens": 2, "stream": stream}
    if not inherited:
        fields["slo"] = {"ttft_ms": 0.01}

    def over_http() -> bool:
        answer = httpx.post(f"{url}/v1/completions", json=fields)
        assert answer.status_code in (200, 429)
        assert ("retry-after" in answer.headers) == (answer.status_code == 429)
        assert ('"error"' in answer.text) == (answer.status_code == 429)
        return answer.status_code == 429

    def over_uds() -> bool:
        ask(raw, **fields)
        _, last = raw.answer()
        assert last.get("code") == ("E_LIMIT_SLO" if last["event"] == "error" else None)
        assert ("retry_after" in last) == (last["event"] == "error")
        return last["event"] == "error"

    config = EngineConfig(overload=overload, prefix_cache=False, **promise)
    path = tmp_path / "engine.sock"
    with Engine("toy", config) as engine, serve_uds(engine, path), closing(Raw(path)) as raw:
        url = live(engine)
        engine.generate(fields["prompt"], SamplingParams(max_tokens=2), ttft_ms=60_000.0)
        for way in (over_http, over_uds, over_http, over_uds):
            with changes() as change:
                refused = way()
            late = [
                change.sum("ryot_engine_slo_violations_total", slo="ttft", **{"class": name})
                for name in ("interactive", "background")
            ]
            expected = {"reject": [0, 0], "relegate": [0, 1], "accept": [1, 0]}
            assert (refused, late) == (overload == "reject", expected[overload]), way


def test_an_adapter_is_asked_for_by_name(tmp_path: Path) -> None:
    """`adapter` chooses it, as in the process; an unknown one is named with those there are."""
    path = tmp_path / "engine.sock"
    greedy = SamplingParams(max_tokens=4, temperature=0)
    with Engine("toy", adapters={"formal": "a", "pirate": ("b", 0.5)}) as engine:
        expected = [engine.generate("hello", greedy, adapter="pirate").token_ids]
        expected.append(engine.generate("hello", greedy).token_ids)
        with serve_uds(engine, path), closing(Raw(path)) as raw:
            found = []
            for fields in ({"adapter": "pirate"}, {"adapter": None}):
                ask(raw, max_tokens=4, **fields)
                found.append([token["token_id"] for token in raw.answer()[0]])
            assert found == expected
            assert found[0] != found[1]
            ask(raw, adapter="poet")
            event = raw.next()
    assert (event["id"], event["code"]) == ("a", "E_PROTO_BAD_REQUEST")
    assert 'adapter is "poet"; the model has: formal, pirate' in event["message"]


def test_who_goes_away_is_cancelled(path: Path, engine: Engine) -> None:
    """A connection closed in the middle of an answer frees the request's cells."""
    gone = [Raw(path) for _ in range(3)]
    for raw in gone:
        ask(raw, max_tokens=20_000)
        assert raw.next()["event"] == "token"
    assert engine.stats()["used_cells"] > 0
    for raw in gone:
        raw.close()
    until_idle(engine)


def test_who_has_said_all_is_answered(raw: Raw) -> None:
    """A client that closes only its own direction still gets its answer."""
    ask(raw, max_tokens=3)
    raw.socket.shutdown(socket.SHUT_WR)
    tokens, eos = raw.answer()
    assert (len(tokens), eos["reason"]) == (3, "length")
    assert raw.rest() == b""


def test_a_reader_that_stops_reading_is_closed(engine: Engine, tmp_path: Path) -> None:
    """Its answer is not kept without bound, nobody else waits, and its request ends."""
    path = tmp_path / "slow.sock"
    limits: dict[str, Any] = {"max_unsent_bytes": 10_000, "write_timeout": 0.3}
    with serve_uds(engine, path, **limits), closing(Raw(path)) as slow:
        ask(slow, max_tokens=50_000)
        with closing(Raw(path)) as other:
            ask(other, max_tokens=20)
            assert other.answer()[1]["reason"] == "length"
        until_idle(engine)
        with pytest.raises((EOFError, ConnectionResetError)):
            slow.answer()


def test_silence_ends(engine: Engine, tmp_path: Path) -> None:
    """Half a frame and an idle connection have their time, and a code at its end."""
    path = tmp_path / "idle.sock"
    with serve_uds(engine, path, idle_timeout=0.2, frame_timeout=0.1):
        for sent, name in ((b"", "idle_timeout"), (b"\x09\0\0\0{", "frame_timeout")):
            with closing(Raw(path)) as raw:
                raw.socket.sendall(sent)
                event = raw.next()
                assert event["code"] == "E_LIMIT_TIMEOUT"
                assert name in event["message"]
                assert raw.rest() == b""


def test_connections_over_the_limit(engine: Engine, tmp_path: Path) -> None:
    """Who never asked gives way; when all have asked, a new one is refused."""
    path = tmp_path / "full.sock"
    with serve_uds(engine, path, max_connections=2):
        silent, first, second = Raw(path), Raw(path), Raw(path)
        assert silent.rest() == b""
        for raw in (first, second):
            ask(raw, max_tokens=1)
            raw.answer()
        with closing(Raw(path)) as third:
            event = third.next()
            assert event["code"] == "E_LIMIT_CONNECTIONS"
            assert "2" in event["message"]
            assert third.rest() == b""
        ask(first, max_tokens=1)
        assert first.answer()[1]["reason"] == "length"
        for raw in (silent, first, second):
            raw.close()


def test_a_thousand_connections(path: Path) -> None:
    """Silent ones and half frames keep nobody out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    crowd = []
    for index in range(1000):
        crowd.append(Raw(path))
        if index % 2:
            crowd[-1].socket.sendall(b"\xff\0\0\0{")
        if index % 100 == 0:
            with closing(Raw(path)) as raw:
                ask(raw, max_tokens=2)
                assert raw.answer()[1]["reason"] == "length"
    for raw in crowd:
        raw.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_random_bytes_break_nothing(path: Path) -> None:
    """Whatever is sent, the next client is served; what is answered is a documented event."""
    chance = random.Random(7)
    shapes = [
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: struct.pack("<I", chance.randrange(2**21)) + chance.randbytes(50),
        lambda: b"\x10\0\0\0" + chance.randbytes(16),
        lambda: b'\x10\0\0\0{"id":' + chance.choice([b"1}", b'"a"']) + b" " * 20,
    ]
    for index in range(400):
        with closing(Raw(path)) as raw:
            raw.socket.sendall(shapes[index % len(shapes)]())
            raw.socket.shutdown(socket.SHUT_WR)
            answer = raw.rest()
            assert not answer or b'"code":"E_PROTO_' in answer, answer
    with closing(Raw(path)) as raw:
        ask(raw, max_tokens=2)
        assert raw.answer()[1]["reason"] == "length"


STUCK = """
import sys, time
from ryot_metrics import Engine
from ryot_metrics.uds import serve_uds

engine = Engine("toy")
server = serve_uds(engine, sys.argv[1])
start = time.monotonic()
sum(range(10**7))
n = int(10**7 * 3 / (time.monotonic() - start))
print("ready", flush=True)
sum(range(n))  # one call in C: nobody else has the GIL
print("through", flush=True)
"""


def test_it_answers_while_the_interpreter_is_stuck(tmp_path: Path) -> None:
    """A C call holds the GIL for seconds; metrics and answers come meanwhile."""
    path = tmp_path / "stuck.sock"
    command = [sys.executable, "-W", "ignore", "-c", STUCK, os.fspath(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout
        assert service.stdout.readline() == "ready\n"
        for _ in range(5):
            with closing(Raw(path)) as raw:
                ask(raw, max_tokens=10)
                assert raw.answer()[1]["reason"] == "length"
                raw.send({"type": "metrics"})
                assert raw.next()["metrics"]["active_sessions"] == 1
        said = select.select([service.stdout], [], [], 0)[0]
        assert not said, "it must have been stuck to the end of these requests"
        assert service.stdout.readline() == "through\n"
    assert not path.exists(), "the socket goes with the process"


def test_the_file(engine: Engine, tmp_path: Path) -> None:
    """It is its owner's alone; a dead server's is replaced, a live one's and others' are not."""
    path = tmp_path / "engine.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(os.fspath(path))
    with serve_uds(engine, path) as server:
        assert server.address == os.fspath(path)
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match=r"engine\.sock: another server listens there"):
            serve_uds(engine, path)
    server.shutdown()
    assert not path.exists()
    path.write_text("keep me")
    with pytest.raises(OSError, match=r"engine\.sock.*is not a socket"):
        serve_uds(engine, path)
    assert path.read_text() == "keep me"
    with pytest.raises(OSError, match=r"nowhere is not a directory"):
        serve_uds(engine, tmp_path / "nowhere" / "engine.sock")
    for limit, value in (("max_connections", 0), ("max_frame_bytes", 2**24), ("idle_timeout", 0)):
        with pytest.raises(ValueError, match=limit):
            serve_uds(engine, tmp_path / "other.sock", **{limit: value})


FORKED = """
import os, sys
from ryot_metrics import Engine, RyotError
from ryot_metrics.uds import Client, serve_uds

path = sys.argv[1]
server = serve_uds(Engine("toy"), path)
child = os.fork()
if child == 0:
    for use in (server.shutdown, lambda: server.address):
        try:
            use()
        except RyotError as error:
            assert str(os.getppid()) in str(error), error
        else:
            os._exit(1)
    del server
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
with Client(path) as client:
    assert len(list(client.generate("hello", max_tokens=2))) == 3
"""


def test_a_forked_child_takes_nothing_away(tmp_path: Path) -> None:
    """The child's handle says whose it is; the parent serves on."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, os.fspath(tmp_path / "f.sock")]
    subprocess.run(command, check=True, timeout=60)


def test_the_client(path: Path) -> None:
    """Events are typed, an answer's text is that of its events, errors are raised."""
    with Client(path, timeout=PATIENCE) as client:
        *tokens, eos = client.generate("hello", max_tokens=4)
        assert all(isinstance(token, Token) for token in tokens)
        assert isinstance(eos, Eos)
        assert (len(tokens), eos.reason, eos.prompt_tokens) == (4, "length", 5)
        answer = client.generate("hello", id="mine", max_tokens=50_000)
        next(answer)
        answer.cancel()
        *_, eos = answer
        assert (eos.id, getattr(eos, "reason", "")) == ("mine", "cancelled")
        assert client.metrics()["active_sessions"] == 1
    with Client(path) as client, pytest.raises(UdsError, match="top_p is 7") as refused:
        list(client.generate("hello", top_p=7))
    assert (refused.value.code, refused.value.id) == ("E_PROTO_BAD_REQUEST", 1)
    with Client(path) as client, pytest.raises(UdsError, match="TOO_LARGE"):
        list(client.generate("x" * 2**21))
    with pytest.raises(FileNotFoundError, match=r"none\.sock"):
        Client(path.parent / "none.sock")


def test_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`uds` prints the scorecard, and an answer as it comes; errors are one line."""
    assert main(["uds", str(path), "metrics"]) == 0
    assert json.loads(capsys.readouterr().out)["active_sessions"] == 1
    options = "--max-tokens 6 --seed 1 --temperature 0 --priority background --target-tbt-ms 90"
    assert main(["uds", str(path), "generate", "--prompt", "hello", *options.split()]) == 0
    with Client(path) as client:
        expected = "".join(event.text for event in client.generate("hello", max_tokens=6))
    assert capsys.readouterr().out == f"{expected}\n"
    assert main(["uds", str(path), "generate", "--prompt", "hello", "--top-p", "3"]) == 2
    assert "top_p is 3" in capsys.readouterr().err
    assert main(["uds", str(path.parent / "none.sock"), "metrics"]) == 2
    assert "none.sock" in capsys.readouterr().err


def test_ctrl_c_cancels(path: Path, engine: Engine) -> None:
    """The command tells the engine, and ends with what it has."""
    line = ["uds", str(path), "generate", "--prompt", "hello", "--max-tokens", "50000"]
    with subprocess.Popen([*COMMAND, *line], stdout=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stdout.read(5)
        command.send_signal(signal.SIGINT)
        assert command.stdout.read().endswith(b"\n")
    assert command.returncode == 130
    until_idle(engine)


def test_serve_opens_it(tmp_path: Path) -> None:
    """`serve --uds` answers there, and removes the file at its end."""
    path = tmp_path / "engine.sock"
    line = ["serve", "-m", "toy", "--port", "0", "--uds", str(path)]
    with subprocess.Popen([*COMMAND, *line], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout
        assert any(str(path) in line for line in service.stdout)
        with Client(path) as client:
            assert len(list(client.generate("hello", max_tokens=2))) == 3
        service.send_signal(signal.SIGTERM)
        service.stdout.read()
    assert service.returncode == 0
    assert not path.exists()
