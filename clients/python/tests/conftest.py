import pytest
from support import PATIENCE

import event_manager as em


@pytest.fixture
def connected(hub):
    """A connection to a daemon of its own."""
    with em.connect(hub.address, timeout=PATIENCE) as made:
        yield made
