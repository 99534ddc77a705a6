import os
import tempfile

import pytest
from support import PATIENCE

import event_manager as em
from event_manager.testing import TestHub

#: With EVENT_MANAGER_TEST_CURVE=1 every hub has keys, and every daemon offers both mechanisms: libzmq's sockets have none.
if os.environ.get("EVENT_MANAGER_TEST_CURVE"):
    from event_manager.curve import KEY_VARIABLE, SERVER_KEY_VARIABLE, write_certificate

    _kept = tempfile.TemporaryDirectory()
    _secret, _ = write_certificate(_kept.name, "server")
    os.environ[KEY_VARIABLE], _public = write_certificate(_kept.name, "test")
    os.environ[SERVER_KEY_VARIABLE] = os.path.join(_kept.name, "server.key")
    _init = TestHub.__init__

    def _with_keys(self, *, config=None, curve=False, **options):
        security = {"mechanisms": ["null", "curve"], "secretKey": _secret, "keysDir": _kept.name}
        _init(self, config=config if curve else {"security": security, **(config or {})}, curve=curve, **options)

    TestHub.__init__ = _with_keys


@pytest.fixture
def connected(hub):
    """A connection to a daemon of its own."""
    with em.connect(hub.address, timeout=PATIENCE) as made:
        yield made
