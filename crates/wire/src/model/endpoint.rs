//! Addresses in libzmq's notation.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::excerpt::excerpt;

/// Where a socket is bound or dialled: `tcp://host:port`, `tcp://*:port` (all interfaces, IPv6 too
/// where the machine has it), `tcp://[::1]:port`, `ipc://path` or `ipc://@name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP address; the host is a name, an address without brackets, or `*`.
    Tcp {
        /// Host name, IP address, or `*`.
        host: String,
        /// 0 asks the system for a free one.
        port: u16,
    },
    /// A Unix domain socket: a file's path, or `@` and a name in Linux's abstract namespace.
    Ipc(PathBuf),
}

/// What names the socket of an `ipc://` address to the system: its file's path, or a NUL and the rest
/// of a name that begins with `@`, which has no file.
pub fn socket_name(path: &Path) -> Cow<'_, Path> {
    match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => {
            let name = [b"\0", name].concat();
            Cow::Owned(OsStr::from_bytes(&name).into())
        }
        _ => Cow::Borrowed(path),
    }
}

/// What is wrong with an address; a sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidEndpoint(String);

impl fmt::Display for InvalidEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidEndpoint {}

impl Endpoint {
    /// The longest address, in bytes: a host's name has at most 255, a socket's path 107.
    pub const BYTES_MAX: usize = 512;

    /// A TCP endpoint from its parts.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp {
            host: host.into(),
            port,
        }
    }

    /// The same endpoint on another TCP port; an `ipc://` one gets the port as a suffix of its path.
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Tcp { host, .. } => Self::tcp(host.clone(), port),
            Self::Ipc(path) => Self::Ipc(format!("{}-{port}", path.display()).into()),
        }
    }

    /// The TCP port, if it is a TCP endpoint.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } => Some(*port),
            Self::Ipc(_) => None,
        }
    }

    /// Where this machine itself can connect to what is bound here: all interfaces include loopback.
    pub fn local(&self) -> Self {
        match self {
            Self::Tcp { host, port } if matches!(host.as_str(), "*" | "0.0.0.0") => {
                Self::tcp("127.0.0.1", *port)
            }
            Self::Tcp { host, port } if host == "::" => Self::tcp("::1", *port),
            _ => self.clone(),
        }
    }

    /// Takes `tcp://host` too, for a key whose ports come from elsewhere; the port is then 0.
    ///
    /// # Errors
    /// [`InvalidEndpoint`] is a sentence that names the address.
    pub fn parse_without_port(written: &str) -> Result<Self, InvalidEndpoint> {
        match written.strip_prefix("tcp://") {
            Some(host) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
                Ok(Self::tcp(unbracketed(host, written)?, 0))
            }
            _ => written.parse(),
        }
    }
}

fn unbracketed<'a>(host: &'a str, written: &str) -> Result<&'a str, InvalidEndpoint> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    if host.is_empty() {
        return Err(InvalidEndpoint(format!(
            "{written:?} has no host; write tcp://*:PORT for all"
        )));
    }
    if bare.is_none() && host.contains(':') {
        return Err(InvalidEndpoint(format!(
            "{written:?}: an IPv6 host needs brackets"
        )));
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || ",/".contains(c)) {
        return Err(InvalidEndpoint(format!(
            "{written:?}: {host:?} is not a host name"
        )));
    }
    Ok(host)
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(written: &str) -> Result<Self, InvalidEndpoint> {
        if written.len() > Self::BYTES_MAX {
            let (len, max) = (written.len(), Self::BYTES_MAX);
            let begin = excerpt(written, 40);
            return Err(InvalidEndpoint(format!(
                "{begin:?} has {len} bytes; an address has at most {max}"
            )));
        }
        if let Some(path) = written.strip_prefix("ipc://") {
            if path.is_empty() || path == "@" {
                return Err(InvalidEndpoint(format!("{written:?} has no path")));
            }
            if path.contains('\0') {
                return Err(InvalidEndpoint(format!("{written:?} holds a NUL")));
            }
            return Ok(Self::Ipc(path.into()));
        }
        let Some(rest) = written.strip_prefix("tcp://") else {
            return Err(InvalidEndpoint(format!(
                "{written:?} is not an address; write tcp://HOST:PORT or ipc://PATH"
            )));
        };
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(InvalidEndpoint(format!("{written:?} has no port")));
        };
        // libzmq writes a port that the system chooses as `*` or `0`.
        let port = if port == "*" { Ok(0) } else { port.parse() };
        let port = port.map_err(|_| {
            InvalidEndpoint(format!("{written:?}: the port is a number from 0 to 65535"))
        })?;
        Ok(Self::tcp(unbracketed(host, written)?, port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for written in [
            "tcp://*:5000",
            "tcp://localhost:0",
            "tcp://[::1]:7",
            "ipc:///tmp/a.sock",
            "ipc://@name",
        ] {
            assert_eq!(written.parse::<Endpoint>().unwrap().to_string(), written);
        }
        assert_eq!(
            "tcp://*:*".parse::<Endpoint>().unwrap(),
            Endpoint::tcp("*", 0)
        );
        assert_eq!(
            Endpoint::parse_without_port("tcp://*").unwrap(),
            Endpoint::tcp("*", 0)
        );
        assert_eq!(
            Endpoint::parse_without_port("tcp://[::]").unwrap(),
            Endpoint::tcp("::", 0)
        );
    }

    #[test]
    fn what_is_bound_to_all_interfaces_is_reached_by_loopback() {
        let local = |text: &str| text.parse::<Endpoint>().unwrap().local().to_string();
        assert_eq!(local("tcp://*:6000"), "tcp://127.0.0.1:6000");
        assert_eq!(local("tcp://[::]:6000"), "tcp://[::1]:6000");
        assert_eq!(local("tcp://host:6000"), "tcp://host:6000");
    }

    #[test]
    fn wrong_addresses_are_named() {
        for (written, part) in [
            ("5000", "write tcp://"),
            ("tcp://host", "no port"),
            ("tcp://host:70000", "0 to 65535"),
            ("tcp://:5000", "no host"),
            ("tcp://::1:5", "brackets"),
            ("ipc://", "no path"),
            ("ipc://@", "no path"),
            ("udp://x:1", "write tcp://"),
            ("tcp://a b:1", "not a host name"),
        ] {
            let error = written.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(written), "{error}");
        }
    }
}
