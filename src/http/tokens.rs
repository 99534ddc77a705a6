//! Who may read what is served: everybody, or who has a token.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::pages::in_json;
use super::renewed::Renewed;
use crate::config::Config;
use crate::keys::{ConfiguredFile, KeysError};

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const KEY: &str = "httpTokenFile";

/// The tokens of `httpTokenFile`, one in a line. Any of them will do, so that they can be changed one
/// after the other.
#[derive(Debug)]
pub struct Tokens(Mutex<Renewed<Vec<Vec<u8>>, 1>>);

impl Tokens {
    /// Reads the file, if there is to be one.
    ///
    /// # Errors
    /// The file can't be read, others can read it too, or it has no token.
    pub fn load(config: &Config) -> Result<Option<Self>, KeysError> {
        let Some(path) = config.http_token_file.clone() else {
            return Ok(None);
        };
        let file = ConfiguredFile::secret(KEY, path, &config.security);
        let renewed = Renewed::load([file], read)?;
        Ok(Some(Self(Mutex::new(renewed))))
    }

    /// Whether the request has one of them. A file that is gone takes its tokens with it; one that can't
    /// be used changes nothing.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = tokens.look() {
            if error.is_missing() {
                tokens.made().clear();
            }
            let left = match tokens.made().is_empty() {
                true => "nobody may read anything",
                false => "the tokens before stay in force",
            };
            tracing::warn!(target: "em.http", "{left}: {error}");
        }
        let given = headers.get(header::AUTHORIZATION).and_then(token_of);
        given.is_some_and(|given| {
            // All of them are compared, so that the time doesn't tell which is nearly it.
            let matches = tokens.made().iter().filter(|token| is_same(token, &given));
            matches.count() > 0
        })
    }
}

/// One of those of a daemon with this configuration, if it wants any and we may read them.
pub(super) fn a_token(config: &Config) -> Option<String> {
    let file = ConfiguredFile::secret(KEY, config.http_token_file.clone()?, &config.security);
    let first = read(&[file]).ok()?.into_iter().next()?;
    String::from_utf8(first).ok()
}

fn read([file]: &[ConfiguredFile; 1]) -> Result<Vec<Vec<u8>>, KeysError> {
    let (_, text) = file.read()?;
    let lines = text.lines().map(str::trim);
    let tokens = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<_> = tokens.map(|token| token.as_bytes().to_vec()).collect();
    if tokens.is_empty() {
        return Err(file.unfit("it has no token; write one with: openssl rand -hex 32"));
    }
    if tokens.iter().any(|token| token.len() < TOKEN_BYTES_MIN) {
        return Err(file.unfit("a token in it has fewer than 16 characters, and could be guessed"));
    }
    Ok(tokens)
}

/// The token as a bearer's, or as the password of any user.
fn token_of(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, given) = value.to_str().ok()?.split_once(' ')?;
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(given.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let both = STANDARD.decode(given).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    Some(both[colon + 1..].to_vec())
}

/// Takes as long whatever the first byte is that differs.
fn is_same(token: &[u8], given: &[u8]) -> bool {
    let bytes = token.iter().zip(given.iter().chain(std::iter::repeat(&0)));
    let differing = bytes.fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    differing == 0 && token.len() == given.len()
}

/// Answers requests with a token. Probes have none: they learn whether, and not why.
pub(super) async fn only_with_token(
    State(tokens): State<Option<Arc<Tokens>>>,
    request: Request,
    next: Next,
) -> Response {
    if tokens.is_none_or(|tokens| tokens.admits(request.headers())) {
        return next.run(request).await;
    }
    let bare =
        |word: &str, status: StatusCode| in_json(status, &json!({word: status == StatusCode::OK}));
    match request.uri().path() {
        "/livez" => bare("live", next.run(request).await.status()),
        "/readyz" => bare("ready", next.run(request).await.status()),
        _ => unauthorized(),
    }
}

fn unauthorized() -> Response {
    let shown = json!({
        "error": "a token is wanted",
        "hint": "one of httpTokenFile, as Authorization: Bearer TOKEN, or as the password of any user",
    });
    let mut response = in_json(StatusCode::UNAUTHORIZED, &shown).into_response();
    for scheme in [
        "Basic realm=\"event-manager\"",
        "Bearer realm=\"event-manager\"",
    ] {
        let value = HeaderValue::from_static(scheme);
        response
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_as_a_bearer_s_or_as_a_password() {
        let token = |value: &str| token_of(&HeaderValue::from_str(value).unwrap());
        let basic = |text: &str| token(&format!("Basic {}", STANDARD.encode(text)));
        assert_eq!(token("Bearer abc").unwrap(), b"abc");
        assert_eq!(token("bearer  abc ").unwrap(), b"abc");
        assert_eq!(basic("me:a:b").unwrap(), b"a:b");
        assert_eq!(basic(":abc").unwrap(), b"abc");
        for none in ["abc", "Digest abc", "Basic !", "Basic YWJj"] {
            assert_eq!(token(none), None, "{none}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_same() {
        for (given, expected) in [
            (&b"0123456789abcdef"[..], true),
            (b"0123456789abcdeg", false),
            (b"0123456789abcde", false),
            (b"0123456789abcdef\0", false),
            (b"", false),
        ] {
            assert_eq!(is_same(b"0123456789abcdef", given), expected);
        }
    }
}
