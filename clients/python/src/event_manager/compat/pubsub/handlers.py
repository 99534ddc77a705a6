"""Handlers as examples: they log what a business would do."""

from __future__ import annotations

import logging

from .event_base import Event

log = logging.getLogger("pubsub.handlers")


class SendEmailHandler:
    """Logs the mail that an order's customer would get."""

    async def handle(self, event: Event) -> None:
        log.info("mail to %s: %s", event.data.get("customer_email", "the customer"), event.get_routing_key())


class UpdateInventoryHandler:
    """Logs what an order would take from the stock."""

    async def handle(self, event: Event) -> None:
        for item in event.data.get("items", ()):
            log.info("stock of %s: %s less", item.get("product_id"), item.get("quantity"))


class LogAnalyticsHandler:
    """Logs each event."""

    async def handle(self, event: Event) -> None:
        log.info("%s %s %s", event.event_id, event.get_routing_key(), event.data)
