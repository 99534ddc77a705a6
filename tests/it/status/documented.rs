//! docs/status.md says what each field means. It is made from the comments of the types in `crates/wire/src/api`.

use std::path::Path;

/// A struct or an enum of `crates/wire/src/api`.
#[derive(Default)]
struct Type {
    name: String,
    about: String,
    /// Name, type as Rust writes it, meaning; of an enum's variant without a type.
    rows: Vec<(String, String, String)>,
}

fn types() -> Vec<Type> {
    let mut types: Vec<Type> = vec![];
    for source in [
        include_str!("../../../crates/wire/src/api/status.rs"),
        include_str!("../../../crates/wire/src/api/service.rs"),
        include_str!("../../../crates/wire/src/api/mesh.rs"),
        include_str!("../../../crates/wire/src/api/bridges.rs"),
        include_str!("../../../crates/wire/src/api/instances.rs"),
        include_str!("../../../crates/wire/src/api/held_lease.rs"),
        include_str!("../../../crates/wire/src/api/stats.rs"),
    ] {
        let (mut about, mut is_within) = (String::new(), false);
        for line in source.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                about.push_str(text);
                continue;
            }
            let begun = ["pub struct ", "pub enum "];
            let begun = begun.iter().find_map(|word| line.strip_prefix(word));
            if let Some(name) = begun {
                types.push(Type {
                    name: name.trim_end_matches(" {").to_owned(),
                    about: std::mem::take(&mut about).trim().to_owned(),
                    rows: vec![],
                });
                is_within = true;
            } else if line == "}" {
                is_within = false;
            } else if is_within && line.ends_with(',') {
                let line = line.trim_start_matches("pub ").trim_end_matches(',');
                let (name, kind) = line.split_once(": ").unwrap_or((line, ""));
                let meaning = std::mem::take(&mut about).trim().to_owned();
                let row = (name.to_owned(), kind.to_owned(), meaning);
                types.last_mut().expect("it has begun").rows.push(row);
            } else if !line.starts_with("#[") {
                about.clear();
            }
        }
    }
    types
}

/// `a_b` as JSON has it, `aB`.
fn in_json(name: &str) -> String {
    let mut words = name.split('_');
    let mut joined = words.next().unwrap_or_default().to_owned();
    for word in words {
        joined.push_str(&word[..1].to_uppercase());
        joined.push_str(&word[1..]);
    }
    joined
}

/// `OnDisk` as JSON has it, `on-disk`.
fn in_kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(c.to_lowercase());
    }
    text
}

fn kind(rust: &str) -> String {
    let within = |name: &str| {
        let rest = rust.strip_prefix(name)?.strip_prefix('<')?;
        rest.strip_suffix('>')
    };
    if let Some(inner) = within("Option") {
        return format!("{} or null", kind(inner));
    }
    if let Some(inner) = within("Vec") {
        return format!("array of {}", kind(inner));
    }
    if let Some(inner) = within("BTreeMap") {
        return format!("object of {}", kind(inner.trim_start_matches("String, ")));
    }
    match rust {
        "String" => "string".to_owned(),
        "bool" => "boolean".to_owned(),
        "f64" => "number".to_owned(),
        "u16" | "u32" | "u64" => "integer".to_owned(),
        name => format!("[{name}](#{})", name.to_lowercase()),
    }
}

fn page() -> String {
    let mut page = "# The fields of STATUS and `/stats`\n\n\
        STATUS answers with a [Status](#status) as JSON, `/stats` with [Stats](#stats). Fields may be added in \
        later versions; clients should ignore those that they don't know, and take 0, \"\", false, null or nothing \
        for those that an older daemon doesn't send.\n\n\
        This page is made from the types in `crates/wire/src/api`: `UPDATE_DOCS=1 cargo test --test it status::documented`.\n"
        .to_owned();
    for Type { name, about, rows } in types() {
        let about = about.replace("`None`", "null");
        page.push_str(&format!("\n## {name}\n\n{about}\n\n"));
        let is_enum = rows.iter().all(|(_, kind, _)| kind.is_empty());
        page.push_str(match is_enum {
            true => "| Value | Meaning |\n|---|---|\n",
            false => "| Field | Type | Meaning |\n|---|---|---|\n",
        });
        for (field, rust, meaning) in rows {
            let meaning = meaning.replace("`None`", "null");
            page.push_str(&match (is_enum, rust.as_str()) {
                (true, _) if field == "Unknown" => continue,
                (true, _) => format!("| `{}` | {meaning} |\n", in_kebab(&field)),
                // Its fields are among those of the outer object.
                (false, "Status") => format!("| all fields of [Status](#status) | | {meaning} |\n"),
                _ => format!("| `{}` | {} | {meaning} |\n", in_json(&field), kind(&rust)),
            });
        }
    }
    page
}

#[test]
fn each_field_is_documented_as_its_type_has_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
    let page = page();
    assert!(page.contains("| `stuckMs` | integer or null |"), "{page}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("it can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    for (written, made) in written.lines().zip(page.lines()) {
        assert_eq!(written, made, "run it with UPDATE_DOCS=1");
    }
    assert_eq!(written.len(), page.len(), "run it with UPDATE_DOCS=1");
}
