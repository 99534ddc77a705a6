//! Where instances may be found that nobody has named.

// `core::net` has addresses and no sockets.
use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::security::{Network, NetworkError};

/// The most ports of a place.
pub const PLACE_PORTS_MAX: usize = 16;

/// Ports of all hosts of a network, at which instances may publish: `tcp://10.0.0.0/24:5555`,
/// `tcp://127.0.0.1:5555-5557`, `tcp://[fd00::]/64:5555`.
///
/// ```
/// # use event_manager_core::instances::Place;
/// let place: Place = "tcp://10.0.0.0/24:5555-5556".parse()?;
/// let found = place.at("10.0.0.7".parse().unwrap());
/// assert_eq!(found.map(|at| at.to_string()).collect::<Vec<_>>(), ["10.0.0.7:5555", "10.0.0.7:5556"]);
/// assert_eq!(place.at("10.0.1.7".parse().unwrap()).count(), 0);
/// # Ok::<(), event_manager_core::instances::PlaceError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    network: Network,
    ports: RangeInclusive<u16>,
}

/// Why a text is no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It has not this form.
    #[error(
        "tcp://NETWORK:PORT or tcp://NETWORK:FIRST-LAST is wanted, such as tcp://10.0.0.0/24:5555"
    )]
    Form,
    /// The network is none.
    #[error("the network: {0}")]
    Network(#[from] NetworkError),
    /// There is no port, or too many.
    #[error("1 to {PLACE_PORTS_MAX} ports from 1 to 65535 are wanted, as 5555 or 5555-5557")]
    Ports,
}

impl Place {
    /// The addresses at which instances of this host may publish.
    pub fn at(&self, host: IpAddr) -> impl Iterator<Item = SocketAddr> {
        let host = host.to_canonical();
        let ports = self.network.contains(host).then(|| self.ports.clone());
        let ports = ports.into_iter().flatten();
        ports.map(move |port| SocketAddr::new(host, port))
    }
}

/// Where instances of these hosts may publish, by any of the places.
pub fn found(places: &[Place], hosts: impl IntoIterator<Item = IpAddr>) -> BTreeSet<SocketAddr> {
    let hosts = hosts.into_iter();
    let found = hosts.flat_map(|host| places.iter().flat_map(move |place| place.at(host)));
    found.collect()
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let rest = text.strip_prefix("tcp://").ok_or(PlaceError::Form)?;
        let (network, ports) = rest.rsplit_once(':').ok_or(PlaceError::Form)?;
        // IPv6 addresses stand in brackets, as their colons would be taken for the port's.
        let network = match network.strip_prefix('[') {
            Some(rest) => rest.replacen(']', "", 1),
            None if network.contains(':') => return Err(PlaceError::Form),
            None => network.to_owned(),
        };
        let network = network.parse()?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let (first, last) = port(first).zip(port(last)).ok_or(PlaceError::Ports)?;
        let ports = first..=last;
        match (1..=PLACE_PORTS_MAX).contains(&ports.len()) {
            true => Ok(Self { network, ports }),
            false => Err(PlaceError::Ports),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = self.network.to_string();
        f.write_str("tcp://")?;
        match (network.contains(':'), network.split_once('/')) {
            (false, _) => f.write_str(&network)?,
            (true, Some((address, bits))) => write!(f, "[{address}]/{bits}")?,
            (true, None) => write!(f, "[{network}]")?,
        }
        write!(f, ":{}", self.ports.start())?;
        match self.ports.end() == self.ports.start() {
            true => Ok(()),
            false => write!(f, "-{}", self.ports.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in [
            "tcp://10.0.0.0/24:5555",
            "tcp://127.0.0.1:5555-5557",
            "tcp://[fd00::]/64:1-16",
            "tcp://[::1]:65535",
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_says_what_is_wanted() {
        for (text, says) in [
            ("10.0.0.0/24:5555", "tcp://NETWORK:PORT"),
            ("tcp://10.0.0.0/24", "tcp://NETWORK:PORT"),
            ("tcp://fd00::/64:5555", "tcp://NETWORK:PORT"),
            ("ipc:///tmp/x", "tcp://NETWORK:PORT"),
            ("tcp://host:5555", "an IP address"),
            ("tcp://10.0.0.1/24:5555", "did you mean 10.0.0.0/24"),
            ("tcp://10.0.0.0/33:5555", "from 0 to 32"),
            ("tcp://10.0.0.1:0", "1 to 16 ports"),
            ("tcp://10.0.0.1:5555-5571", "1 to 16 ports"),
            ("tcp://10.0.0.1:5556-5555", "1 to 16 ports"),
            ("tcp://10.0.0.1:65536", "1 to 16 ports"),
            ("tcp://10.0.0.1:*", "1 to 16 ports"),
            ("tcp://10.0.0.1:", "1 to 16 ports"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn only_hosts_of_its_network_are_found_and_each_once() {
        let places = [
            "tcp://10.0.0.0/24:1-2",
            "tcp://10.0.0.0/8:2-3",
            "tcp://[::1]:7",
        ];
        let places = places.map(|text| text.parse().unwrap());
        let at = |hosts: &[&str]| -> Vec<String> {
            let hosts = hosts.iter().map(|host| host.parse().unwrap());
            found(&places, hosts)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            at(&["10.0.0.9"]),
            ["10.0.0.9:1", "10.0.0.9:2", "10.0.0.9:3"]
        );
        assert_eq!(
            at(&["::ffff:10.9.9.9", "11.0.0.1"]),
            ["10.9.9.9:2", "10.9.9.9:3"]
        );
        assert_eq!(at(&["::1", "::2", "127.0.0.1"]), ["[::1]:7"]);
        assert!(at(&[]).is_empty());
    }
}
