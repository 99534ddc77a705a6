"""Dead letters, the status and its types, and daemons that a locator knows."""

import asyncio
import re
import threading
import typing
from pathlib import Path

import pytest
from support import PATIENCE, settled

import event_manager as em
from event_manager import aio, letters, status
from event_manager.testing import TestHub

QUICK = em.Retry(initial=0.01, max=2)


def refusing(hub, **options):
    service, accept, came = em.Service("Billing", retry=QUICK, **options), threading.Event(), []

    @service.on("a.*")
    def handle(body, event: em.Event) -> None:
        if not accept.is_set():
            raise em.Reject(f"not {event.subject}")
        came.append((event.subject, body))

    return service, accept, came


def test_letters_are_listed_shown_replayed_and_purged(hub, connected):
    service, accept, came = refusing(connected)
    service.start(connected)
    for number in range(25):
        connected.publish(f"a.{number % 5}", b"\xff%d" % number, headers={"x-n": str(number)})
    settled(hub, connected)
    dead = connected.dead_letters("Billing")
    listed = list(dead.list())
    assert [each.number for each in listed] == sorted(each.number for each in listed) and len(listed) == 25
    first = listed[0]
    assert (first.service, first.subject, first.reason, first.detail, first.attempts) == ("Billing", "a.0", "terminated", "Reject: not a.0", 1)
    assert first.first_delivery <= first.last_delivery <= first.time
    assert len(list(dead.list(subject="a.1"))) == 5 and list(dead.list(reason="max-deliveries")) == []
    assert list(dead.list(before=first.time - 1)) == []
    with pytest.raises(em.InvalidArgument, match="use show"):
        first.event
    shown = dead.show(first.number)
    assert (shown.event.subject, shown.event.raw, shown.event.headers) == ("a.0", b"\xff0", {"x-n": "0"})
    assert dead.show(10**9) is None
    # Those that fail again are new letters, and not replayed for ever.
    assert dead.replay(subject="a.2") == letters.Settled(5)
    settled(hub, connected)
    assert len(list(dead.list(subject="a.2"))) == 5
    accept.set()
    assert dead.replay([]) == (0, None)
    assert dead.replay([first.number]) == (1, None)
    assert dead.replay(subject="a.2") == (5, None)
    settled(hub, connected)
    assert came[0] == ("a.0", b"\xff0") and len(came) == 6
    assert dead.purge(subject="a.1") == (5, None) and dead.purge() == (14, None)
    assert list(dead.list()) == []


def test_more_letters_than_an_answer_has(hub, connected):
    service, accept, came = refusing(connected, credit=1000)
    service.start(connected)
    for number in range(2300):
        connected.publish("a.b", b"%d" % number)
    settled(hub, connected)
    dead = connected.dead_letters("Billing")
    assert len({each.number for each in dead.list()}) == 2300
    accept.set()
    assert dead.replay() == (2300, None)
    settled(hub, connected)
    assert len(came) == 2300 and list(dead.list()) == []


def test_letters_with_asyncio(hub):
    async def main():
        async with aio.connect(hub.address, timeout=PATIENCE) as connected:
            service, accept, came = refusing(connected)
            await connected.start(service)
            for _ in range(3):
                await connected.emit("a.b", b"1")
            hub.wait_idle()
            dead = connected.dead_letters("Billing")
            listed = await dead.list(subject="a")
            assert len(listed) == 3 and len(await dead.list(limit=2)) == 2
            assert (await dead.show(listed[0].number)).event.raw == b"1"
            accept.set()
            assert (await dead.replay([listed[0].number])).letters == 1
            assert (await dead.purge()).letters == 2

    asyncio.run(main())


def test_where_no_letters_are_kept(connected):
    with TestHub() as stateless, em.connect(stateless.address, timeout=PATIENCE) as hub:
        with pytest.raises(em.Nak, match="no-store.*give the daemon a stateDir"):
            list(hub.dead_letters("Billing").list())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("isolation", ["event", "handler"])
def test_a_service_gets_its_dead_letters_once_each(hub, connected, is_async, isolation):
    came, failed = [], []

    def take(letter: letters.DeadLetter):
        if not failed:
            failed.append(letter)
            raise OSError("once")
        came.append((letter.service, letter.detail, letter.attempts, letter.event.subject, letter.event.raw, letter.event.headers))

    async def take_async(letter: letters.DeadLetter):
        take(letter)

    service, _, _ = refusing(connected, isolation=isolation)
    service.on_dead_letter(take_async if is_async else take)
    with pytest.raises(em.InvalidArgument, match="one function"):
        service.on_dead_letter(take)
    service.start(connected)
    connected.publish("a.b", b"1", headers={"x-a": "b"})
    settled(hub, connected)
    settled(hub, connected)
    name = "Billing" if isolation == "event" else "Billing.handle"
    assert came == [(name, "Reject: not a.b", 1, "a.b", b"1", {"x-a": "b"})]
    # A second start is the same service.
    service.stop()
    service.start(connected)
    connected.publish("a.b", b"2")
    settled(hub, connected)
    settled(hub, connected)
    assert [each[4] for each in came] == [b"1", b"2"]


@pytest.mark.parametrize("isolation", ["event", "handler"])
@pytest.mark.parametrize("where", ["asked for", "configured", "configured for all"])
def test_letters_of_a_subject_of_ones_choice(where, isolation):
    name = "Billing" if isolation == "event" else "Billing.handle"
    named = {"asked for": {}, "configured": {name: {"deadLetterSubject": "failed.bills"}}, "configured for all": {"*": {"deadLetterSubject": "failed.bills"}}}
    options = {"dead_letter_subject": "failed.bills"} if where == "asked for" else {}
    with TestHub(durable=True, config={"services": named[where]}) as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        came, others = [], em.Service("Others", retry=QUICK, dead_letter_subject="failed.bills")

        @others.on("a.*")
        def refuse(body):
            raise em.Reject("others")

        service, _, _ = refusing(hub, isolation=isolation, delivery="queue", **options)
        service.on_dead_letter(lambda letter: came.append((letter.service, letter.event.raw)))
        others.start(hub)
        for body in (b"1", b"2"):  # A second start is the same service.
            service.start(hub)
            hub.publish("a.b", body)
            settled(daemon, hub)
            settled(daemon, hub)
            assert came[-1] == (name, body)
            service.stop()
        assert len(came) == 2
        listed = {each["name"]: each for each in daemon.status()["services"]}
        assert set(listed) == {name, "Billing.letters", "Others"}


def test_an_event_that_is_no_letter_is_not_given_to_its_function(hub, connected):
    came, (service, _, _) = [], refusing(connected, dead_letter_subject="failed", delivery="queue")
    service.on_dead_letter(came.append)
    service.start(connected)
    for frames in (b"", b"{}", b"[]", b"nonsense"):
        connected.publish("failed", frames)
    settled(hub, connected)
    assert came == []
    details = [each.detail for each in connected.dead_letters("Billing.letters").list()]
    assert len(details) == 3 and all("is no dead letter" in each for each in details)
    with pytest.raises(em.InvalidArgument, match="subject"):
        em.Service("Billing", dead_letter_subject="a\0")


DOCS = Path(__file__).parents[3] / "docs" / "status.md"


def as_text(annotation):
    return str(annotation).replace("typing.", "").replace("ForwardRef", "")


def written(kind):
    """The annotation of what docs/status.md says."""
    if kind.endswith(" or null"):
        return f"Optional[{written(kind[:-8])}]"
    if kind.startswith("array of "):
        return f"List[{written(kind[9:])}]"
    if kind.startswith("object of "):
        return f"Dict[str, {written(kind[10:])}]"
    link = re.fullmatch(r"\[(\w+)\]\(.*\)", kind)
    return link[1] if link else {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}[kind]


def test_the_types_of_the_status_are_those_of_its_documentation():
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL))
    for name in status.__all__:
        made, rows = getattr(status, name), sections[name]
        if not isinstance(made, type):
            assert list(typing.get_args(made)) == re.findall(r"^\| `([\w-]+)` \|", rows, re.MULTILINE)
            continue
        documented = {field: written(kind) for field, kind in re.findall(r"^\| `(\w+)` \| (.*?) \| .*\|$", rows, re.MULTILINE)}
        # The page may have newer ones.
        for field, annotation in made.__annotations__.items():
            assert annotation.__forward_arg__ == documented[field], (name, field)


def test_the_daemon_tells_all_of_the_status(hub, connected):
    service = em.Service("Billing", delivery="queue")
    service.on("a")(lambda body: None)
    service.start(connected)
    told = connected.status()

    def check(kind, value):
        hints = typing.get_type_hints(kind)
        assert not set(hints) - set(value), kind
        for field, hint in hints.items():
            for each in (hint, *typing.get_args(hint)):
                items = value[field] if isinstance(value[field], list) else [value[field]]
                if isinstance(each, type) and hasattr(each, "__required_keys__"):
                    for item in items:
                        if item is not None:
                            check(each, item)

    check(status.Status, told)
    assert told["services"][0]["durable"]["state"] in ("ok", "opening")


def test_a_daemon_is_found_by_its_locator_again_and_again():
    with TestHub(config={"locatorServiceName": "Locating"}) as locating:
        with em.connect(locator=locating.locator, timeout=PATIENCE) as hub, em.connect(locator=locating.locator, timeout=0.1) as early:
            with pytest.raises(em.NoAnswer, match="unknown-service|has not told") as error:
                early.status()
            assert not error.value.may_be_taken and hub.address == ""
            config = {"embeddedLocator": False, "locatorRegister": True, "locatorAddress": locating.locator}
            for _ in range(2):
                with TestHub(config=config) as daemon:
                    while hub.status()["pid"] != daemon.pid:
                        pass
                    assert hub.address == daemon.address
                    hub.publish("a", b"1")
                    hub.flush(PATIENCE)
        with em.connect(locating.address, locator=locating.locator, timeout=PATIENCE) as hub:
            assert hub.status()["pid"] == locating.pid and hub.address == locating.address
