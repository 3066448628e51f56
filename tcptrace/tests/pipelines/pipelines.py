#!/usr/bin/env python3
"""Real receivers behind tcptrace: each gets the records of thousands of connections, and every field is compared.

sudo python3 tcptrace/tests/pipelines/pipelines.py [RECEIVER…] [--connections N] [--rate N] [--tcptrace FILE]

The connections are made in a network namespace of their own by load.py, which keeps a diary. ftrace counts the
ends of connections beside the tracer. Records must say what the diary says, be as many as ftrace has counted, and
arrive as they were written. A receiver that is not installed is skipped, with what installs it. Beside receivers
there are outputs that misbehave (outputs.py); logrotate is meant for --rate 5000 --connections 25000."""

import argparse
import subprocess
import sys

from harness import HERE, Impossible, Run
from outputs import OUTPUTS
from receivers import RECEIVERS

TURNS = RECEIVERS | OUTPUTS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("receivers", nargs="*", choices=[*TURNS, []], default=[])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=1000, help="connections a second")
    parser.add_argument("--tcptrace", default=str(HERE.parents[2] / "target/release/tcptrace"))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        sys.exit(turn(options.inside, options))
    # Each in namespaces of its own: ports, journal and what is mounted.
    inside = ["unshare", "-n", "-m", "--", sys.executable, *sys.argv, "--inside"]
    statuses = [subprocess.run([*inside, name]).returncode for name in options.receivers or TURNS]
    sys.exit(any(statuses))


def turn(name, options):
    """One receiver's. Returns the exit status."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    run = Run(options)
    try:
        records, compared, version = TURNS[name](run)
        print(f"{name} {version}: {records:,} records arrived, {compared:,} values compared, all the same", flush=True)
    except Impossible as why:
        print(f"{name}: skipped: {why}", flush=True)
    except Exception as why:
        print(f"{name}: FAILED: {type(why).__name__} {str(why)[:2000]}", flush=True)
        return 1
    finally:
        run.clear()
    return 0


if __name__ == "__main__":
    main()
