"""What the tests want of Redis, by redis-py: `redis_client.py URL COMMAND …` prints JSON."""

import json
import sys
import time

import redis


def text(value):
    return value.decode("latin-1")


def read(server, key, wanted):
    """All entries of a stream in its order, once it has so many."""
    while server.xlen(key) < int(wanted):
        time.sleep(0.02)
    entries = []
    for entry, fields in server.xrange(key):
        headers = {text(name).lower(): text(value) for name, value in fields.items()}
        entries.append({"entry": text(entry), "body": headers.pop("data", ""), "headers": headers})
    return entries


def write(server, key, begin, end, headers, body_bytes="0"):
    """Entries whose bodies are numbers, in their order, and as many spaces as make so many bytes."""
    headers, written = json.loads(headers), 0
    # A server that syncs each write answers a hundred at a time; what is sent at once has one timeout.
    for first in range(int(begin), int(end), 100):
        lines = server.pipeline(transaction=False)
        for number in range(first, min(first + 100, int(end))):
            lines.xadd(key, {"data": str(number).ljust(int(body_bytes)), **headers})
        written += len(lines.execute())
    return written


def left(server, key, group):
    """How many entries a group has not acknowledged, given or not."""
    for one in server.xinfo_groups(key):
        if text(one["name"]) == group:
            return one["pending"] + len(server.xrange(key, "(" + text(one["last-delivered-id"])))
    return server.xlen(key)


def shown(value):
    """What a server answers, as JSON has it."""
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, dict):
        return {shown(name): shown(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(one) for one in value]
    return value


def command(server, *arguments):
    return shown(server.execute_command(*arguments))


url, wanted, *arguments = sys.argv[1:]
server = redis.Redis.from_url(url, socket_timeout=120)
commands = {"read": read, "write": write, "left": left, "command": command}
print(json.dumps(commands[wanted](server, *arguments)))
