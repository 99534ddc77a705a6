//! Subjects as subscriptions name them.

use std::collections::BTreeSet;

use event_manager_wire::messagebus::Nak;
use event_manager_wire::model::{SubjectPattern, excerpt};
use event_manager_zmtp::Limits;

/// What is shown of a subject that is none.
const SUBJECT_SHOWN_BYTES_MAX: usize = 40;

/// One empty subject is everything; none at all is for the caller to judge.
pub(super) fn patterns(
    subjects: impl IntoIterator<Item = String>,
    limits: &Limits,
) -> Result<BTreeSet<SubjectPattern>, Nak> {
    let parse = |subject: String| {
        SubjectPattern::parse(&subject, limits.subject_bytes_max).map_err(|error| {
            let shown = excerpt(&subject, SUBJECT_SHOWN_BYTES_MAX);
            Nak::new("invalid-subject", format!("the subject {shown:?} {error}"))
        })
    };
    subjects.into_iter().map(parse).collect()
}

/// The refusal of an event's subject that is longer than `limits.maxSubjectBytes`.
pub(super) fn check_length(subject: &[u8], limits: &Limits) -> Result<(), Nak> {
    let (bytes, max) = (subject.len(), limits.subject_bytes_max);
    if bytes <= max {
        return Ok(());
    }
    let sentence = format!("the subject has {bytes} bytes; the limit is {max}");
    Err(Nak::new("invalid-subject", sentence))
}
