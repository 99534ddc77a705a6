"""One request to a daemon on a connection of its own, waiting for the answer."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from . import _address, _zmtp
from .errors import Nak, NoAnswer, TooOld

if TYPE_CHECKING:
    from .curve import Curve


def request_frames(fields: Dict[str, Any], number: bytes) -> bytes:
    """A request as JSON, with an envelope that its answer repeats."""
    return _zmtp.message([number, b"", json.dumps(fields, ensure_ascii=False).encode()])


def answer_of(frames: List[bytes], request: str, whole: bool = False) -> Any:
    """The data of an ACK; Nak is raised if it is one. ValueError if it is neither.

    It is in the layout of its request: as JSON (then `whole` is the whole object), or as the frames token, data type, data.
    """
    if len(frames) >= 3:
        data = frames[2].decode("utf-8", "replace")
        if frames[0] == b"TK_SYS_NAK":
            code, _, sentence = data.partition(": ")
            raise refusal(code, sentence, request)
        return json.loads(data)
    answer = json.loads(frames[0])
    if not isinstance(answer, dict):
        raise ValueError("an answer is an object")
    # PUBLISH answers with results, whether it is an ACK or a NAK.
    if answer.get("token") == "TK_SYS_NAK" and not isinstance(answer.get("data"), dict):
        code, sentence = str(answer.get("code", "")), str(answer.get("error", ""))
        raise refusal(code, sentence, request)
    return answer if whole else answer.get("data")


def advice(address: object) -> str:
    """What to do if nobody answers there."""
    return f"check that a daemon runs and answers requests at {address}, then try again"


def refusal(code: str, sentence: str, request: str) -> Nak:
    """The error for a NAK. What a daemon doesn't know is known to a newer one."""
    if code == "unknown-token":
        return TooOld(code, sentence, request)
    if code == "unknown-field":
        parts = sentence.split('"')
        return TooOld(code, sentence, request, parts[1] if len(parts) > 2 else "")
    return Nak(code, sentence, request)


def ask(address: str, fields: Dict[str, Any], timeout: float, curve: "Optional[Curve]" = None) -> Any:
    """Asks, and returns the answer's data. NoAnswer after `timeout` seconds; Nak if it is refused."""
    endpoint = _address.parse(address)
    deadline = time.monotonic() + timeout
    peer = _zmtp.Peer(b"DEALER") if curve is None else curve.new_peer(b"DEALER")
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
                    stream.sendall(peer.seal(request_frames(fields, b"1")))
                    asked = True
                stream.settimeout(max(0.001, deadline - time.monotonic()))
                data = stream.recv(1 << 16)
                if not data:
                    why = f"it closed the connection{peer.hint}"
                    break
                for received in peer.feed(data):
                    if isinstance(received, list) and len(received) > 2:
                        return answer_of(received[2:], str(fields["token"]))
    except (OSError, ValueError, _zmtp.ProtocolError) as error:
        why = str(error)
    raise NoAnswer(f"no answer from {address} to {fields['token']}: {why}; it may have been done; {advice(address)}", may_be_taken=True)
