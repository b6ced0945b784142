"""Parties as real processes: what each is handed, what happens when one of them dies, and that none is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from parties import LAYERS, dense_relu, in_threads, sockets, workers

from pi_compiler.errors import ExecutionError, ParameterError
from pi_compiler.ir.two_party import Traffic, traffic
from pi_compiler.runtime.mpc import launcher, library
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.handout import public_view
from pi_compiler.runtime.mpc.job import Address, Job
from pi_compiler.runtime.mpc.launcher import Link, Parties, Plan, run_parties
from pi_compiler.runtime.mpc.sim import RingEngine
from pi_compiler.runtime.mpc.walk import execute

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="crypten is not installed")


def test_processes_compute_what_was_predicted_and_know_only_their_own(monkeypatch, capfd):
    """One run for several claims, because starting three interpreters takes seconds."""
    handed: list[tuple[int, bytes]] = []
    plain = launcher.write_frame

    def recorded(stream, head, arrays=None):
        handed.append((head["rank"], b"".join(np.ascontiguousarray(a).tobytes() for a in (arrays or {}).values())))
        plain(stream, head, arrays)

    monkeypatch.setattr(launcher, "write_frame", recorded)
    monkeypatch.setenv("PI_DEBUG", "1")  # lets what the processes log through
    program = dense_relu()
    x = np.random.default_rng(4).normal(size=(2, 1, 24))
    backend = CryptenMpc()
    outputs, trace = backend.run(program, {"x": x})

    wanted, _ = execute(program, RingEngine(program), {"x": x})
    assert np.abs(outputs["y"] - wanted["y"]).max() <= 2.0**-15
    predicted = dict.fromkeys(LAYERS, Traffic())
    for instr, cost in zip(program.instrs, traffic(program), strict=True):
        predicted[LAYERS[instr.origin]] += cost
    for layer, cost in predicted.items():
        spent = trace.layers[layer].traffic
        assert (spent.rounds, spent.bytes_sent) == (cost.rounds, 2 * (cost.to_model + cost.to_data)), layer

    weight = program.consts[0].values.tobytes()
    by_rank = dict(handed)
    assert sorted(by_rank) == [0, 1, 2]
    assert [weight in by_rank[rank] for rank in range(3)] == [True, False, False]
    assert [x.tobytes() in by_rank[rank] for rank in range(3)] == [False, True, False]
    logged = "".join(capfd.readouterr())
    assert not any(f"{v:.5f}"[:7] in logged for v in x.ravel())
    assert not workers()


def test_survivors_of_a_killed_party_say_so_and_end():
    with Parties(dense_relu(repeats=200), {"x": np.zeros((3, 1, 24))}, Plan(timeout=10, link=Link(2e-3, 1e8))) as run:
        assert run.met.wait(120)
        time.sleep(0.2)
        run.processes[1].kill()
        start = time.monotonic()
        with pytest.raises(ExecutionError) as caught:
            run.wait()
    assert time.monotonic() - start < 10
    said = str(caught.value)
    assert "party 0 (model owner): " in said
    assert said.count("party 1 (data owner) is gone") == 2
    assert "party 1 (data owner): its process was killed by signal 9" in said
    assert not workers()


@pytest.mark.slow
def test_a_party_that_hangs_is_ended_after_the_time_out():
    with Parties(dense_relu(repeats=100), {"x": np.zeros((3, 1, 24))}, Plan(timeout=2, link=Link(2e-3, 1e8))) as run:
        assert run.met.wait(120)
        os.kill(run.processes[0].pid, signal.SIGSTOP)
        with pytest.raises(ExecutionError) as caught:
            run.wait()
    assert "party 0 (model owner) sent nothing for 2 seconds" in str(caught.value)
    assert "party 0 (model owner): did not end within the time-out and was killed" in str(caught.value)
    assert not workers()


@pytest.mark.slow
def test_parties_end_with_the_process_that_started_them(tmp_path: Path):
    """Whoever kills the command must not have to look for its children."""
    script = tmp_path / "starts.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import numpy as np\n"
        "from parties import dense_relu\n"
        "from pi_compiler.runtime.mpc.launcher import Link, Plan, run_parties\n"
        "run_parties(dense_relu(repeats=300), {'x': np.zeros((9, 1, 24))}, Plan(link=Link(5e-3, 1e8)))\n"
    )
    here = Path(__file__).parent
    started = subprocess.Popen([sys.executable, str(script), str(here), str(here.parent)])
    deadline = time.monotonic() + 60
    while len(found := psutil.Process(started.pid).children()) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(found) == 4  # three parties and the relay
    started.kill()
    started.wait()
    gone, alive = psutil.wait_procs(found, timeout=20)
    assert not alive
    assert len(gone) == 4


@pytest.mark.slow
def test_bytes_counted_are_those_of_the_loopback_interface():
    """In a network namespace of its own nothing else crosses the interface; headers and acknowledgments take a bit.

    On a busy machine packets are smaller and some are sent twice.
    """
    here = Path(__file__).parent
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import subprocess; subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "import numpy as np\n"
        "from parties import dense_relu\n"
        "from pi_compiler.runtime.mpc.launcher import run_parties\n"
        "def counted():\n"
        "    line = next(l for l in open('/proc/net/dev') if l.strip().startswith('lo:'))\n"
        "    return int(line.split(':')[1].split()[0])\n"
        "before = counted()\n"
        "found = run_parties(dense_relu(2048, 2), {'x': np.zeros((1, 1, 2048))})\n"
        "sent = sum(p.sent for r in found for p in (r.setup, r.offline, r.online))\n"
        "print(sent, counted() - before)\n"
    )
    command = [sys.executable, "-c", code, str(here), str(here.parent)]
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--net", *command], capture_output=True, text=True, timeout=120
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode and "unshare" in done.stderr:
        pytest.skip("this machine makes no namespaces")
    sent, crossed = map(int, done.stdout.split())
    assert sent > 30_000_000
    assert sent <= crossed <= 1.06 * sent


# --- meeting -------------------------------------------------------------------------------------


def test_a_port_in_use_is_named():
    from pi_compiler.runtime.mpc.party import run_party

    taken, peers = sockets()
    with taken[0], taken[1], pytest.raises(ExecutionError, match="cannot listen on "):
        run_party(Job(0, dense_relu(), peers, None, dealer=False, timeout=1))


def test_an_absent_party_is_named():
    from pi_compiler.runtime.mpc.party import run_party

    free, peers = sockets()
    for s in free:
        s.close()
    public = public_view(dense_relu())
    x = {"x": np.zeros((1, 1, 24))}
    with pytest.raises(ExecutionError, match=r"party 0 \(model owner\) does not answer at 127.0.0.1.* within 0.5"):
        run_party(Job(1, public, peers, x, dealer=False, timeout=0.5))
    with pytest.raises(ExecutionError, match=r"party 1 \(data owner\) and party 2 \(dealer\) did not connect within"):
        run_party(Job(0, dense_relu(), peers, None, timeout=0.5))


def test_strangers_at_the_port_are_ignored():
    """A port scanner must not end a run, nor be taken for a party."""
    program, x = dense_relu(), {"x": np.zeros((1, 1, 24))}
    made = socket.create_server
    knocked: list[socket.socket] = []

    def listens_and_is_knocked_at(address, **more):
        found = made(address, **more)
        stranger = socket.create_connection(found.getsockname()[:2])
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        knocked.append(stranger)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_server", listens_and_is_knocked_at)
        found = in_threads(program, x)
    assert len(knocked) == 2
    assert not [party for party in found if isinstance(party, BaseException)], found


def test_a_run_may_take_longer_than_the_time_out(monkeypatch):
    """The dealer has dealt long before the end, and the data owner waits while the dealer deals: neither is silence."""
    from pi_compiler.runtime.mpc.engine import PartyEngine

    plain = PartyEngine.step

    def slow(self, number, operands):
        time.sleep(0.3)
        return plain(self, number, operands)

    monkeypatch.setattr(PartyEngine, "step", slow)
    found = in_threads(dense_relu(repeats=3), {"x": np.zeros((1, 1, 24))}, timeout=2.5)
    assert not [party for party in found if isinstance(party, BaseException)], found
    assert found[0].online.seconds > 4


@pytest.mark.parametrize("parties", [0, 1, 3])
def test_another_number_of_parties_is_refused(parties):
    with pytest.raises(ParameterError, match="the protocol is one of two"):
        Plan(parties=parties)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:99999", ":80"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(ParameterError, match="is no address"):
        Address.parse(text)


def test_parties_that_cannot_import_are_reported(monkeypatch):
    """A broken installation is said to be one, on every party, and nothing hangs."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExecutionError, match="ended without a report, exit code 1"):
        run_parties(dense_relu(), {"x": np.zeros((1, 1, 24))}, Plan(timeout=2))
