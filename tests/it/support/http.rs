//! A client of the HTTP listener, and a reader of metrics that lets nothing pass.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use event_manager_wire::api::{Readiness, Stats};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{PATIENCE, TestDaemon};

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names are in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        self.read()
    }

    /// The JSON, as types.
    pub fn read<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A connection that is used again and again.
pub struct HttpClient(BufReader<TcpStream>);

impl HttpClient {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option");
        Self(BufReader::new(stream))
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    /// With header lines, each with its end.
    pub fn request(&mut self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: it\r\n{headers}\r\n").as_bytes());
        self.answer(method == "HEAD")
    }

    /// Sends as long as it is heard.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    pub fn answer(&mut self, without_body: bool) -> Answer {
        let first = self.line();
        let status = first.split(' ').nth(1).expect("a status");
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header");
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or("0", |n| n);
        let mut body = vec![0; length.parse().expect("a length")];
        if !without_body {
            self.0.read_exact(&mut body).expect("a body");
        }
        Answer {
            status: status.parse().expect("a number"),
            headers,
            body: String::from_utf8(body).expect("text"),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        assert!(line.ends_with("\r\n"), "{line:?}");
        line.trim_end().to_owned()
    }

    /// Says no more.
    pub fn shut(&mut self) {
        let _ = self.0.get_mut().shutdown(std::net::Shutdown::Write);
    }

    /// Whether the daemon closes the connection; what it said before goes by.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl TestDaemon {
    /// Asks once, on a connection of its own.
    pub fn http_get(&self, path: &str) -> Answer {
        HttpClient::connect(self.http()).get(path)
    }

    /// Asks for JSON until it is as wanted.
    pub fn http_wait_for<T: DeserializeOwned + Debug>(
        &self,
        path: &str,
        what: &str,
        wanted: impl Fn(&T) -> bool,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen: T = self.http_get(path).read();
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} did not come: {seen:#?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// What `/stats` says, as types.
    pub fn stats(&self) -> Stats {
        self.http_get("/stats").read()
    }

    /// What `/readyz` says.
    pub fn readiness(&self) -> Readiness {
        self.http_get("/readyz").read()
    }

    /// Waits until `/readyz` says what is wanted.
    pub fn wait_for_readiness(&self, what: &str, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        self.http_wait_for("/readyz", what, wanted)
    }

    /// The metrics as OpenMetrics, taken after now.
    pub fn metrics(&self) -> Metrics {
        let taken_at_ms = self.stats().taken_at_ms;
        self.http_wait_for("/stats", "a new snapshot", |stats: &Stats| {
            stats.taken_at_ms != taken_at_ms
        });
        let answer = self.http_get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::parse(&answer.body)
    }
}

/// Labels in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// What a text in the OpenMetrics format says.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The kind of each family.
    pub families: BTreeMap<String, String>,
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Metrics {
    /// Reads a text, and fails on all that the format doesn't allow.
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("an end");
        let mut metrics = Self::default();
        let mut family = ("", "");
        let mut help = None;
        for line in body.lines() {
            if let Some(described) = line.strip_prefix("# HELP ") {
                let (name, about) = described.split_once(' ').expect("a text");
                assert!(is_name(name) && !about.is_empty(), "{line}");
                assert_eq!(help.replace(name), None, "no type before {line}");
            } else if let Some(described) = line.strip_prefix("# TYPE ") {
                family = described.split_once(' ').expect("a kind");
                assert_eq!(help.take(), Some(family.0), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&family.1));
                let known = metrics.families.insert(family.0.into(), family.1.into());
                assert_eq!(known, None, "twice: {line}");
            } else {
                assert!(!line.starts_with('#') && help.is_none(), "{line}");
                metrics.add(line, family);
            }
        }
        metrics.check_histograms();
        metrics
    }

    fn add(&mut self, line: &str, (family, kind): (&str, &str)) {
        let end = line.find(['{', ' ']).expect("a value");
        let (name, rest) = line.split_at(end);
        let suffix = name.strip_prefix(family).expect("a sample of the family");
        let allowed: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            _ => &["_bucket", "_count", "_sum"],
        };
        assert!(is_name(name) && allowed.contains(&suffix), "{line}");
        let (labels, value) = match rest.strip_prefix('{') {
            None => (Labels::new(), rest),
            Some(rest) => read_labels(rest),
        };
        let value = value.strip_prefix(' ').expect("a blank");
        let number: f64 = value.parse().expect("a number");
        assert!(kind == "gauge" || number >= 0.0, "{line}");
        let twice = self.samples.insert((name.into(), labels), number);
        assert_eq!(twice, None, "twice: {line}");
    }

    fn check_histograms(&self) {
        let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            let Some(family) = name.strip_suffix("_bucket") else {
                continue;
            };
            let mut labels = labels.clone();
            let le = labels.remove("le").expect("a bound");
            let le = le.parse().expect("a number");
            let key = (family.to_owned(), labels);
            buckets.entry(key).or_default().push((le, *value));
        }
        for ((family, labels), mut counts) in buckets {
            counts.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                counts.is_sorted_by(|a, b| a.1 <= b.1),
                "{family} {labels:?}"
            );
            let (last, all) = counts.last().expect("one bucket");
            assert!(last.is_infinite());
            let of = |suffix: &str| self.samples[&(format!("{family}{suffix}"), labels.clone())];
            assert_eq!(of("_count"), *all, "{family} {labels:?}");
            assert!((of("_sum") > 0.0) == (*all > 0.0) || of("_sum") == 0.0);
        }
    }

    /// The value of a sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Labels = labels
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let key = (name.to_owned(), labels);
        *self
            .samples
            .get(&key)
            .unwrap_or_else(|| panic!("{key:?} is not there: {:#?}", self.samples))
    }

    /// All samples with this name, together, that have this label.
    pub fn sum(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let wanted = self.samples.iter().filter(|((found, labels), _)| {
            let has = |(label, value): (&str, &str)| labels.get(label).is_some_and(|l| l == value);
            found == name && label.is_none_or(has)
        });
        wanted.map(|(_, value)| value).sum()
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Labels after their brace, and what follows them.
fn read_labels(mut rest: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    loop {
        let (name, quoted) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name), "{name:?}");
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().expect("an end of the label") {
                (end, '"') => break end,
                (_, '\\') => match chars.next().expect("what is escaped").1 {
                    'n' => value.push('\n'),
                    escaped @ ('"' | '\\') => value.push(escaped),
                    other => panic!("\\{other} means nothing"),
                },
                (_, char) => value.push(char),
            }
        };
        assert_eq!(labels.insert(name.into(), value), None, "a label twice");
        rest = &quoted[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, rest.strip_prefix('}').expect("a brace")),
        }
    }
}
