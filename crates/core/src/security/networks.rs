//! Networks of IP addresses.

// `core::net` has addresses and no sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

/// An IP network in CIDR notation: `10.0.0.0/8`, `fd00::/8`. A single address is a network too.
///
/// ```
/// # use event_manager_core::security::Network;
/// let site: Network = "10.1.0.0/16".parse()?;
/// assert!(site.contains("10.1.2.3".parse().unwrap()));
/// assert!(!site.contains("10.2.0.1".parse().unwrap()));
/// assert_eq!("192.168.7.9".parse::<Network>()?.to_string(), "192.168.7.9");
/// # Ok::<(), event_manager_core::security::NetworkError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Leading bits of the address that count: at most 32 or 128.
    prefix_bits: u8,
}

/// Why a text is no [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// What stands before the `/`, or the whole text, is not an IP address.
    #[error("an IP address or ADDRESS/BITS is wanted, such as 10.0.0.0/8")]
    Address,
    /// What stands behind the `/` is not a number of bits of such an address.
    #[error("a number from 0 to {0} is wanted behind the /")]
    Bits(u8),
    /// Bits of the address are set that the network leaves open. Holds the network that was probably
    /// meant.
    #[error("its address has more bits than the network: did you mean {0}?")]
    HostBits(Network),
}

impl Network {
    const fn v4(a: u8, b: u8, prefix_bits: u8) -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)),
            prefix_bits,
        }
    }

    const fn v6(first: u16, last: u16, prefix_bits: u8) -> Self {
        Self {
            address: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last)),
            prefix_bits,
        }
    }

    /// Itself, or if it has IPv4 addresses that are written as IPv6 ones, these.
    fn canonical(self) -> Self {
        match (
            self.address.to_canonical(),
            self.prefix_bits.checked_sub(96),
        ) {
            (address @ IpAddr::V4(_), Some(prefix_bits)) if self.address.is_ipv6() => Self {
                address,
                prefix_bits,
            },
            _ => self,
        }
    }

    /// Whether the address is in this network. IPv4 addresses that are written as IPv6 ones
    /// (`::ffff:10.0.0.1`) are taken for what they mean.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits_of(address) == bits_of(self.address)
            && masked(address, self.prefix_bits) == self.address
    }
}

fn bits_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with only its first bits.
fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits));
            Ipv4Addr::from_bits(v4.to_bits() & mask.unwrap_or(0)).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits));
            Ipv6Addr::from_bits(v6.to_bits() & mask.unwrap_or(0)).into()
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let bits_max = bits_of(address);
        let prefix_bits = match bits {
            None => bits_max,
            Some(bits) => {
                let is_number = bits.bytes().all(|byte| byte.is_ascii_digit());
                let bits = bits.parse().ok().filter(|bits| *bits <= bits_max);
                bits.filter(|_| is_number)
                    .ok_or(NetworkError::Bits(bits_max))?
            }
        };
        let network = Self {
            address: masked(address, prefix_bits),
            prefix_bits,
        };
        match network.address == address {
            true => Ok(network.canonical()),
            false => Err(NetworkError::HostBits(network)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_bits == bits_of(self.address) {
            true => self.address.fmt(f),
            false => write!(f, "{}/{}", self.address, self.prefix_bits),
        }
    }
}

/// Addresses that the Internet doesn't route: loopback, private, shared (carrier-grade NAT),
/// link-local, benchmarking and unique-local ones.
const LOCAL: [Network; 10] = [
    Network::v4(127, 0, 8),
    Network::v4(10, 0, 8),
    Network::v4(172, 16, 12),
    Network::v4(192, 168, 16),
    Network::v4(100, 64, 10),
    Network::v4(169, 254, 16),
    Network::v4(198, 18, 15),
    Network::v6(0, 1, 128),
    Network::v6(0xfc00, 0, 7),
    Network::v6(0xfe80, 0, 10),
];

/// Whether the Internet doesn't route this address.
pub fn is_local(address: IpAddr) -> bool {
    LOCAL.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// An administrator may copy them from a log of a socket for both families.
    #[test]
    fn networks_of_ipv4_addresses_written_as_ipv6_ones_are_what_they_mean() {
        for (written, meant) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            let network: Network = written.parse().unwrap();
            assert_eq!(network.to_string(), meant);
        }
        let network: Network = "::ffff:10.0.0.0/104".parse().unwrap();
        assert!(network.contains(ip("10.7.7.7")) && !network.contains(ip("11.0.0.1")));
    }

    #[test]
    fn addresses_that_the_internet_does_not_route_are_local() {
        let first_and_last = [
            ("127.0.0.0", "127.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("::1", "::1"),
            ("fc00::", "fdff:ffff::1"),
            ("fe80::1", "febf::1"),
            ("::ffff:10.0.0.1", "::ffff:192.168.0.1"),
        ];
        for (first, last) in first_and_last {
            assert!(is_local(ip(first)), "{first}");
            assert!(is_local(ip(last)), "{last}");
        }
        let global = [
            "8.8.8.8",
            "126.255.255.255",
            "128.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "2001:4860:4860::8888",
            "::",
            "::2",
            "fec0::1",
            "::ffff:8.8.8.8",
            "64:ff9b::a00:1",
        ];
        for address in global {
            assert!(!is_local(ip(address)), "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let refused = |text: &str| text.parse::<Network>().unwrap_err().to_string();
        for text in ["", "/", "10.0.0/8", "host/8", "10.0.0.0 /8", "[::1]", "*"] {
            assert_eq!(
                text.parse::<Network>(),
                Err(NetworkError::Address),
                "{text}"
            );
        }
        for text in ["10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/8/8"] {
            assert_eq!(
                refused(text),
                "a number from 0 to 32 is wanted behind the /",
                "{text}"
            );
        }
        assert_eq!(
            refused("::/129"),
            "a number from 0 to 128 is wanted behind the /"
        );
        assert_eq!(
            refused("10.1.2.3/8"),
            "its address has more bits than the network: did you mean 10.0.0.0/8?"
        );
    }

    #[test]
    fn the_narrowest_and_the_widest_networks_work() {
        let everything: Network = "0.0.0.0/0".parse().unwrap();
        assert!(everything.contains(ip("203.0.113.7")) && !everything.contains(ip("::1")));
        let everything: Network = "::/0".parse().unwrap();
        assert!(everything.contains(ip("fe80::1")) && !everything.contains(ip("10.0.0.1")));
        let one: Network = "::1/128".parse().unwrap();
        assert!(one.contains(ip("::1")) && !one.contains(ip("::2")));
    }

    proptest! {
        #[test]
        fn a_network_has_the_addresses_with_its_first_bits(
            network: u32, bits in 0u8..=32, address: u32, near: bool
        ) {
            let network = masked(Ipv4Addr::from_bits(network).into(), bits);
            let address: u32 = match (near, network) {
                // Most random addresses are in no random network.
                (true, IpAddr::V4(v4)) if bits > 0 => v4.to_bits() ^ (address >> (bits - 1)),
                _ => address,
            };
            let parsed: Network = format!("{network}/{bits}").parse().unwrap();
            let binary = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
                IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
            };
            let address: IpAddr = Ipv4Addr::from_bits(address).into();
            let expected = binary(address)[..bits.into()] == binary(network)[..bits.into()];
            prop_assert_eq!(parsed.contains(address), expected);
            prop_assert_eq!(parsed.to_string().parse::<Network>().unwrap(), parsed);
        }
    }
}
