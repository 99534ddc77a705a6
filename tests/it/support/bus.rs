//! MessageBus requests in every form, and what stands between a client and the daemon.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;

use event_manager::config::Config;
use event_manager_wire::model::Endpoint;

use super::peers::connected;
use super::{TestDaemon, tunnel};

pub type Frames = Vec<Vec<u8>>;

/// Sends a request; its answer.
pub fn exchange(socket: &zmq::Socket, frames: &[&[u8]]) -> Frames {
    socket.send_multipart(frames, 0).expect("a send");
    socket.recv_multipart(0).expect("an answer")
}

/// The code of a NAK's data: what stands before the colon.
pub fn code_of(data: &str) -> &str {
    data.split_once(": ").expect("a code and a sentence").0
}

impl TestDaemon {
    /// The code of the NAK that is the answer.
    pub fn refusal(&self, token: &str, fields: &[&str]) -> String {
        let (answer, data) = self.ask(token, fields);
        assert_eq!(answer, "TK_SYS_NAK", "{data}");
        code_of(&data).to_owned()
    }

    pub fn unsubscribe(&self, id: &str) {
        let (token, data) = self.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &[id]);
        assert_eq!(token, "TK_SYS_ACK", "{data}");
    }
}

/// An address of the loopback network that nothing else uses, in this process or beside it, so that a
/// port which is free there stays free.
pub fn own_host() -> String {
    static HOSTS: AtomicU16 = AtomicU16::new(0);
    let [high, low] = HOSTS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Not 127.0.0.1.
    let process = 1 + std::process::id() % 255;
    Ipv4Addr::new(127, process as u8, high, low).to_string()
}

/// The address at which the daemons of a test listen, and no others: each test has a thread.
pub fn host_of_test() -> String {
    thread_local!(static HOST: String = own_host());
    HOST.with(String::clone)
}

/// Gives services an address of their own.
pub fn services_on(host: &str) -> impl FnOnce(&mut Config) {
    let address = Endpoint::tcp(host, 0);
    let host = host.to_owned();
    move |config| {
        config.pull_address = address;
        config.public_hostname = host;
    }
}

/// A ROUTER/DEALER proxy of libzmq in front of an address.
pub struct Proxy {
    pub address: String,
    context: zmq::Context,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn to(backend: &str) -> Self {
        let context = zmq::Context::new();
        let front = super::peers::socket(&context, zmq::ROUTER);
        front.bind("tcp://127.0.0.1:*").expect("a free port");
        let address = front.get_last_endpoint().expect("it is bound");
        let address = address.expect("a text");
        tunnel::spare(&address);
        let back = connected(&context, zmq::DEALER, backend);
        let thread = std::thread::spawn(move || {
            let ended = zmq::proxy(&front, &back).expect_err("only the context's end ends it");
            assert_eq!(ended, zmq::Error::ETERM);
        });
        Self {
            address,
            context,
            thread: Some(thread),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.context.destroy().expect("the sockets are closed");
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// A message as ZMTP writes it.
pub fn zmtp_message(frames: &[&[u8]]) -> Vec<u8> {
    const MORE: u8 = 1;
    const LONG: u8 = 2;
    let mut message = vec![];
    for (at, frame) in frames.iter().enumerate() {
        let more = if at + 1 < frames.len() { MORE } else { 0 };
        message.push(LONG | more);
        message.extend((frame.len() as u64).to_be_bytes());
        message.extend(*frame);
    }
    message
}
