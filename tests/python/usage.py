"""Uses an event manager as its clients always did; needs nothing but pyzmq.

    usage.py REQUEST_ADDRESS LOCATOR_ADDRESS
"""

import json
import sys
import time
import traceback

import zmq

from messagebus import (
    ACK, EVENT, KEEP_ALIVE, LOCATOR_REGISTER, NAK, PATIENCE_MS, PUBLISH, SUBSCRIBE, UNSUBSCRIBE,
    Service, ask, connect,
)

EVENTS = 100
SILENCE_MS = 200


class Checks:
    """Counts what holds and what doesn't."""

    def __init__(self):
        self.passed = self.failed = 0

    def that(self, what, holds, seen=None):
        self.passed += bool(holds)
        self.failed += not holds
        print(f"  {'ok' if holds else 'FAILED'}: {what}" + ("" if holds else f" ({seen!r})"))

    def equal(self, what, seen, expected):
        self.that(what, seen == expected, seen)


def subscribe(checks, requests):
    """Two services, one of them to two subjects; returns where to publish and where each receives."""
    addresses = {}
    for sub_id, service, *subjects in [
        ("billing-1", "Billing", "OrderCreated", "OrderPaid"),
        ("kitchen-1", "Kitchen", "OrderCreated"),
    ]:
        token, data = ask(requests, SUBSCRIBE, sub_id, service, *subjects)
        checks.equal(f"{service} subscribes", token, ACK)
        answered_id, pub_address, addresses[service] = data.split("\0")
        checks.equal("the answer names the subscription", answered_id, sub_id)
    checks.that("each service has an address of its own", len(set(addresses.values())) == 2)
    return pub_address, addresses


def keep_alive(checks, requests):
    checks.equal("a keep-alive is acknowledged", ask(requests, KEEP_ALIVE, "billing-1"), (ACK, ""))
    token, data = ask(requests, KEEP_ALIVE, "nobody")
    checks.equal("one of an unknown subscription is refused", token, NAK)
    checks.that("and the reason is said", data.startswith("unknown-subscription: "), data)
    for written, answered in [
        (b"2097156", b"4027580417"),
        (b"0x00200004", b"0xf0100001"),
        (b"2.4", b"1.1"),
        (b"TK_EVENT_MANAGER_KEEP_ALIVE", b"TK_SYS_ACK"),
        (KEEP_ALIVE.to_bytes(4, "little"), ACK.to_bytes(4, "little")),
        (KEEP_ALIVE.to_bytes(8, "big"), ACK.to_bytes(8, "big")),
    ]:
        requests.send_multipart([written, b"2", b"billing-1"])
        checks.equal(f"a token written as {written!r} is answered alike",
                     requests.recv_multipart()[0], answered)


def wait_for_route(publisher, worker):
    """A PUB drops what it sends before it is connected: probes until one comes through."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < deadline:
        publisher.send_multipart([b"OrderPaid.probe", b""])
        if worker.poll(20):
            break
    publisher.send_multipart([b"OrderPaid.probe", b"last"])
    while worker.recv_multipart() != [b"OrderPaid.probe", b"last"]:
        pass


def publish(checks, context, pub_address, addresses):
    billing = connect(context, zmq.DEALER, addresses["Billing"])
    billing.send(b"READY")
    kitchen = [connect(context, zmq.DEALER, addresses["Kitchen"]) for _ in range(2)]
    for worker in kitchen:
        worker.send_multipart([b"", b"READY"])
    publisher = connect(context, zmq.PUB, pub_address)
    wait_for_route(publisher, billing)

    sent = [[b"OrderCreated", str(n).encode(), bytes([0, n, 255]), b""] for n in range(EVENTS)]
    for event in sent:
        publisher.send_multipart(event)
    publisher.send(b"OrderPaid 7")
    publisher.send(b"Unrelated")

    received = [billing.recv_multipart() for _ in sent]
    checks.equal("a worker gets each event, in order, byte for byte", received, sent)
    checks.equal("one frame is an event too", billing.recv_multipart(), [b"OrderPaid 7"])
    checks.equal("what nobody subscribed to reaches nobody", billing.poll(SILENCE_MS), 0)

    shares = {worker: [] for worker in kitchen}
    poller = zmq.Poller()
    for worker in kitchen:
        poller.register(worker, zmq.POLLIN)
    while sum(map(len, shares.values())) < EVENTS and (ready := poller.poll(PATIENCE_MS)):
        for worker, _ in ready:
            shares[worker].append(worker.recv_multipart())
    checks.that("two workers share the events",
                all(shares.values()), [len(share) for share in shares.values()])
    together = sorted(sum(shares.values(), []), key=lambda event: int(event[2]))
    checks.equal("each event goes to one of them, in the envelope of its READY",
                 together, [[b"", *event] for event in sent])
    checks.equal("and to one only", poller.poll(SILENCE_MS), [])
    for socket in [publisher, billing, *kitchen]:
        socket.close()


def sync_publish(checks, context, requests, locator_address):
    locator = connect(context, zmq.REQ, locator_address)
    billing, kitchen = Service(context, ACK, "billed"), Service(context, NAK, "no more soup")
    for name, service in [("Billing", billing), ("Kitchen", kitchen)]:
        token, _ = ask(locator, LOCATOR_REGISTER, name, service.address)
        checks.equal(f"{name} registers with the locator", token, ACK)

    def call(subject):
        token, data = ask(requests, PUBLISH, '{"id": 7}', subject, "order", "1", "usage.py")
        results = {result["service"]: result for result in json.loads(data)["results"]}
        return token, results

    token, results = call("OrderPaid")
    checks.equal("a sync event that all acknowledge is acknowledged", token, ACK)
    checks.equal("it has the answers", {name: result["data"] for name, result in results.items()},
                 {"Billing": "billed"})
    fields = [b'{"id": 7}', b"OrderPaid", b"order", b"1", b"usage.py"]
    checks.equal("the service gets its data unchanged", billing.calls, [(EVENT, fields)])

    token, results = call("OrderCreated")
    checks.equal("one that a service refuses is refused", token, NAK)
    checks.equal("it says who", {name: result["status"] for name, result in results.items()},
                 {"Billing": "ack", "Kitchen": "nak"})
    checks.equal("one that nobody subscribed to is acknowledged", call("Unrelated"), (ACK, {}))
    for closing in [billing.stop, kitchen.stop, locator.close]:
        closing()


def unsubscribe(checks, requests):
    for sub_id in ["billing-1", "kitchen-1"]:
        checks.equal(f"{sub_id} unsubscribes", ask(requests, UNSUBSCRIBE, sub_id), (ACK, ""))
        token, data = ask(requests, KEEP_ALIVE, sub_id)
        checks.equal("its keep-alive is refused from then on", token, NAK)
        checks.that("so that it subscribes again", data.startswith("unknown-subscription: "), data)


def main(request_address, locator_address):
    checks = Checks()
    context = zmq.Context()
    requests = connect(context, zmq.REQ, request_address)
    try:
        print("subscribe")
        pub_address, addresses = subscribe(checks, requests)
        print("keep alive")
        keep_alive(checks, requests)
        print("publish")
        publish(checks, context, pub_address, addresses)
        print("sync publish")
        sync_publish(checks, context, requests, locator_address)
        print("unsubscribe")
        unsubscribe(checks, requests)
    except Exception:
        checks.that("no step ends early", False, traceback.format_exc(limit=2).strip())
    context.destroy(linger=0)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 0 if checks.failed == 0 else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
