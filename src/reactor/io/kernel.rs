//! What the kernel knows of connections, where it tells.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// From this many unanswered retransmissions or window probes on, a machine is taken for gone: the
/// first of either is no news on a bad network.
const UNANSWERED_MIN: u32 = 3;

/// The remote addresses of TCP connections whose other machine doesn't answer. Empty where the system
/// has no such list: then nobody is taken for gone.
pub(crate) fn tcp_troubles() -> HashSet<String> {
    // Not `/proc/net`, which a service that may see processes alone does not have.
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    texts
        .flat_map(|text| text.lines().skip(1).filter_map(trouble).collect::<Vec<_>>())
        .collect()
}

/// A line's remote address, if that doesn't answer. Columns: `sl local remote st tx:rx tr:when
/// retrnsmt uid timeout …`; `timeout` counts unanswered probes of a closed window.
fn trouble(line: &str) -> Option<String> {
    let mut columns = line.split_whitespace();
    let remote = columns.nth(2)?;
    let retransmits = u32::from_str_radix(columns.nth(3)?, 16).ok()?;
    let probes: u32 = columns.nth(1)?.parse().ok()?;
    (retransmits.max(probes) >= UNANSWERED_MIN).then(|| parse_address(remote))?
}

/// `0100007F:1388`: words of the host's byte order, then the port.
fn parse_address(text: &str) -> Option<String> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|i| {
            u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16)
                .ok()
                .map(u32::to_ne_bytes)
        })
        .collect();
    let ip = match &words?[..] {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (slot, word) in bytes.chunks_mut(4).zip([a, b, c, d]) {
                slot.copy_from_slice(word);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let line = |retransmits: &str, probes: &str| {
            format!(
                "   1: 0100007F:1388 0200007F:C350 01 00000010:00000000 01:00000019 {retransmits}     0        {probes} 12345 2 0"
            )
        };
        assert_eq!(trouble(&line("00000000", "0")), None);
        assert_eq!(
            trouble(&line("00000005", "0")),
            Some("127.0.0.2:50000".into())
        );
        assert_eq!(
            trouble(&line("00000000", "4")),
            Some("127.0.0.2:50000".into())
        );
        let mapped = "0000000000000000FFFF00000200007F:C350";
        assert_eq!(parse_address(mapped), Some("127.0.0.2:50000".into()));
        assert_eq!(
            parse_address("00000000000000000000000001000000:0001"),
            Some("[::1]:1".into())
        );
        assert_eq!(trouble("nonsense"), None);
    }
}
