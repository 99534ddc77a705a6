# SQLite and jemalloc are built along, which needs a C compiler and make.
FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies first, with empty sources of our own: a layer that lasts until one of them changes.
COPY Cargo.toml Cargo.lock ./
COPY crates/zmtp/Cargo.toml crates/zmtp/
COPY crates/wire/Cargo.toml crates/wire/
COPY crates/core/Cargo.toml crates/core/
COPY crates/client/Cargo.toml crates/client/
RUN mkdir -p src benches/e2e tests/it tests/engines crates/zmtp/src crates/wire/src crates/core/src crates/client/src \
    && touch src/lib.rs crates/zmtp/src/lib.rs crates/wire/src/lib.rs crates/core/src/lib.rs crates/client/src/lib.rs \
    && touch benches/instructions.rs benches/micro.rs benches/e2e/main.rs tests/it/main.rs tests/engines/main.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --features engines,tls --bin event-manager
COPY crates ./crates
COPY src ./src
# Cargo goes by the files' times, and these may be older than the empty ones.
RUN touch src/lib.rs src/main.rs crates/*/src/lib.rs \
    && cargo build --release --locked --features engines,tls --bin event-manager

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="event-manager" \
      org.opencontainers.image.description="An event router for ZeroMQ services" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin event-manager \
    && install --directory --owner=10001 --group=10001 /var/lib/event-manager
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/event-manager/
COPY packaging/docker/config.json /etc/event-manager/config.json
COPY --from=build /build/target/release/event-manager /usr/local/bin/event-manager
ENV CONFIG_PATH=/etc/event-manager/config.json
# The configuration's relative paths begin here, that of stateDir too.
WORKDIR /var/lib/event-manager
VOLUME /var/lib/event-manager
USER 10001:10001
# Publishers, subscribers, services, requests, HTTP, the embedded ServiceLocator.
EXPOSE 5000 5001 5002-5100 5101 5180 6000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/event-manager", "health"]
ENTRYPOINT ["/usr/local/bin/event-manager"]
