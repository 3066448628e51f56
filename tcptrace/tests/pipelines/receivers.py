"""The receivers. Each function is one's turn, and returns how many records arrived, how many values were compared,
and the receiver's version."""

import collections
import csv
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from importlib.metadata import version as package_version

from harness import (
    HERE, PATIENCE_S, Tracer, closes_of, compare_with_diary, flat, flat_record, lines_of, module, program, same, wait_for,
)

def rsyslog(run):
    path = program("rsyslogd", "rsyslog")
    lines = f"{run.folder}/lines.json"
    pathlib.Path(lines).touch(0o600)
    config = pathlib.Path(run.folder, "rsyslog.conf")
    config.write_text((HERE / "rsyslog.conf").read_text().replace("FOLDER", run.folder))
    run.beside(path, "-n", "-f", config, "-i", f"{run.folder}/rsyslog.pid")
    tracer = Tracer(run, "--json", "-s", "-o", lines)
    diary, counted = run.load()
    tracer.end()
    written = {conn: flat_record(close) for conn, close in closes_of(lines_of(lines)).items()}
    compare_with_diary(written, diary, counted)
    out = pathlib.Path(run.folder, "rsyslog.out")
    # One more: the listener's.
    wait_for("records in rsyslog's file", lambda: out.exists() and out.read_text().count("\n") > len(written))
    arrived = {}
    for close in closes_of(lines_of(out)).values():
        # What rsyslog knows of the message stands beside it.
        arrived[close["conn"]] = {name: flat(value) for name, value in close.items() if name in written[close["conn"]]}
    return len(arrived), same("rsyslog", written, arrived), version(path, "-v")


def journald(run):
    path = program("systemd-journald", "systemd")
    journalctl = program("journalctl", "systemd")
    # A journal of our own, in this mount namespace.
    for folder in ("/run/systemd", "/run/log"):
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    os.makedirs("/run/systemd/journal")
    os.makedirs("/run/systemd/journald.conf.d")
    os.makedirs("/run/log/journal")
    settings = "[Journal]\nStorage=volatile\nRateLimitBurst=0\nRuntimeMaxUse=1G\n"
    pathlib.Path("/run/systemd/journald.conf.d/pipelines.conf").write_text(settings)
    run.beside(path)
    wait_for("socket of journald", lambda: os.path.exists("/run/systemd/journal/socket"))
    lines = f"{run.folder}/lines.json"
    tracer = Tracer(run, "--journald", "-s", "--json", "-o", lines)
    diary, counted = run.load()
    tracer.end()
    written = {conn: flat_record(close) for conn, close in closes_of(lines_of(lines)).items()}
    compare_with_diary(written, diary, counted)

    def entries():
        command = [journalctl, "-D", "/run/log/journal", "--no-pager", "-o", "json", "-t", "tcptrace", "TCPTRACE_EVENT=close"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return out.splitlines() if out.count("\n") > len(written) else None

    arrived = {}
    for entry in map(json.loads, wait_for("entries in the journal", entries)):
        record = {name[9:].lower(): value for name, value in entry.items() if name.startswith("TCPTRACE_")}
        record |= {"pid": entry["OBJECT_PID"], "v": "1"}
        if record["role"] != "listener":
            assert entry["PRIORITY"] == ("6" if record["reason"] == "normal" else "5"), entry
            arrived[record["conn"]] = record
    return len(arrived), same("journald", written, arrived), version(journalctl, "--version")


def prometheus(run):
    path = program("prometheus", "prometheus")
    promtool = program("promtool", "prometheus")
    config = pathlib.Path(run.folder, "prometheus.yml")
    config.write_text("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: tcptrace\n"
                      "    static_configs: [{targets: ['127.0.0.1:9435']}]\n")
    run.beside(path, f"--config.file={config}", f"--storage.tsdb.path={run.folder}/tsdb",
               "--web.listen-address=127.0.0.1:9490", stderr=subprocess.DEVNULL)
    lines = f"{run.folder}/lines.json"
    tracer = Tracer(run, "--prometheus", "127.0.0.1:9435", "--json", "-o", lines)
    diary, counted = run.load()

    def ask(query):
        url = "http://127.0.0.1:9490/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url) as answer:
            found = json.load(answer)["data"]["result"]
        drop = ("__name__", "instance", "job")
        labels = lambda metric: tuple(sorted((k, v) for k, v in metric.items() if k not in drop))
        return {labels(each["metric"]): float(each["value"][1]) for each in found}

    total = 'sum(tcptrace_connections_total{role!="listener"})'
    wait_for("ends at Prometheus", lambda: ask(total).get((), 0) >= counted)
    # The scrape that follows has all the rest.
    time.sleep(2.5)
    records = lines_of(lines)
    closes = closes_of(records)
    compare_with_diary({conn: flat_record(close) for conn, close in closes.items()}, diary, counted)
    numbers = 0

    def check(query, expected):
        nonlocal numbers
        found = {labels: number for labels, number in ask(query).items() if number}
        assert found == expected, f"{query}: {found}, and not {expected}"
        numbers += len(expected)

    every = [record for record in records if record["event"] == "close"]
    ended = collections.Counter(
        tuple(sorted({"role": c["role"], "reason": c["reason"], "process": c["comm"]}.items())) for c in every)
    check("tcptrace_connections_total", ended)
    states = collections.Counter((("state", r["new"]),) for r in records if r["event"] == "transition")
    check("tcptrace_transitions_total", states)
    established = [c for c in closes.values() if c["reason"] != "refused"]
    for name, field, of in [
        ("connect", "connect_us", established), ("accept_wait", "accept_wait_us", closes.values()),
        ("connection_duration", "duration_us", closes.values()),
    ]:
        us = [c[field] for c in of if field in c]
        check(f"tcptrace_{name}_seconds_count", {(): len(us)})
        (number,) = ask(f"tcptrace_{name}_seconds_sum").values()
        assert abs(number - sum(us) / 1e6) < 1e-6 * len(us), f"{name}: {number}, {sum(us)} us"
        buckets = ask(f"tcptrace_{name}_seconds_bucket")
        for ((_, bound),), number in buckets.items():
            below = sum(each / 1e6 <= float(bound) for each in us)
            # Whole microseconds on one side of a bound may be more on the other.
            assert abs(number - below) <= 1, f"{name} up to {bound}: {number}, {below}"
        numbers += 1 + len(buckets)
    for direction, field in [("sent", "tx_bytes"), ("received", "rx_bytes")]:
        check(f'tcptrace_bytes_total{{direction="{direction}"}}',
              {(("direction", direction),): sum(c[field] for c in closes.values())})
    with urllib.request.urlopen("http://127.0.0.1:9435/metrics") as answer:
        found = subprocess.run([promtool, "check", "metrics"], input=answer.read(), capture_output=True)
    assert found.returncode == 0 and not found.stderr, found
    tracer.end()
    return len(closes), numbers, version(path, "--version")


def duckdb(run):
    engine = module("duckdb", "duckdb")
    lines, rows = f"{run.folder}/lines.json", f"{run.folder}/lines.csv"
    tracers = [Tracer(run, "--json", "-o", lines), Tracer(run, "--format", "csv", "-s", "-o", rows)]
    diary, counted = run.load()
    for tracer in tracers:
        tracer.end()
    written = lines_of(lines)
    compare_with_diary({c: flat_record(r) for c, r in closes_of(written).items()}, diary, counted)
    cells = 0
    columns = sorted({name for record in written for name in record if name not in ("hooks", "filters", "states", "options")})
    query = ", ".join(f'"{column}"' for column in columns)
    types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
    found = engine.sql(f"SELECT {query} FROM read_json('{lines}', format = 'newline_delimited', columns = {{{types}}})")
    for record, row in zip(written, found.fetchall(), strict=True):
        for column, cell in zip(columns, row):
            expected = flat(record[column]) if column in record else None
            assert cell == expected, f"{column}: {cell}, {record}"
            cells += 1
    # CSV as two foreign parsers read it: the same cells, and what the diary says.
    with open(rows, newline="") as file:
        by_csv = list(csv.reader(file, strict=True))
    found = engine.sql(f"SELECT * FROM read_csv('{rows}', all_varchar = true, header = true, strict_mode = true)")
    assert found.columns == by_csv[0]
    table = found.fetchall()
    for one, other in zip(by_csv[1:], table, strict=True):
        assert one == [cell or "" for cell in other], f"{one}\n{other}"
        cells += len(one)
    records = [{name: cell for name, cell in zip(by_csv[0], row) if cell} for row in by_csv[1:]]
    compare_with_diary(closes_of(records), diary, counted)
    return len(written) + len(table), cells, engine.__version__


def kafka(run):
    path = program("kcat", "kcat")
    client = module("confluent_kafka", "confluent-kafka")
    # librdkafka brings a cluster of its own for tests.
    cluster = client.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "none"})
    brokers = ",".join(f"{b.host}:{b.port}" for b in cluster.list_topics(timeout=10).brokers.values())
    lines, arrived, ended = f"{run.folder}/lines.json", [], threading.Event()
    # It keeps 5 MB of each partition: they are read while they come.
    reader = threading.Thread(target=consume, args=(client, brokers, arrived, ended), daemon=True)
    reader.start()
    tee = run.beside("tee", lines, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    kcat = run.beside(path, "-P", "-b", brokers, "-t", "tcp", stdin=tee.stdout)
    tracer = Tracer(run, "--json", stdout=tee.stdin)
    tee.stdin.close()
    tee.stdout.close()
    diary, counted = run.load()
    tracer.end()
    assert kcat.wait(PATIENCE_S) == 0
    written = lines_of(lines)
    compare_with_diary({c: flat_record(r) for c, r in closes_of(written).items()}, diary, counted)
    try:
        wait_for("messages", lambda: len(arrived) >= len(written))
    finally:
        ended.set()
        reader.join()
    key = lambda record: json.dumps(record, sort_keys=True)
    fields = same("kafka", sorted(written, key=key), sorted(arrived, key=key))
    return len(arrived), fields, f"{version(path, '-V')}, librdkafka {client.libversion()[0]}"


def consume(client, brokers, arrived, ended):
    consumer = client.Consumer({"bootstrap.servers": brokers, "group.id": "pipelines", "auto.offset.reset": "earliest"})
    consumer.subscribe(["tcp"])
    while not ended.is_set():
        arrived.extend(json.loads(each.value()) for each in consumer.consume(10_000, 0.2) if not each.error())
    consumer.close()


CONVENTIONS = {
    "network.type": "family", "network.local.address": "laddr", "network.local.port": "lport",
    "network.peer.address": "raddr", "network.peer.port": "rport", "process.pid": "pid",
    "process.parent_pid": "ppid", "process.user.id": "uid", "process.executable.path": "exe",
    "container.id": "container", "k8s.pod.uid": "pod_uid", "error.type": "errno",
}
STATES = {"CLOSE": "closed", "SYN_RECV": "syn_received", "FIN_WAIT1": "fin_wait_1", "FIN_WAIT2": "fin_wait_2"}


def otlp(run):
    package = module("opentelemetry.proto.collector.logs.v1.logs_service_pb2", "opentelemetry-proto")
    server = run.beside(sys.executable, HERE / "otlp.py", "4318", run.folder)
    wait_for("receiver", lambda: socket.socket().connect_ex(("127.0.0.1", 4318)) == 0)
    lines = f"{run.folder}/lines.json"
    tracer = Tracer(run, "--json", "-o", lines, "--otlp", "http://127.0.0.1:4318")
    diary, counted = run.load()
    tracer.end()
    assert server.poll() is None
    written = lines_of(lines)
    compare_with_diary({c: flat_record(r) for c, r in closes_of(written).items()}, diary, counted)
    arrived = []
    body = pathlib.Path(run.folder, "v1-logs").read_bytes()
    while body:
        length = int.from_bytes(body[:4], "big")
        request, body = package.ExportLogsServiceRequest.FromString(body[4 : 4 + length]), body[4 + length :]
        for resource in request.resource_logs:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert names["service.name"] == "tcptrace" and names["host.name"] == os.uname().nodename, names
            for scope in resource.scope_logs:
                arrived.extend(map(of_log_record, scope.log_records))
    key = lambda record: (record["event"], record["ns"], record.get("conn", ""), record.get("old", ""))
    expected = sorted(map(as_otlp, written), key=key)
    fields = same("otlp", expected, sorted(arrived, key=key))
    return len(arrived), fields, package_version("opentelemetry-proto")


def as_otlp(record):
    """What is to arrive of a record: the same, but for what OTLP has its own fields for."""
    expected = flat_record(record)
    for name in ("v", "mono_us"):
        del expected[name]
    expected["ns"] = nanoseconds(expected.pop("ts"))
    for name in ("new", "state"):
        if state := record.get(name):
            expected["connection.state"] = STATES.get(state, state.lower())
    expected.pop("state", None)
    if role := record.get("role"):
        expected["transport"] = "tcp"
        near, far = {"client": ("client", "server"), "unknown": (None, None)}.get(role, ("server", "client"))
        for end, of in [("l", near), ("r", far)]:
            for name, what in [("addr", "address"), ("port", "port")]:
                if of and end + name in record:
                    expected[f"{of}.{what}"] = flat(record[end + name])
    if "exe" in record:
        expected["executable.name"] = record["exe"].rsplit("/", 1)[1]
    return expected


def nanoseconds(ts):
    second, fraction = ts[:-1].split(".")
    return str(int(time.mktime(time.strptime(second, "%Y-%m-%dT%H:%M:%S")) - time.timezone) * 10**9 + int(fraction))


def of_log_record(log):
    record = {"event": log.event_name.removeprefix("tcptrace."), "ns": str(log.time_unix_nano)}
    for attribute in log.attributes:
        name = CONVENTIONS.get(attribute.key, attribute.key)
        for prefix in ("tcptrace.", "network.", "process."):
            name = name.removeprefix(prefix)
        assert name not in record, f"{name} twice: {log}"
        record[name] = of_value(attribute.value)
    return record


def of_value(value):
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return ";".join(f"{each.key}={of_value(each.value)}" for each in value.kvlist_value.values)
    if kind == "array_value":
        return ";".join(map(of_value, value.array_value.values))
    return flat(getattr(value, kind))


def version(path, option):
    out = subprocess.run([path, option], capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", out.stdout + out.stderr) or re.search(r"\d+", out.stdout)
    return found.group() if found else "?"


RECEIVERS = {each.__name__: each for each in (rsyslog, journald, prometheus, duckdb, kafka, otlp)}
