//! Texts of peers as we show them.

use std::borrow::Cow;

/// What is shown of a text at most, in bytes, unless another bound is given there.
pub const EXCERPT_BYTES_MAX: usize = 1024;

/// The beginning of a text, with a mark if there is more. What peers send goes through here before it
/// is echoed, logged or noted: a sentence about a message of megabytes is a sentence.
pub fn excerpt(text: &str, bytes_max: usize) -> Cow<'_, str> {
    match beginning(text, bytes_max) {
        all if all.len() == text.len() => Cow::Borrowed(text),
        begin => Cow::Owned(format!("{begin}…")),
    }
}

/// The same without a mark.
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The same of bytes that should be a text; what is none is replaced.
pub fn excerpt_of_bytes(bytes: &[u8], bytes_max: usize) -> String {
    // A few more, so that the end of the cut is not taken for a fault of the text.
    let enough = &bytes[..bytes.len().min(bytes_max.saturating_add(4))];
    excerpt(&String::from_utf8_lossy(enough), bytes_max).into_owned()
}

/// Whether a character controls a terminal or the placement of others: controls (C0, DEL, C1),
/// changes of the writing direction, zero-width characters, line separators.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_that_fits_is_shown_as_it_is() {
        assert!(matches!(excerpt("abc", 3), Cow::Borrowed("abc")));
        assert_eq!(excerpt("abcd", 3), "abc…");
        assert_eq!(excerpt("aé", 2), "a…");
        assert_eq!(excerpt_of_bytes(b"a\xFFb", 10), "a\u{FFFD}b");
        assert_eq!(excerpt_of_bytes("éé".as_bytes(), 3), "é…");
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_a_beginning(text: String, bytes_max in 0usize..40) {
            let shown = excerpt(&text, bytes_max);
            prop_assert!(shown.len() <= bytes_max + '…'.len_utf8());
            if shown != text {
                let begin = shown.strip_suffix('…').unwrap();
                prop_assert!(text.starts_with(begin));
            }
            let of_bytes = excerpt_of_bytes(text.as_bytes(), bytes_max);
            prop_assert_eq!(of_bytes, shown);
        }
    }
}
