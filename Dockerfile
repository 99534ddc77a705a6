# The zmq crate builds its own libzmq, which needs a C++ compiler.
FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin event-manager

# libstdc++, which libzmq needs, is in this image because apt needs it too.
FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="event-manager" \
      org.opencontainers.image.description="An event router for ZeroMQ services" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin event-manager \
    && install --directory --owner=10001 --group=10001 /var/lib/event-manager
ENV EVENT_MANAGER_STATE_DIR=/var/lib/event-manager
COPY --from=build /build/target/release/event-manager /usr/local/bin/event-manager
# A file that is mounted here, or named by CONFIG_PATH, goes before the configuration that is built in.
WORKDIR /etc/event-manager
USER 10001:10001
# Publishers, subscribers, services, requests, the embedded ServiceLocator.
EXPOSE 5000 5001 5002-5100 5101 6000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/event-manager"]
