//! An event as its receivers see it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use event_manager_wire::model::subject_of;
use serde::de::DeserializeOwned;

use crate::Error;

/// An event that was received; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    frames: Vec<Bytes>,
    attempt: u32,
}

impl Event {
    pub(crate) fn new(frames: Vec<Bytes>, attempt: u32) -> Self {
        Self { frames, attempt }
    }

    /// Its subject.
    pub fn subject(&self) -> Cow<'_, str> {
        let first = self.frames.first().map_or(&[][..], |first| first);
        String::from_utf8_lossy(subject_of(first))
    }

    /// Its second frame; empty without one.
    pub fn body(&self) -> &[u8] {
        self.frames.get(1).map_or(&[], |body| body)
    }

    /// All its frames; the first begins with the subject.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
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
        let headers = self
            .frames
            .get(2)
            .map(|frame| serde_json::from_slice(frame));
        headers.and_then(Result::ok).unwrap_or_default()
    }
}
