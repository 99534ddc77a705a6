//! The W3C trace context, as events carry it.

use std::fmt;

/// Where in a trace something happened: what the text `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; not zero.
    pub trace_id: [u8; 16],
    /// The span that it happened in; not zero.
    pub span_id: [u8; 8],
    /// Bit 0 is whether the trace is recorded.
    pub flags: u8,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedTraceparent;

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LEN: usize = 55;

impl TraceContext {
    /// Reads `VERSION-TRACE-SPAN-FLAGS`, in lower-case hexadecimal digits. A version above `00` may say
    /// more behind that, after a dash, which is passed over, as the standard wants it.
    ///
    /// # Errors
    /// [`MalformedTraceparent`]: another form, version `ff`, or an id of zeros only.
    pub fn parse(text: &[u8]) -> Result<Self, MalformedTraceparent> {
        let (known, more) = text.split_at_checked(LEN).ok_or(MalformedTraceparent)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let [version] = digits(parts.next())?;
        let context = Self {
            trace_id: digits(parts.next())?,
            span_id: digits(parts.next())?,
            flags: digits::<1>(parts.next())?[0],
        };
        let ends_well = match version {
            0x00 => more.is_empty(),
            0xff => false,
            _ => matches!(more, [] | [b'-', ..]),
        };
        let is_named = context.trace_id != [0; 16] && context.span_id != [0; 8];
        (ends_well && is_named)
            .then_some(context)
            .ok_or(MalformedTraceparent)
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

fn digits<const N: usize>(text: Option<&[u8]>) -> Result<[u8; N], MalformedTraceparent> {
    let text = text
        .filter(|text| text.len() == 2 * N)
        .ok_or(MalformedTraceparent)?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(MalformedTraceparent),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace = u128::from_be_bytes(self.trace_id);
        let span = u64::from_be_bytes(self.span_id);
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The standard's grammar, read one character at a time.
    fn is_valid(text: &str) -> bool {
        let parts: Vec<&str> = text.split('-').collect();
        let hex = |part: &str, len: usize| {
            part.len() == len && part.chars().all(|c| "0123456789abcdef".contains(c))
        };
        let named = |part: &str| part.chars().any(|c| c != '0');
        match parts.as_slice() {
            [version, trace, span, flags, more @ ..] => {
                hex(version, 2)
                    && hex(trace, 32)
                    && hex(span, 16)
                    && hex(flags, 2)
                    && named(trace)
                    && named(span)
                    && *version != "ff"
                    && (*version != "00" || more.is_empty())
            }
            _ => false,
        }
    }

    /// Texts that are nearly right, and some that are.
    fn nearly() -> impl Strategy<Value = String> {
        let part = |len: usize| {
            prop_oneof![
                6 => proptest::string::string_regex(&format!("[0-9a-f]{{{len}}}")).unwrap(),
                1 => Just("0".repeat(len)),
                1 => proptest::string::string_regex("[0-9a-fA-Fg-]{0,33}").unwrap(),
            ]
        };
        let version = prop_oneof![
            Just("00".to_owned()),
            Just("ff".to_owned()),
            Just("01".to_owned()),
            part(2)
        ];
        let more = prop_oneof![
            Just(""),
            Just("-"),
            Just("-more-of-it"),
            Just("0"),
            Just(" ")
        ];
        (version, part(32), part(16), part(2), more)
            .prop_map(|(v, t, s, f, more)| format!("{v}-{t}-{s}-{f}{more}"))
    }

    proptest! {
        #[test]
        fn exactly_what_the_grammar_allows_is_read(text in nearly()) {
            prop_assert_eq!(TraceContext::parse(text.as_bytes()).is_ok(), is_valid(&text), "{}", text);
        }

        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., flags: u8) {
            let context = TraceContext {
                trace_id: trace.to_be_bytes(),
                span_id: span.to_be_bytes(),
                flags,
            };
            prop_assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Ok(context));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let is_text = text.as_bytes() == bytes;
            prop_assert_eq!(TraceContext::parse(&bytes).is_ok(), is_text && is_valid(&text));
        }
    }

    #[test]
    fn the_standards_example() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        assert!(context.is_sampled());
        assert_eq!(context.span_id[..2], [0xb7, 0xad]);
        let unsampled = EXAMPLE.replace("-01", "-02");
        assert!(
            !TraceContext::parse(unsampled.as_bytes())
                .unwrap()
                .is_sampled()
        );
    }
}
