//! Where the daemon is: at an address, or where a ServiceLocator says.

use std::fmt::Display;
use std::time::Duration;

use event_manager_wire::messagebus::{Layout, Message, Token, decode, encode};
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;
use tokio::time::timeout;

use crate::LIMITS;
use crate::connection::{Connection, Options};
use crate::keys::ClientKeys;

/// How long a ServiceLocator may take.
const LOCATE_MAX: Duration = Duration::from_secs(2);

/// Where the daemon is.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    At(Endpoint),
    /// As this ServiceLocator says, by the daemon's name.
    Located(Endpoint, String),
}

impl Destination {
    pub(super) async fn find(&self, keys: Option<&ClientKeys>) -> Result<Endpoint, String> {
        match self {
            Self::At(address) => Ok(address.local()),
            Self::Located(locator, name) => locate(locator, name, keys).await,
        }
    }
}

impl Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Located(locator, name) => write!(f, "{name} of the ServiceLocator at {locator}"),
        }
    }
}

async fn locate(
    locator: &Endpoint,
    name: &str,
    keys: Option<&ClientKeys>,
) -> Result<Endpoint, String> {
    let text = ask_locator(locator, &Message::param(Token::LOCATE, [name]), keys).await?;
    text.trim_end_matches('\0')
        .parse()
        .map(|address: Endpoint| address.local())
        .map_err(|error| format!("{error}"))
}

/// What a ServiceLocator answers; or why it doesn't.
pub(super) async fn ask_locator(
    locator: &Endpoint,
    request: &Message,
    keys: Option<&ClientKeys>,
) -> Result<String, String> {
    let named = |why: &dyn Display| format!("the ServiceLocator at {locator}: {why}");
    let asked = async {
        let options = Options::new(LocalSocket::Req, LIMITS).with_keys(keys.cloned());
        let opened = Connection::open(&locator.local(), &options).await;
        let mut connection = opened.map_err(|error| named(&error))?;
        let answer = connection.ask(&encode(request, Layout::NATIVE)).await;
        let answer = answer.map_err(|ended| named(&ended))?;
        let (answer, _) = decode(&answer).map_err(|error| named(&error))?;
        let text = String::from_utf8_lossy(&answer.data).into_owned();
        match answer.token.is(Token::ACK) {
            true => Ok(text),
            false => Err(named(&text)),
        }
    };
    timeout(LOCATE_MAX, asked)
        .await
        .unwrap_or_else(|_| Err(format!("the ServiceLocator at {locator} doesn't answer")))
}
