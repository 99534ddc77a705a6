//! How the rows of the table of kinds are read.

/// How the ordinary log shows a field: as it is, without quotes, or not at all because the sentence
/// says it.
macro_rules! logged {
    ($field:ident) => {
        $field
    };
    ($field:ident bare) => {
        tracing::field::display($field)
    };
    ($field:ident said) => {
        tracing::field::Empty
    };
}

macro_rules! level_name {
    (INFO) => {
        "info"
    };
    (WARN) => {
        "warn"
    };
    (ERROR) => {
        "error"
    };
}
