//! MessageBus messages: what requests, answers and sync events are made of.
//!
//! A message is a token (what is asked), a data type and data. How those are written varies from
//! client to client; `codec` reads each way and answers in kind. `request` makes a typed request of one.

mod codec;
mod data_type;
mod introduction;
mod json;
mod message;
mod nak;
mod request;
mod token;
mod values;
mod worker_words;
mod written;

pub use codec::{FRAMES_MAX, Layout, Malformed, decode, split_envelope};
pub use data_type::{DataType, TypeName};
pub use introduction::Introduction;
pub use json::shown_type;
pub use message::Message;
pub use nak::Nak;
pub use request::{Positions, Rest, read};
pub use token::Token;
pub use values::{Text, Verbatim, given, ranged};
pub use worker_words::{
    EventWord, NAK_DELAY_MAX, WorkerWord, error_word, event_attempt, event_id, own_id_of_event,
};
pub use written::{encode, encode_each};

/// How long an EMIT of level `engine` waits for engines, before it is answered that the event is on the
/// daemon's own disk alone.
pub const ENGINE_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);
