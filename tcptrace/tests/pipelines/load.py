"""The load: connections in this network namespace, and a diary of what was done to each.

python3 load.py NUMBER RATE DIARY

The last ends of every hundred are refused, aborted, and closed by the server first; all others are closed by the
client first. Each line of the diary is a connection: its ends, what became of it, payload, the process, its
clock."""

import json
import os
import socket
import struct
import sys
import threading
import time

PORT, CLOSED_PORT = 8300, 8301


def serve(listener):
    """What the first byte says: to wait for the client's FIN, or to close first."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            try:
                text = connection.recv(4096)
                connection.sendall(b"x" * 300)
                if text[:1] != b"s":
                    connection.recv(1)
            except ConnectionResetError:
                pass


def converse(number, kind):
    client = socket.socket()
    # No pair of ends is used twice.
    client.bind((f"127.0.1.{1 + number // 5000}", 10_000 + number % 5000))
    local = client.getsockname()
    port = CLOSED_PORT if kind == "refused" else PORT
    entry = {
        "laddr": local[0], "lport": local[1], "raddr": "127.0.0.1", "rport": port, "kind": kind,
        "pid": os.getpid(), "tx": 0, "rx": 0, "begin_us": time.monotonic_ns() // 1000,
    }
    try:
        client.connect(("127.0.0.1", port))
        text = (b"s" if kind == "server" else b"c") * (1 + number % 200)
        client.sendall(text)
        entry["tx"] = len(text)
        while entry["rx"] < 300:
            entry["rx"] += len(client.recv(300))
        if kind == "server":
            client.recv(1)
        if kind == "aborted":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except ConnectionRefusedError:
        pass
    client.close()
    entry["end_us"] = time.monotonic_ns() // 1000
    return entry


def main():
    number, rate, diary = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PORT))
    listener.listen(1024)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    begin = time.monotonic()
    entries = []
    for nth in range(number):
        kind = {97: "refused", 98: "aborted", 99: "server"}.get(nth % 100, "client")
        entries.append(converse(nth, kind))
        ahead = begin + nth / rate - time.monotonic()
        if ahead > 0.002:
            time.sleep(ahead)
    took = time.monotonic() - begin
    with open(diary, "w") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    print(f"{number} connections in {took:.1f} s")


main()
