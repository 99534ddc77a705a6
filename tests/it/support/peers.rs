//! Clients over libzmq.

use std::time::Instant;

use event_manager_wire::api::Status;

use super::{PATIENCE, TestDaemon, tunnel};

/// A libzmq socket that waits with patience and never lingers.
pub fn socket(context: &zmq::Context, kind: zmq::SocketType) -> zmq::Socket {
    let socket = context.socket(kind).expect("a socket");
    let patience = i32::try_from(PATIENCE.as_millis()).expect("it fits");
    socket.set_rcvtimeo(patience).expect("an option");
    socket.set_sndtimeo(patience).expect("an option");
    socket.set_linger(0).expect("an option");
    for set in [zmq::Socket::set_rcvhwm, zmq::Socket::set_sndhwm] {
        set(&socket, 0).expect("an option");
    }
    socket
}

pub fn connected(context: &zmq::Context, kind: zmq::SocketType, address: &str) -> zmq::Socket {
    let socket = socket(context, kind);
    connect(&socket, address);
    socket
}

/// Connects to a daemon, or to what is [spared](tunnel::spare).
pub fn connect(socket: &zmq::Socket, address: &str) {
    socket
        .connect(&tunnel::to(address))
        .expect("a valid address");
}

/// Whether nothing arrives for a while. Only for what must not arrive at all.
pub fn is_silent(socket: &zmq::Socket, ms: i64) -> bool {
    socket.poll(zmq::POLLIN, ms).expect("a poll") == 0
}

/// Sends events with this subject until the subscriber hears one, for publishers that can't tell
/// whether they are heard. When it returns, nothing is under way.
pub fn probe(publisher: &zmq::Socket, subscriber: &zmq::Socket, subject: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut sent = 0;
    while is_silent(subscriber, 10) {
        assert!(Instant::now() < deadline, "nobody hears the publisher");
        sent += 1;
        publish(publisher, subject, &sent.to_string());
    }
    while received(subscriber) != sent.to_string() {}
}

/// What SUBSCRIBE answers.
pub struct Subscribed {
    pub id: String,
    pub pub_address: String,
    pub pull_address: String,
}

impl TestDaemon {
    /// A publisher that the daemon has subscribed to, so that nothing it sends is lost.
    pub fn publisher(&self) -> zmq::Socket {
        let publisher = connected(&self.context, zmq::XPUB, &self.publishers());
        assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);
        publisher
    }

    /// A plain subscriber whose subscriptions are in force.
    pub fn subscriber(&self, prefixes: &[&str]) -> zmq::Socket {
        let before = self.status().subscribers.subscriptions;
        let subscriber = socket(&self.context, zmq::SUB);
        for prefix in prefixes {
            subscriber
                .set_subscribe(prefix.as_bytes())
                .expect("an option");
        }
        connect(&subscriber, &self.subscribers());
        self.wait_for_subscriptions(before + prefixes.len() as u64);
        subscriber
    }

    pub fn requester(&self) -> zmq::Socket {
        connected(&self.context, zmq::REQ, &self.requests())
    }

    /// Asks in decimal frames: the answer's token name and data.
    pub fn ask(&self, token: &str, fields: &[&str]) -> (String, String) {
        let requester = self.requester();
        requester
            .send_multipart([token, "2", &fields.join("\0")], 0)
            .expect("a send");
        let answer = requester.recv_multipart(0).expect("an answer");
        let text = |frame: &[u8]| String::from_utf8_lossy(frame).into_owned();
        (text(&answer[0]), text(&answer[2]))
    }

    /// Subscribes; when it returns, no kill takes that back, if the daemon keeps its state.
    pub fn subscribe(&self, id: &str, service: &str, subjects: &[&str]) -> Subscribed {
        let fields: Vec<&str> = [id, service].iter().chain(subjects).copied().collect();
        let (token, data) = self.ask("TK_EVENT_MANAGER_SUBSCRIBE", &fields);
        assert_eq!(token, "TK_SYS_ACK", "{data}");
        self.wait_for("what is kept", |Status { state, .. }| {
            !state.kept || state.written || state.failing
        });
        let mut fields = data.split('\0').map(str::to_owned);
        let mut next = || fields.next().expect("three fields");
        Subscribed {
            id: next(),
            pub_address: next(),
            pull_address: next(),
        }
    }

    /// A worker that has said READY and is known.
    pub fn worker(&self, service: &str, pull_address: &str) -> zmq::Socket {
        let status = self.status();
        let before = status.service(service).expect("a service").workers.ready;
        let worker = connected(&self.context, zmq::DEALER, pull_address);
        worker.send("READY", 0).expect("a send");
        self.wait_for_ready(service, before + 1);
        worker
    }

    /// Closes a ready worker; when it returns, the daemon knows of that, and counts it no more.
    pub fn dismiss(&self, service: &str, worker: zmq::Socket) {
        let before = self.service(service).workers.ready;
        drop(worker);
        self.wait_for_ready(service, before - 1);
    }
}

/// An event of two frames.
pub fn publish(publisher: &zmq::Socket, subject: &str, data: &str) {
    publisher
        .send_multipart([subject, data], 0)
        .expect("a send");
}

/// The data of an event of two frames.
pub fn received(socket: &zmq::Socket) -> String {
    let frames = socket.recv_multipart(0).expect("an event");
    String::from_utf8(frames.last().expect("a frame").clone()).expect("text")
}
