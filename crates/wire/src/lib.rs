//! What event managers and their clients say to each other, as types. Nothing here owns a socket or a
//! clock.
//!
//! - [`model`]: names, subjects, endpoints;
//! - [`messagebus`]: the messages that requests, answers and sync events are made of, and the words
//!   that workers say;
//! - [`api`]: a daemon's report about itself.

#![warn(missing_docs)]

pub mod api;
pub mod messagebus;
pub mod model;
