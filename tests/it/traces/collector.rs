//! A collector of spans, as far as a daemon sees of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use event_manager_wire::model::Endpoint;
use serde_json::Value;

use crate::support::PATIENCE;

/// It takes requests one after another, and ends with the test.
pub struct Collector {
    address: SocketAddr,
    requests: Receiver<Value>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Answers the first requests with these, and all others with 200.
    pub fn answering(first: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (told, requests) = channel();
        let mut answers = first.iter().copied();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let answer = answers
                    .next()
                    .unwrap_or("200 OK\r\nContent-Length: 2\r\n\r\n{}");
                if !converse(stream, &told, answer) {
                    return;
                }
            }
        });
        Self {
            address,
            requests,
            thread: Some(thread),
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::tcp("127.0.0.1", self.address.port())
    }

    /// The spans of the next request.
    pub fn next(&self) -> Vec<Value> {
        let request = self.requests.recv_timeout(PATIENCE).expect("a request");
        let resource = &request["resourceSpans"][0];
        let service = &resource["resource"]["attributes"][0];
        assert_eq!(service["key"], "service.name");
        assert_eq!(service["value"]["stringValue"], "EventManager");
        let spans = resource["scopeSpans"][0]["spans"].as_array();
        spans.expect("a list").clone()
    }

    /// The next spans, this many, in the order of their names.
    pub fn spans(&self, count: usize) -> Vec<Value> {
        let mut spans = vec![];
        while spans.len() < count {
            spans.extend(self.next());
        }
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans.sort_by_key(|span| span["name"].to_string());
        spans
    }

    /// Whether no request came that nobody looked at.
    pub fn is_silent(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

/// One request and its answer; false if it says nothing.
fn converse(mut stream: TcpStream, told: &Sender<Value>, answer: &str) -> bool {
    let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    };
    let first = line();
    if first.is_empty() {
        return false;
    }
    assert_eq!(first, "POST /v1/traces HTTP/1.1");
    let (mut length, mut content_type) = (0, String::new());
    loop {
        let header = line();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().expect("a number"),
            Some(("content-type", value)) => content_type = value.to_owned(),
            Some(_) => {}
        }
    }
    assert_eq!(content_type, "application/json");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    let answer = format!("HTTP/1.1 {answer}");
    stream.write_all(answer.as_bytes()).expect("a listener");
    // Fails when the test has seen enough.
    let _ = told.send(body);
    true
}

impl Drop for Collector {
    fn drop(&mut self) {
        // A connection without a request ends it.
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().expect("it runs").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}
