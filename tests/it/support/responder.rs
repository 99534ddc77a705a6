//! A service that answers sync events.

use std::thread::JoinHandle;

use super::bus::exchange;
use super::peers::{connected, socket};
use super::tunnel;

/// It answers all alike, in a thread of its own.
pub struct Responder {
    pub address: String,
    context: zmq::Context,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Answers with this token, such as `TK_SYS_ACK`, and data.
    pub fn new(token: &'static str, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        let context = zmq::Context::new();
        let service = socket(&context, zmq::REP);
        service.set_rcvtimeo(-1).expect("an option");
        service.bind("tcp://127.0.0.1:*").expect("a free port");
        let address = service.get_last_endpoint().expect("it is bound");
        let address = tunnel::before(&address.expect("a text"));
        let thread = std::thread::spawn(move || {
            let answer = || [token.as_bytes(), b"STRING", &data];
            // Until its context ends, which may be while it answers.
            while service.recv_multipart(0).is_ok() && service.send_multipart(answer(), 0).is_ok() {
            }
        });
        Self {
            address,
            context,
            thread: Some(thread),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.context.destroy().expect("the socket is closed");
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Tells a ServiceLocator where a service is.
pub fn register(locator: &str, service: &str, address: &str) {
    let context = zmq::Context::new();
    let client = connected(&context, zmq::REQ, locator);
    let data = format!("{service}\0{address}");
    let answer = exchange(
        &client,
        &[b"TK_SERVICE_LOCATOR_REGISTER", b"PARAM", data.as_bytes()],
    );
    assert_eq!(answer[0], b"TK_SYS_ACK");
}
