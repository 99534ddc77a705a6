//! What was probably meant by a name that nobody knows.

/// The known name that is closest to what was written, if one is close.
pub(super) fn closest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let closeness =
        |name: &str| strsim::jaro_winkler(&written.to_lowercase(), &name.to_lowercase());
    let best = known
        .map(|name| (closeness(name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(closeness, _)| *closeness > 0.8)
        .map(|(_, name)| name)
}

/// What was probably meant.
pub(crate) fn suggestion<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> String {
    let meant = closest(written, known);
    meant.map_or(String::new(), |name| format!("; did you mean {name:?}?"))
}
