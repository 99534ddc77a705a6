"""One request to a daemon on a connection of its own, waiting for the answer."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Dict

from . import _address, _zmtp
from .errors import Nak, NoAnswer


def request_frames(fields: Dict[str, Any], number: bytes) -> bytes:
    """A request as JSON, with an envelope that its answer repeats."""
    return _zmtp.message([number, b"", json.dumps(fields, ensure_ascii=False).encode()])


def answer_of(body: bytes, request: str) -> Any:
    """The data of an ACK; Nak is raised if it is one."""
    answer = json.loads(body)
    if answer.get("token") == "TK_SYS_NAK":
        code, sentence = str(answer.get("code", "")), str(answer.get("error", ""))
        raise Nak(code, sentence, request)
    return answer.get("data")


def ask(address: str, fields: Dict[str, Any], timeout: float) -> Any:
    """Asks, and returns the answer's data. NoAnswer after `timeout` seconds; Nak if it is refused."""
    endpoint = _address.parse(address)
    deadline = time.monotonic() + timeout
    peer = _zmtp.Peer(b"DEALER")
    why = "time is over"
    try:
        family, to = endpoint.sockets()[0]
        with socket.socket(family, socket.SOCK_STREAM) as stream:
            stream.settimeout(max(0.001, deadline - time.monotonic()))
            stream.connect(to)
            asked = False
            while True:
                for data in peer.out:
                    stream.sendall(data)
                peer.out.clear()
                if peer.open and not asked:
                    stream.sendall(request_frames(fields, b"1"))
                    asked = True
                stream.settimeout(max(0.001, deadline - time.monotonic()))
                data = stream.recv(1 << 16)
                if not data:
                    why = "it closed the connection"
                    break
                for received in peer.feed(data):
                    if isinstance(received, list):
                        return answer_of(received[-1], str(fields["token"]))
    except (OSError, _zmtp.ProtocolError) as error:
        why = str(error)
    raise NoAnswer(f"no answer from {address} to {fields['token']}: {why}", may_be_taken=True)
