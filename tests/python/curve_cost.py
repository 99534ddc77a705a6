"""What an event costs with CURVE: CPU of the daemon beside that of libzmq's own proxy, in one run.

    curve_cost.py DAEMON [ROUNDS]

The same publisher and subscribers, of libzmq and with keys, are connected to either in turn. A figure is the
hub's CPU time for each published event; the ratio is the median of the rounds' ratios.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
from pathlib import Path

import zmq

from curve import Keys, socket, start, wait_until_heard

EVENTS = {64: 200_000, 1024: 100_000}
BATCH = 2_000


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proxy(pipe, secret):
    """libzmq's hub: what a site without the daemon runs."""
    context = zmq.Context()
    ends = []
    for kind in (zmq.XSUB, zmq.XPUB):
        end = context.socket(kind)
        end.sndhwm = end.rcvhwm = 0
        end.curve_server = True
        end.curve_publickey, end.curve_secretkey = secret
        ends.append((end, end.bind_to_random_port("tcp://127.0.0.1")))
    pipe.send({name: f"tcp://127.0.0.1:{port}" for name, (_, port) in zip(("publishers", "subscribers"), ends)})
    zmq.proxy(ends[0][0], ends[1][0])


def cost_us(context, keys, pid, at, size, receivers):
    subscribers = [socket(context, keys, zmq.SUB, at["subscribers"], "client") for _ in range(receivers)]
    publisher = socket(context, keys, zmq.XPUB, at["publishers"], "client")
    publisher.recv()
    wait_until_heard(publisher, subscribers)
    events, body = EVENTS[size] // receivers, b"x" * size
    before = cpu_s(pid)
    for begin in range(0, events, BATCH):
        for _ in range(BATCH):
            publisher.send(b"Order", zmq.SNDMORE)
            publisher.send(body)
        for subscriber in subscribers:
            for _ in range(BATCH):
                subscriber.recv()
                subscriber.recv()
    used = cpu_s(pid) - before
    for each in (publisher, *subscribers):
        each.close()
    return used / events * 1e6


def main(binary, rounds=5):
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        keys = Keys(directory)
        for name in ("server", "client"):
            keys.make(name)
        keys.admit("client")
        here, there = multiprocessing.Pipe()
        other = multiprocessing.Process(target=proxy, args=(there, keys.own["server"]), daemon=True)
        other.start()
        hubs = {"libzmq": (other.pid, here.recv())}
        daemon, at = start(binary, directory, keys)
        hubs["daemon"] = (daemon.pid, at)
        context = zmq.Context()
        print(f"{'':>16} {'daemon':>8} {'libzmq':>8}  ratio")
        for size, receivers in ((64, 1), (1024, 1), (1024, 8)):
            found = [{name: cost_us(context, keys, *hub, size, receivers) for name, hub in hubs.items()}
                     for _ in range(rounds)]
            daemon_us, libzmq_us = (statistics.median(one[name] for one in found) for name in ("daemon", "libzmq"))
            ratio = statistics.median(one["daemon"] / one["libzmq"] for one in found)
            print(f"{size:>5} B to {receivers:>2}: {daemon_us:8.2f} {libzmq_us:8.2f}  {ratio:.2f}", flush=True)
        context.destroy(linger=0)
        daemon.terminate()
        daemon.wait()
        other.terminate()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
