"""Messages, events, tokens, and what buses and handlers are."""

from __future__ import annotations

import enum
import json
from typing import Any, Mapping, Optional, Union

from ..._messages import TOKENS
from ...errors import EventManagerError, InvalidArgument

TK_EVENT_MANAGER_SUBSCRIBE = TOKENS["TK_EVENT_MANAGER_SUBSCRIBE"]
TK_EVENT_MANAGER_UNSUBSCRIBE = TOKENS["TK_EVENT_MANAGER_UNSUBSCRIBE"]
TK_EVENT_MANAGER_PUBLISH = TOKENS["TK_EVENT_MANAGER_PUBLISH"]
TK_EVENT_MANAGER_KEEP_ALIVE = TOKENS["TK_EVENT_MANAGER_KEEP_ALIVE"]


class DataType(enum.IntEnum):
    """What a message's data is."""

    empty = 0
    undefined = 0
    xml = 1
    param = 2
    addr_port = 3
    int32 = 4
    int64 = 5
    string = 6
    str_array_pipe = 7
    jpg = 8
    png = 9
    gif = 10
    pdf = 11
    swagger = 12
    json = 13


class TokenPriority(enum.IntEnum):
    """The first digit of a token; the event manager doesn't look at it."""

    low = 0x0
    normal = 0x7
    high = 0xF


class TokenCreator:
    """Makes tokens."""

    @staticmethod
    def create_token(priority: "Union[TokenPriority, int, str]", group: "Union[int, str]", number: "Union[int, str]") -> int:
        """The token of a group and a number; as text they are hexadecimal. InvalidArgument if they can't be."""
        try:
            first, second, third = (int(each, 16) if isinstance(each, str) else int(each) for each in (priority, group, number))
        except ValueError:
            raise InvalidArgument(f"a token's parts are hexadecimal, not {(priority, group, number)!r}") from None
        if not (0 <= first <= 0xF and 0 <= second <= 0xFFF and 0 <= third <= 0xFFFF):
            raise InvalidArgument(f"a token has a priority to F, a group to FFF and a number to FFFF: {(priority, group, number)!r}")
        return first << (32 if second > 0xFF else 28) | second << 20 | third


class DefaultToken:
    """Tokens that every service knows."""

    TK_SYS_ACK = TOKENS["TK_SYS_ACK"]
    TK_SYS_NAK = TOKENS["TK_SYS_NAK"]
    TK_EVT_EVENT = TOKENS["TK_EVT_EVENT"]


class Message:
    """A message of one service to another, or its answer. `timeout` is in microseconds; -1 is the bus's own."""

    def __init__(self, token: int, data_type: "Union[DataType, int, str]" = DataType.empty, data: Any = None, timeout: int = -1) -> None:
        self.token = token
        self.data_type = data_type
        self.data = data
        self.timeout = timeout
        #: How to answer it; used by the bus.
        self.imp_message: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(0x{self.token:08X}, {self.data_type!r}, {self.data!r})"


class AckMessage(Message):
    """The answer that says yes. Data without a type is JSON."""

    _token = DefaultToken.TK_SYS_ACK

    def __init__(self, data: Any = None, data_type: "Union[DataType, int, str, None]" = None) -> None:
        if data_type is None:
            data_type = DataType.empty if data is None else DataType.json
        super().__init__(self._token, data_type, data)


class NakMessage(AckMessage):
    """The answer that says no."""

    _token = DefaultToken.TK_SYS_NAK


class SwaggerMessage(Message):
    """An answer as of HTTP: a status, a body and headers. They are sent as a JSON object."""

    def __init__(self, status_code: int, body: Optional[str] = None, headers: Optional[Mapping[str, str]] = None) -> None:
        self.status_code = status_code
        self.body = body
        self.headers = dict(headers) if headers is not None else None
        super().__init__(DefaultToken.TK_SYS_ACK, DataType.swagger)
        self.data = json.dumps({"status_code": status_code, "body": body, "headers": self.headers})


class JsonSwaggerMessage(SwaggerMessage):
    """A SwaggerMessage whose body is JSON, unless its headers say otherwise."""

    def __init__(self, status_code: int, body: Optional[str] = None, headers: Optional[Mapping[str, str]] = None) -> None:
        super().__init__(status_code, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


class Event:
    """An event. A sync one is answered by the services that are subscribed to its subject."""

    def __init__(
        self, subject: str, type: Optional[str] = None, data: Any = None, source_id: Optional[int] = None, sync: bool = False
    ) -> None:
        self.subject = subject
        self.type = type
        self.data = data
        self.source_id = source_id
        self.sync = sync
        self.imp_message: Any = None

    def __repr__(self) -> str:
        return f"Event({self.subject!r}, {self.type!r}, {self.data!r}, {self.source_id!r}, {self.sync!r})"


class MessageBusExceptionType(enum.Enum):
    """Why a message has no answer: it took too long, or the service isn't known or can't be reached."""

    timeout = "timeout"
    unknown = "unknown"


class MessageBusException(EventManagerError):
    """A message has no answer. With `timeout` the service may have got it, with `unknown` it didn't."""

    def __init__(self, type: MessageBusExceptionType, sentence: str = "") -> None:
        super().__init__(sentence or f"no answer: {type.value}")
        self.type = type


class SubscriptionInfo:
    """A subject, and how its events are handled."""

    TYPE_REENTRANT = "REENTRANT"
    TYPE_NON_REENTRANT = "NON_REENTRANT"
    TYPE_QUEUE = "QUEUE"
    TYPE_SYNC = "SYNC"

    def __init__(self, subject: str, type: str = TYPE_REENTRANT) -> None:
        if type not in (self.TYPE_REENTRANT, self.TYPE_NON_REENTRANT, self.TYPE_QUEUE, self.TYPE_SYNC):
            raise InvalidArgument(f"{type!r} is no type of a subscription; use one of SubscriptionInfo.TYPE_…")
        self.subject = subject
        self.type = type

    def __repr__(self) -> str:
        return f"SubscriptionInfo({self.subject!r}, {self.type!r})"


class MessageBus:
    """What every bus has."""

    def publish_event(self, event: Event) -> Message:
        """Publishes an event. Of a sync one, the answer is what the services said."""
        raise NotImplementedError

    def send_message(self, component: str, message: Message) -> Message:
        """Sends a message to a service, and returns its answer."""
        raise NotImplementedError

    def subscribe(self, subject: Any) -> None:
        """Subscribes."""
        raise NotImplementedError

    def reply_message(self, message: Message, reply_message: Message) -> None:
        """Answers a message."""
        raise NotImplementedError

    def reply_event(self, event: Event, reply_message: Message) -> None:
        """Answers a sync event; what is async is not answered."""
        raise NotImplementedError


class MessageHandler:
    """Handles what comes. One is made for each event and each message."""

    def handle_message(self, message_bus: MessageBus, message: Message) -> None:
        """Handles a message; answers with `message_bus.reply_message`."""
        raise NotImplementedError

    def handle_event(self, message_bus: MessageBus, event: Event) -> None:
        """Handles an event; answers with `message_bus.reply_event` if it is sync."""
        raise NotImplementedError


class MessageHandlerBuilder:
    """Makes handlers."""

    def build_singletons(self) -> None:
        """Called once, before the first event."""
        raise NotImplementedError

    def build_message_handler(self) -> Any:
        """Called for each event and message: the handler for it."""
        raise NotImplementedError

    def destroy_message_handler(self, message_handler: Any) -> None:
        """Called when the handler is done."""
        raise NotImplementedError

    def destroy_singletons(self) -> None:
        """Called once, at the end."""
        raise NotImplementedError
