//! How a message's data is to be read.

use std::fmt;

/// The data types of the MessageBus, by their number, and others, which nobody here reads: they pass
/// through as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// No data, or of no stated type.
    Empty,
    /// XML text.
    Xml,
    /// Fields separated by NUL.
    Param,
    /// An endpoint, such as `tcp://host:port`.
    AddrPort,
    /// A number of 32 bits.
    Int32,
    /// A number of 64 bits.
    Int64,
    /// Text.
    String,
    /// Texts separated by `|`.
    StrArrayPipe,
    /// A picture as JPEG.
    Jpg,
    /// A picture as PNG.
    Png,
    /// A picture as GIF.
    Gif,
    /// A document as PDF.
    Pdf,
    /// A description of an interface.
    Swagger,
    /// One of another site, by its number, from 13.
    Number(u64),
    /// One of another site, by its name.
    Name(TypeName),
}

/// A name that no data type here has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeName {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

impl TypeName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 30;

    /// A name of visible characters. `None` for anything else, and for a longer one.
    fn new(name: &str) -> Option<Self> {
        let len = u8::try_from(name.len()).ok().filter(|len| *len > 0)?;
        let is_visible = |c: char| !c.is_control() && !c.is_whitespace();
        let mut bytes = [0; Self::BYTES_MAX];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        name.chars().all(is_visible).then_some(Self { bytes, len })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len.into()]).unwrap_or_default()
    }
}

impl fmt::Debug for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl DataType {
    const ALL: [(Self, &'static str); 13] = [
        (Self::Empty, "EMPTY"),
        (Self::Xml, "XML"),
        (Self::Param, "PARAM"),
        (Self::AddrPort, "ADDR_PORT"),
        (Self::Int32, "INT32"),
        (Self::Int64, "INT64"),
        (Self::String, "STRING"),
        (Self::StrArrayPipe, "STR_ARRAY_PIPE"),
        (Self::Jpg, "JPG"),
        (Self::Png, "PNG"),
        (Self::Gif, "GIF"),
        (Self::Pdf, "PDF"),
        (Self::Swagger, "SWAGGER"),
    ];

    /// The type of this number.
    pub fn from_number(number: u64) -> Self {
        let index = usize::try_from(number).ok();
        let known = index.and_then(|index| Self::ALL.get(index));
        known.map_or(Self::Number(number), |(kind, _)| *kind)
    }

    /// The type of this name, in any case; `UNDEFINED` is another name of `EMPTY`. `None` if it can't be
    /// a name: it is longer than 30 bytes, or has spaces or control characters.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("UNDEFINED") {
            return Some(Self::Empty);
        }
        let known = Self::ALL
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name));
        match known {
            Some((kind, _)) => Some(*kind),
            None => TypeName::new(name).map(Self::Name),
        }
    }

    /// Whether it is one of those that are listed in docs/protocol.md.
    pub fn is_known(self) -> bool {
        !matches!(self, Self::Number(_) | Self::Name(_))
    }

    /// Its number; `None` if only its name is known.
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            kind => Self::ALL
                .iter()
                .position(|(known, _)| *known == kind)
                .map(|index| index as u64),
        }
    }

    /// Its name; `None` if only its number is known.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name.as_str()),
            kind => Self::ALL
                .iter()
                .find(|(known, _)| known == kind)
                .map(|(_, name)| *name),
        }
    }
}

impl fmt::Display for DataType {
    /// Its name, or its number if it has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.number()) {
            (Some(name), _) => f.write_str(name),
            (None, number) => number.unwrap_or_default().fmt(f),
        }
    }
}
