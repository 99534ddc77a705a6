//! Whether somebody may do something, and the sentence that says why not.

use std::collections::HashMap;

use event_manager_wire::messagebus::{Nak, Token};
use event_manager_wire::model::{EXCERPT_BYTES_MAX, SubjectPattern, excerpt_of_bytes};

use super::access::{Grant, Identity};
use super::rights::request_name;

/// Something that needs a right.
#[derive(Debug, Clone, Copy)]
pub enum Deed<'a> {
    /// To send a request.
    Ask(Token),
    /// To publish an event with this subject.
    Publish(&'a [u8]),
    /// To subscribe a service to this.
    Subscribe(&'a SubjectPattern),
    /// To subscribe, work for or register the service of this name, or to end what it has.
    Serve(&'a str),
    /// To connect as a hub of the mesh.
    BeHub,
    /// To register this name, or to end its registration, where a client with a name has registered it.
    Replace(&'a str),
}

/// What was denied, for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denial {
    /// A connection.
    Connect,
    /// Events.
    Publish,
    /// Subscriptions that can't get anything.
    Subscribe,
    /// A service.
    Service,
    /// A request.
    Request,
}

impl Denial {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Service => "service",
            Self::Request => "request",
        }
    }
}

/// Something was denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Denied {
    /// What.
    pub what: Denial,
    /// Who may not do what, and where that can be allowed.
    pub sentence: String,
}

impl From<Denied> for Nak {
    fn from(denied: Denied) -> Self {
        Self::new("forbidden", denied.sentence)
    }
}

impl Identity {
    /// For sentences.
    fn said(&self) -> String {
        match self {
            Self::Anonymous => "peers without a key".into(),
            Self::Own => "the daemon".into(),
            Self::Client(name) => format!("client {name:?}"),
        }
    }
}

impl Grant {
    /// Whether a right says that this may be done. Of subjects above `subject_bytes_max` only the
    /// beginning is known.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(
        &self,
        identity: &Identity,
        deed: Deed<'_>,
        subject_bytes_max: usize,
    ) -> Result<(), Denied> {
        let rights = &self.rights;
        let is_allowed = match deed {
            Deed::Ask(token) => rights.requests.have(token),
            Deed::Publish(subject) => rights.publish.have(subject, subject_bytes_max),
            Deed::Subscribe(pattern) => rights.subscribe.cover(pattern),
            Deed::Serve(name) => rights.services.have(name),
            Deed::BeHub => rights.hub,
            Deed::Replace(_) => *identity != Identity::Anonymous,
        };
        match is_allowed {
            true => Ok(()),
            false => Err(self.denied(identity, deed)),
        }
    }

    fn denied(&self, identity: &Identity, deed: Deed<'_>) -> Denied {
        let (what, doing, list) = match deed {
            Deed::Ask(token) => {
                let doing = format!("send the request {:?}", request_name(token));
                (Denial::Request, doing, "requests")
            }
            Deed::Publish(subject) => {
                let subject = excerpt_of_bytes(subject, EXCERPT_BYTES_MAX);
                (Denial::Publish, format!("publish {subject:?}"), "publish")
            }
            Deed::Subscribe(pattern) => {
                let doing = format!("subscribe a service to all of {:?}", pattern.to_string());
                (Denial::Subscribe, doing, "subscribe")
            }
            Deed::Serve(name) => (Denial::Service, format!("serve {name:?}"), "services"),
            Deed::BeHub => (Denial::Connect, "be a hub of the mesh".into(), "hub"),
            Deed::Replace(name) => {
                let who = identity.said();
                return Denied {
                    what: Denial::Service,
                    sentence: format!(
                        "{who} may not register {name:?} or end that: a client that has one has registered it, and keeps it until its registrations end"
                    ),
                };
            }
        };
        let (who, said_in) = (identity.said(), &self.said_in);
        Denied {
            what,
            sentence: format!("{who} may not {doing}; what it may is in {said_in}.{list}"),
        }
    }
}

/// Verdicts that are remembered: subjects are chosen by peers, so only so many, and only short ones.
const REMEMBERED_MAX: usize = 4096;
const REMEMBERED_BYTES_MAX: usize = 256;

/// What was decided of subjects.
#[derive(Debug, Default)]
pub struct Verdicts {
    by_subject: HashMap<Box<[u8]>, bool>,
}

impl Verdicts {
    /// What was decided of this subject, or is now.
    pub fn of(&mut self, subject: &[u8], decide: impl FnOnce() -> bool) -> bool {
        if let Some(known) = self.by_subject.get(subject) {
            return *known;
        }
        let verdict = decide();
        if subject.len() <= REMEMBERED_BYTES_MAX {
            if self.by_subject.len() >= REMEMBERED_MAX {
                self.by_subject.clear();
            }
            self.by_subject.insert(subject.into(), verdict);
        }
        verdict
    }

    /// Nothing is decided any more.
    pub fn forget(&mut self) {
        self.by_subject.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::Rights;

    fn grant() -> Grant {
        let nothing = Rights {
            publish: [].into_iter().collect(),
            subscribe: [].into_iter().collect(),
            services: [].into_iter().collect(),
            requests: crate::security::RequestKinds::Only([].into()),
            hub: false,
        };
        Grant {
            rights: nothing,
            ..Grant::everything("security.clients.billing")
        }
    }

    #[test]
    fn sentences_say_who_what_and_where() {
        let pattern = SubjectPattern::parse("glob:a.*", 255).expect("a pattern");
        let billing = Identity::Client("billing".into());
        for (deed, what, sentence) in [
            (
                Deed::Publish(b"invoice.x"),
                "publish",
                r#"client "billing" may not publish "invoice.x"; what it may is in security.clients.billing.publish"#,
            ),
            (
                Deed::Subscribe(&pattern),
                "subscribe",
                r#"client "billing" may not subscribe a service to all of "glob:a.*"; what it may is in security.clients.billing.subscribe"#,
            ),
            (
                Deed::Serve("Billing"),
                "service",
                r#"client "billing" may not serve "Billing"; what it may is in security.clients.billing.services"#,
            ),
            (
                Deed::Ask(Token::DLQ),
                "request",
                r#"client "billing" may not send the request "dlq"; what it may is in security.clients.billing.requests"#,
            ),
            (
                Deed::BeHub,
                "connect",
                r#"client "billing" may not be a hub of the mesh; what it may is in security.clients.billing.hub"#,
            ),
        ] {
            let denied = grant()
                .judge(&billing, deed, 255)
                .expect_err("it is denied");
            assert_eq!((denied.what.name(), &*denied.sentence), (what, sentence));
            let all = Grant::everything("");
            assert_eq!(all.judge(&Identity::Anonymous, deed, 255), Ok(()));
        }
        let denied = grant().judge(&Identity::Anonymous, Deed::Serve("A"), 255);
        let sentence = denied.expect_err("it is denied").sentence;
        assert!(
            sentence.starts_with("peers without a key may not serve"),
            "{sentence}"
        );
    }

    #[test]
    fn verdicts_are_remembered_up_to_a_bound() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.of(b"a", || true));
        assert!(verdicts.of(b"a", || panic!("it is known")));
        assert!(!verdicts.of(&[b'x'; 300], || false));
        assert!(
            verdicts.of(&[b'x'; 300], || true),
            "too long to be remembered"
        );
        for n in 0..3 * REMEMBERED_MAX {
            verdicts.of(n.to_string().as_bytes(), || n % 2 == 0);
        }
        assert!(verdicts.by_subject.len() <= REMEMBERED_MAX);
        verdicts.forget();
        assert!(!verdicts.of(b"a", || false));
    }
}
