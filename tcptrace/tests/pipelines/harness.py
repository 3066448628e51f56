"""What the receivers' turns have in common: the tracer, the load, and what records are compared with."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 60


class Impossible(Exception):
    """What is not here, and what installs it."""


def wait_for(what, condition):
    """Its first true result."""
    end = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < end, f"no {what} within {PATIENCE_S} s"
        time.sleep(0.1)
    return result


def program(name, package):
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/lib/systemd")
    if not path:
        raise Impossible(f"no {name} here: apt-get install {package}")
    return path


def module(name, package):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        raise Impossible(f"no module {name} here: pip install {package}") from None


class Ftrace:
    """How many connections have ended, as the kernel's own log has it."""

    def __init__(self):
        tracing = pathlib.Path("/sys/kernel/tracing")
        if not (tracing / "instances").exists():
            subprocess.run(["mount", "-t", "tracefs", "tracefs", tracing], check=True)
        self.folder = tracing / f"instances/pipelines-{os.getpid()}"
        self.folder.mkdir()
        (self.folder / "buffer_size_kb").write_text("32768")
        event = self.folder / "events/sock/inet_sock_set_state"
        ports = "||".join(f"{end}=={port}" for end in ("sport", "dport") for port in (8300, 8301))
        (event / "filter").write_text(f"newstate==7&&oldstate!=10&&({ports})")
        (event / "enable").write_text("1")

    def count(self):
        (self.folder / "events/sock/inet_sock_set_state/enable").write_text("0")
        lost = sum(
            int(line.split()[-1])
            for stats in self.folder.glob("per_cpu/cpu*/stats")
            for line in stats.read_text().splitlines()
            if line.startswith(("overrun", "dropped"))
        )
        number = sum("inet_sock_set_state:" in line for line in (self.folder / "trace").open())
        assert lost == 0, f"ftrace lost {lost}"
        return number


class Tracer:
    """A tracer of the load, from READY=1 on."""

    def __init__(self, run, *args, stdout=subprocess.DEVNULL, stderr=None):
        path = f"{run.folder}/notify"
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(path)
        notify.settimeout(PATIENCE_S)
        netns = re.sub(r"\D", "", os.readlink("/proc/self/ns/net"))
        self.process = subprocess.Popen(
            [run.options.tcptrace, "-N", netns, "--port", "8300,8301", "--no-existing", "-q", "--fail-on-loss", *args],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "NOTIFY_SOCKET": path},
        )
        run.others.append(self.process)
        while b"READY=1" not in notify.recv(4096):
            pass
        os.unlink(path)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_S)
        assert status == 0, f"tcptrace ended with {status} (4: something was lost)"


class Run:
    """One receiver's turn."""

    def __init__(self, options):
        self.options = options
        self.folder = tempfile.mkdtemp(prefix="tcptrace-pipelines-")
        self.others = []

    def beside(self, *command, **more):
        process = subprocess.Popen(command, **more)
        self.others.append(process)
        return process

    def load(self):
        """Makes the connections. Returns the diary, and how many ends ftrace has counted."""
        ftrace = Ftrace()
        diary = f"{self.folder}/diary"
        numbers = [str(self.options.connections), str(self.options.rate)]
        try:
            subprocess.run([sys.executable, HERE / "load.py", *numbers, diary], check=True)
            number = ftrace.count()
        finally:
            ftrace.folder.rmdir()
        return lines_of(diary), number

    def clear(self):
        for process in reversed(self.others):
            process.terminate()
            process.wait(PATIENCE_S)
        shutil.rmtree(self.folder)


def lines_of(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def flat(value):
    """A value as CSV and the journal have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ";".join(f"{name}={flat(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ";".join(map(flat, value))
    return str(value)


def flat_record(record):
    return {name: flat(value) for name, value in record.items()}


def ends(record):
    return tuple(str(record[name]) for name in ("laddr", "lport", "raddr", "rport"))


def closes_of(records):
    """By connection; without the listener's."""
    closes = [record for record in records if record["event"] == "close" and record["role"] != "listener"]
    by_conn = {record["conn"]: record for record in closes}
    assert len(by_conn) == len(closes), "a connection has ended twice"
    return by_conn


OUTCOMES = {
    # kind: of the client, of the server
    "client": (("normal", "local"), ("normal", "remote")),
    "server": (("normal", "remote"), ("normal", "local")),
    "aborted": (("reset_sent", "local"), ("reset_received", "remote")),
    "refused": (("refused", None), None),
}


def compare_with_diary(closes, diary, counted):
    """What records say is what the process itself knows, and they are as many as ftrace has counted."""
    assert len(closes) == counted, f"{len(closes)} ends, ftrace has counted {counted}"
    by_ends = {ends(close): close for close in closes.values()}
    assert len(by_ends) == len(closes), "two connections with the same ends"
    for entry in diary:
        local, remote = ends(entry)[:2], ends(entry)[2:]
        of_client, of_server = OUTCOMES[entry["kind"]]
        close = by_ends.pop(local + remote)
        check_end(close, entry, "client", of_client, entry["tx"], entry["rx"])
        if of_server:
            close = by_ends.pop(remote + local)
            check_end(close, entry, "server", of_server, entry["rx"], entry["tx"])
    assert not by_ends, f"ends of nobody's: {list(by_ends)[:5]}"


def check_end(close, entry, role, outcome, sent, received):
    known = {
        "role": role, "pid": entry["pid"], "comm": "python3", "reason": outcome[0], "tx_bytes": sent, "rx_bytes": received,
    }
    if outcome[1]:
        known["closed_by"] = outcome[1]
    for name, value in known.items():
        assert str(close.get(name, "")) == str(value), f"{name} is not {value}: {close}\n{entry}"
    # In TIME_WAIT or closed: at the latest when the other side has closed as well.
    end_us = int(close["mono_us"])
    assert entry["begin_us"] <= end_us - int(close["duration_us"]) + 1, f"{close}\n{entry}"
    assert end_us <= entry["end_us"] + 1_000_000, f"{close}\n{entry}"


def same(name, written, arrived):
    """Compares records that were flattened, by connection or one by one."""
    assert len(written) == len(arrived), f"{name}: {len(arrived)} of {len(written)} records arrived"
    fields = 0
    pairs = zip(written, arrived) if isinstance(written, list) else ((written[key], arrived[key]) for key in written)
    for one, other in pairs:
        assert one == other, f"{name}: {set(one.items()) ^ set(other.items())}"
        fields += len(one)
    return fields
