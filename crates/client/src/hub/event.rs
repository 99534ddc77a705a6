//! An event as its receivers see it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use event_manager_wire::model::subject_of;
use event_manager_zmtp::frames;
use serde::de::DeserializeOwned;

use crate::Error;

/// An event that was received; cheap to clone.
#[derive(Clone)]
pub struct Event {
    /// All its frames, encoded.
    message: Bytes,
    attempt: u32,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("subject", &self.subject())
            .field("body", &String::from_utf8_lossy(self.body()))
            .field("attempt", &self.attempt)
            .finish()
    }
}

/// Whether all frames are the same, and the attempt.
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.attempt == other.attempt && self.frames().eq(other.frames())
    }
}

impl Eq for Event {}

impl Event {
    /// A message that came.
    pub(crate) fn new(message: Bytes, attempt: u32) -> Self {
        Self { message, attempt }
    }

    /// Its subject.
    pub fn subject(&self) -> Cow<'_, str> {
        let first = self.frames().next().unwrap_or_default();
        String::from_utf8_lossy(subject_of(first))
    }

    /// Its second frame; empty without one.
    pub fn body(&self) -> &[u8] {
        self.frames().nth(1).unwrap_or_default()
    }

    /// The same, sharing its memory.
    pub fn body_bytes(&self) -> Bytes {
        self.message.slice_ref(self.body())
    }

    /// All its frames; the first begins with the subject.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        frames(&self.message)
    }

    /// How often a service's workers were given it, this time included. From 2 on it may have been
    /// processed before.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Its body as JSON of a type.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(self.body()).map_err(|error| Error::Decode {
            what: format!("the body of {:?}", self.subject()),
            why: error.to_string(),
        })
    }

    /// The headers in its third frame, if that is a JSON object of texts.
    pub fn headers(&self) -> BTreeMap<String, String> {
        let headers = self.frames().nth(2).map(serde_json::from_slice);
        headers.and_then(Result::ok).unwrap_or_default()
    }
}
