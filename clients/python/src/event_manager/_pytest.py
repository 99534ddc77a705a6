"""Fixtures for pytest: a real daemon for each test, or for all."""

from __future__ import annotations

from typing import Iterator

import pytest

from .testing import TestHub


@pytest.fixture
def hub() -> Iterator[TestHub]:
    """A daemon for this test, with a directory for durable services."""
    with TestHub(durable=True) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def hub_session() -> Iterator[TestHub]:
    """One daemon for all tests, with a directory for durable services."""
    with TestHub(durable=True) as daemon:
        yield daemon
