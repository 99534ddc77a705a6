//! Where each key stands in a JSON text.

/// A key of a JSON object: the keys that lead to it from the root, itself the last, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// Lists the keys of all objects, in order, twice if they stand there twice. The text has been
/// accepted by a JSON parser.
pub(super) fn positions(json: &str) -> Vec<Position> {
    let mut found = Vec::new();
    // For each open bracket: the path of the object, or `None` in a list.
    let mut open: Vec<Option<Vec<String>>> = Vec::new();
    let (mut last_key, mut line) = (Vec::new(), 1);
    let mut rest = json;
    while let Some(character) = rest.chars().next() {
        match character {
            '\n' => line += 1,
            '{' => open.push(Some(std::mem::take(&mut last_key))),
            '[' => open.push(None),
            '}' | ']' => {
                open.pop();
            }
            '"' => {
                let len = string_len(rest);
                let after = rest[len..].trim_start();
                if after.starts_with(':')
                    && let Some(Some(parent)) = open.last()
                {
                    let key: String = serde_json::from_str(&rest[..len]).unwrap_or_default();
                    last_key = [&parent[..], &[key]].concat();
                    found.push(Position {
                        path: last_key.clone(),
                        line,
                    });
                }
                rest = &rest[len..];
                continue;
            }
            _ => {}
        }
        rest = &rest[character.len_utf8()..];
    }
    found
}

/// The length of the string literal at the front, with its quotes.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_with_their_lines() {
        let json =
            "{\n \"a\": \"x:\\\"y\",\n \"b\": {\"c\": [1, {\"d\": 2}],\n\"e\": 3},\n \"a\": 4}";
        let found: Vec<_> = positions(json)
            .into_iter()
            .map(|p| (p.path.join("."), p.line))
            .collect();
        let expected = [
            ("a", 2),
            ("b", 3),
            ("b.c", 3),
            ("b.c.d", 3),
            ("b.e", 4),
            ("a", 5),
        ];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }
}
