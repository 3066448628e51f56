"""Outputs that misbehave. Each function is one's turn, as in receivers.py."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import time

from harness import PATIENCE_S, Tracer, closes_of, compare_with_diary, flat_record, lines_of, program, wait_for

ENDED_BY_READER = 0
CANNOT_WRITE = 1


def head(run):
    """`| head -1`: silent, status 0, and at once."""
    tracer = Tracer(run, "--json", stdout=subprocess.PIPE)
    first = subprocess.run(["head", "-1"], stdin=tracer.process.stdout, capture_output=True, text=True).stdout
    tracer.process.stdout.close()
    assert json.loads(first)["event"] == "start", first
    began = time.monotonic()
    assert tracer.process.wait(PATIENCE_S) == ENDED_BY_READER
    # Nothing happens, and it ends nevertheless.
    assert time.monotonic() - began < 1
    return 1, 1, ""


def full(run):
    """`> /dev/full`, and a tmpfs that runs full: one line that says how much is missing, status 1."""
    with open("/dev/full", "w") as out:
        errors = refused(run, "--json", stdout=out)
    assert "No space left" in errors, errors
    tmpfs = f"{run.folder}/small"
    os.mkdir(tmpfs)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmpfs], check=True)
    path = f"{tmpfs}/lines.json"
    tracer = Tracer(run, "--json", "-o", path, stderr=subprocess.PIPE)
    load(run, 1000)
    assert tracer.process.wait(PATIENCE_S) == CANNOT_WRITE
    errors = tracer.process.stderr.read().decode()
    # What is there is whole lines, but for the last one that found no room.
    text = pathlib.Path(path).read_text()
    whole = [json.loads(line) for line in text.split("\n")[:-1]]
    subprocess.run(["umount", tmpfs], check=True)
    assert "No space left" in errors and "not written" in errors, errors
    return len(whole), len(whole), errors.strip().replace("\n", " | ")


def refused(run, *args, stdout):
    command = [run.options.tcptrace, "-q", *args]
    out = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert out.returncode == CANNOT_WRITE, out
    return out.stderr


def fifo(run):
    """A FIFO without a reader: it waits for one, and a signal ends the wait."""
    path = f"{run.folder}/fifo"
    os.mkfifo(path, 0o600)
    command = [run.options.tcptrace, "-q", "--json", "-o", path]
    waiting = run.beside(*command)
    status = f"/proc/{waiting.pid}/wchan"
    wait_for("a tracer that waits", lambda: "partner" in pathlib.Path(status).read_text())
    waiting.send_signal(signal.SIGINT)
    ended = waiting.wait(PATIENCE_S)
    assert ended in (-signal.SIGINT, 0), ended
    late = run.beside(*command)
    with open(path) as reader:
        assert json.loads(reader.readline())["event"] == "start"
    assert late.wait(PATIENCE_S) == ENDED_BY_READER
    return 1, 1, ""


LOGROTATE = """{folder}/logs/lines.json {{
    size 1
    rotate 50
    create 0640 nobody nogroup
    postrotate
        kill -HUP $(cat {folder}/pid)
    endscript
}}
"""


def logrotate(run):
    """The real one, again and again in a storm, behind the fence: each record is in one file, whole."""
    path = program("logrotate", "logrotate")
    logs = pathlib.Path(run.folder, "logs")
    logs.mkdir(0o755)
    config = pathlib.Path(run.folder, "logrotate.conf")
    config.write_text(LOGROTATE.format(folder=run.folder))
    config.chmod(0o644)
    tracer = Tracer(run, "--json", "-s", "-o", logs / "lines.json")
    pathlib.Path(run.folder, "pid").write_text(str(tracer.process.pid))
    rights = pathlib.Path(f"/proc/{tracer.process.pid}/status").read_text()
    rotations = f"while sleep 0.3; do {path} -s {run.folder}/state {config}; done"
    rotating = run.beside("sh", "-c", rotations)
    diary, counted = run.load()
    rotating.terminate()
    rotating.wait()
    tracer.end()
    files = sorted(logs.iterdir())
    assert len(files) >= 3, files
    assert "NoNewPrivs:\t1" in rights, rights
    records = [record for file in files for record in lines_of(file)]
    compare_with_diary({c: flat_record(r) for c, r in closes_of(records).items()}, diary, counted)
    return len(records), len(files), "logrotate"


def killed(run):
    """kill -9 of the tracer and its restart on the same file: no torn line but the last one of the killed."""
    path = f"{run.folder}/lines.json"
    storm = run.beside("python3", str(pathlib.Path(__file__).parent / "load.py"), str(run.options.connections),
                       str(run.options.rate), f"{run.folder}/diary")
    begins = 0
    while storm.poll() is None:
        tracer = Tracer(run, "--json", "-s", "-o", path)
        begins += 1
        time.sleep(0.7)
        tracer.process.kill()
        tracer.process.wait()
    tracer = Tracer(run, "--json", "-s", "-o", path)
    tracer.end()
    events, torn = collections.Counter(), 0
    for line in pathlib.Path(path).read_bytes().split(b"\n")[:-1]:
        try:
            events[json.loads(line)["event"]] += 1
        except ValueError:
            torn += 1
    assert torn <= begins and events["start"] + torn >= begins + 1, (torn, begins, events)
    assert events["close"] > 0 and events["end"] == 1, events
    return events.total(), begins, f"{torn} torn"


def load(run, number):
    numbers = [str(number), str(run.options.rate), f"{run.folder}/unread"]
    subprocess.run(["python3", pathlib.Path(__file__).parent / "load.py", *numbers], check=True)


OUTPUTS = {each.__name__: each for each in (head, full, fifo, logrotate, killed)}
