"""The API of `dotmac.events`, on this daemon.

    from event_manager.compat.dotmac import ConsumerOptions, Event, create_memory_bus, run_consumer

`create_memory_bus`, `create_redis_bus` and `create_kafka_bus` take their configurations, and all give a bus on this daemon;
neither Redis nor Kafka is needed, nor their packages. `create_zmq_bus(ZmqConfig(address=…))` says so. The daemon is that of
`ZmqConfig.address`, else of the environment's EVENT_MANAGER_CLIENT_ADDRESS, else tcp://localhost:5101; hosts of Redis and Kafka
are not used. What of theirs doesn't work with their own code works here:

- **Groups**: a topic and a group are a service, `topic@group`: each group gets each event, one of its members handles it.
- **Request-reply**: what a handler returns is the answer; one who publishes to `<topic>.reply` with the `correlation_id` works,
  too. If nobody is subscribed, `request` says so at once (NoSubscribers).
- **Retries** wait in the daemon, also if the consumer's process ends; then the event is in the DLQ topic before it is done.
- **Hooks**: `create_memory_bus(config, hooks=hooks)`, or `bus.use_hooks(hooks)`: they are called.

What differs, and why:

- Events reach those who are subscribed. A memory bus keeps up to `max_queue_size` events of a topic for which there is nobody in its
  process, as theirs does, and publishes them when somebody subscribes. The others don't, unless `ZmqConfig(delivery="queue")`
  keeps a group's events on disk from its first `subscribe` on.
- A handler of a plain `subscribe` that raises isn't called again, as there; the event becomes a dead letter of the daemon.
  With `run_consumer` it is tried again.
- `key` is carried, and gives no order among handlers: it is in the headers, and `orderBy` looks at whole frames. `"orderBy": "subject"` in the daemon's
  configuration, or `concurrency=1`, gives a topic's order.
- Handlers get single events: batches are a matter of Kafka's adapter, and their README's note says so, too.
- The event history (`enable_persistence`) is that of this bus.
- `create_dotmac_observability_hooks` wants a registry with `increment_counter` and `observe_histogram`.
"""

from __future__ import annotations

from . import consumer
from ._bus import (
    AdapterMetadata,
    EventBus,
    EventBusError,
    KafkaConfig,
    MemoryConfig,
    MemoryEventBus,
    NoSubscribers,
    PublishError,
    RedisConfig,
    RequestFailed,
    RequestTimeout,
    ZmqConfig,
    ZmqEventBus,
    create_kafka_bus,
    create_memory_bus,
    create_redis_bus,
    create_zmq_bus,
)
from ._event import Event, EventMetadata, JsonCodec
from ._hooks import ObservabilityHooks, create_default_hooks, create_dotmac_observability_hooks
from .consumer import (
    BackoffPolicy,
    ConsumerOptions,
    DLQEntry,
    RetryPolicy,
    SimpleDLQ,
    alert_on_dlq_entry,
    create_dlq_consumer,
    create_exponential_retry_options,
    create_retry_wrapper,
    create_simple_retry_options,
    log_dlq_entry,
    run_consumer,
)

__all__ = [
    "AdapterMetadata", "BackoffPolicy", "ConsumerOptions", "DLQEntry", "Event", "EventBus", "EventBusError", "EventMetadata",
    "JsonCodec", "KafkaConfig", "MemoryConfig", "MemoryEventBus", "NoSubscribers", "ObservabilityHooks", "PublishError",
    "RedisConfig", "RequestFailed", "RequestTimeout", "RetryPolicy", "SimpleDLQ", "ZmqConfig", "ZmqEventBus",
    "alert_on_dlq_entry", "consumer", "create_default_hooks", "create_dlq_consumer", "create_dotmac_observability_hooks",
    "create_exponential_retry_options", "create_kafka_bus", "create_memory_bus", "create_redis_bus", "create_retry_wrapper",
    "create_simple_retry_options", "create_zmq_bus", "log_dlq_entry", "run_consumer",
]  # fmt: skip
