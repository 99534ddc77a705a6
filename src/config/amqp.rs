//! Addresses of RabbitMQ: `amqp://HOST:PORT/VHOST`.

/// Where a RabbitMQ is, and which of its virtual hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpAddress {
    /// Whether it is `amqps://`.
    pub is_tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// `/` unless another is named.
    pub vhost: String,
}

/// What AMQP has for names, in bytes.
const NAME_BYTES_MAX: usize = 255;

impl AmqpAddress {
    /// Reads one.
    ///
    /// # Errors
    /// What is wanted.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{url:?}: {what}"));
        let (is_tls, rest) = match url.split_once("://") {
            Some(("amqp", rest)) => (false, rest),
            Some(("amqps", rest)) => (true, rest),
            _ => return wrong("it begins with amqp:// or amqps://, and a host"),
        };
        if rest.contains(['?', '#']) {
            return wrong("nothing stands behind the virtual host here");
        }
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) => (host, port),
                None => return wrong("an IPv6 address stands in brackets"),
            },
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':').map(str::parse) {
            None if port.is_empty() && is_tls => 5671,
            None if port.is_empty() => 5672,
            Some(Ok(port)) if port != 0 => port,
            _ => return wrong("a port from 1 to 65535 stands behind the host"),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return wrong("a host is wanted, such as amqp://127.0.0.1:5672/%2f");
        }
        let vhost = match vhost {
            "" => Some("/".to_owned()),
            vhost => decoded(vhost),
        };
        let vhost = vhost.filter(|name| name.len() <= NAME_BYTES_MAX);
        let Some(vhost) = vhost else {
            return wrong(
                "behind the host stands one virtual host of at most 255 bytes; / and % in its name are %2f and %25",
            );
        };
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port,
            vhost,
        })
    }
}

/// A name of an address, where some bytes are written as `%` and two hexadecimal digits.
fn decoded(text: &str) -> Option<String> {
    if text.contains('/') {
        return None;
    }
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_virtual_host() {
        for (url, expected) in [
            ("amqp://mq", (false, "mq", 5672, "/")),
            ("amqp://mq/", (false, "mq", 5672, "/")),
            ("amqp://mq:5673/%2f", (false, "mq", 5673, "/")),
            ("amqps://mq.office/pos", (true, "mq.office", 5671, "pos")),
            ("amqps://[::1]:5671/a%2Fb%25", (true, "::1", 5671, "a/b%")),
            ("amqp://[fe80::1]", (false, "fe80::1", 5672, "/")),
        ] {
            let (is_tls, host, port, vhost) = expected;
            let expected = AmqpAddress {
                is_tls,
                host: host.into(),
                port,
                vhost: vhost.into(),
            };
            assert_eq!(AmqpAddress::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_address_says_what_is_wanted() {
        for (url, wanted) in [
            ("http://mq", "begins with amqp://"),
            ("amqp://", "a host is wanted"),
            ("amqp://:5672", "a host is wanted"),
            ("amqp://mq:0", "a port from 1"),
            ("amqp://mq:x", "a port from 1"),
            ("amqp://[::1", "in brackets"),
            ("amqp://[::1]5", "a port from 1"),
            ("amqp://mq/a/b", "%2f"),
            ("amqp://mq/a%", "%2f"),
            ("amqp://mq/%+1", "%2f"),
            ("amqp://mq/%ff", "%2f"),
            ("amqp://mq/%2f?heartbeat=1", "nothing stands behind"),
        ] {
            let said = AmqpAddress::parse(url).unwrap_err();
            assert!(said.contains(wanted), "{url}: {said}");
        }
        assert!(AmqpAddress::parse(&format!("amqp://mq/{}", "v".repeat(256))).is_err());
    }
}
