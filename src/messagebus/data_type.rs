//! How a message's data is to be read.

/// The data types of the MessageBus, by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// No data, or of no stated type.
    Empty = 0,
    /// XML text.
    Xml = 1,
    /// Fields separated by NUL.
    Param = 2,
    /// An address.
    AddrPort = 3,
    /// A number of 32 bits.
    Int32 = 4,
    /// A number of 64 bits.
    Int64 = 5,
    /// Text.
    String = 6,
    /// Texts separated by `|`.
    StrArrayPipe = 7,
    /// A picture.
    Jpg = 8,
    /// A picture.
    Png = 9,
    /// A picture.
    Gif = 10,
    /// A document.
    Pdf = 11,
    /// A description of an interface.
    Swagger = 12,
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
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .get(usize::try_from(number).ok()?)
            .map(|(kind, _)| *kind)
    }

    /// The type of this name, in any case; `UNDEFINED` is another name of `EMPTY`.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("UNDEFINED") {
            return Some(Self::Empty);
        }
        Self::ALL
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(kind, _)| *kind)
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}
