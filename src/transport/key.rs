//! The key of an endpoint. It is read again when it is refused, because tokens of clouds and vaults expire, often
//! within an hour.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};

use super::error::EndpointError;
use crate::clock::{self, Instant};
use crate::config::{ApiKey, Provider};

/// Time for which a key that could not be read again, or had not changed, is not read once more: many requests are
/// refused at once.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Number of newest keys that are remembered, so that they can be removed from messages and responses.
const MAX_SECRETS: usize = 16;

/// The key of an endpoint, and the header that carries it.
#[derive(Debug)]
pub(super) struct Keyring {
    key: ApiKey,
    name: HeaderName,
    state: RwLock<KeyState>,
    /// Lets one request read the key again while the others wait; holds the last result.
    turn: tokio::sync::Mutex<Option<Renewal>>,
}

/// The result of reading the key again after key number `of` was refused.
#[derive(Debug)]
struct Renewal {
    of: u64,
    at: Instant,
    outcome: Result<bool, String>,
}

#[derive(Debug)]
struct KeyState {
    /// Increases with each new key.
    number: u64,
    value: HeaderValue,
    /// The newest keys, the latest last.
    secrets: Vec<String>,
}

impl Keyring {
    pub(super) fn new(provider: &Provider) -> Result<Option<Self>, EndpointError> {
        let Some(key) = provider.key.clone() else { return Ok(None) };
        let wrong = || EndpointError::Header { provider: provider.name.clone(), header: key.header.clone() };
        let name = HeaderName::from_bytes(key.header.as_bytes()).map_err(|_| wrong())?;
        let value = header_value(&key, key.secret()).ok_or_else(wrong)?;
        let state = RwLock::new(KeyState { number: 0, value, secrets: vec![key.secret().to_owned()] });
        Ok(Some(Keyring { key, name, state, turn: tokio::sync::Mutex::default() }))
    }

    /// The header of a request, and the number of the key in it.
    pub(super) fn header(&self) -> (HeaderName, HeaderValue, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (self.name.clone(), state.value.clone(), state.number)
    }

    /// Reads the key again because key number `refused` was refused. Returns whether it has changed.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub(super) async fn renew(&self, refused: u64) -> Result<bool, String> {
        let mut turn = self.turn.lock().await;
        let (_, _, number) = self.header();
        if number != refused {
            // Another request has read it in the meantime.
            return Ok(true);
        }
        let is_known = |last: &&Renewal| last.of == refused && clock::now() - last.at < REMEMBERED;
        if let Some(last) = turn.as_ref().filter(is_known) {
            return last.outcome.clone();
        }
        let outcome = self.read_again().await;
        *turn = Some(Renewal { of: refused, at: clock::now(), outcome: outcome.clone() });
        outcome
    }

    /// Reads the key again. Returns whether it has changed.
    async fn read_again(&self) -> Result<bool, String> {
        let key = self.key.clone();
        let read = tokio::task::spawn_blocking(move || key.read_again()).await;
        let Some(secret) = read.map_err(|error| error.to_string())?.transpose()? else { return Ok(false) };
        let value = header_value(&self.key, &secret).ok_or("leads to a key that no header can carry")?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.secrets.last() == Some(&secret) {
            return Ok(false);
        }
        if state.secrets.len() == MAX_SECRETS {
            state.secrets.remove(0);
        }
        state.secrets.push(secret);
        state.number += 1;
        state.value = value;
        Ok(true)
    }

    /// A text with its keys replaced, or `None` if it holds none.
    pub(super) fn redacted(&self, text: &str) -> Option<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut redacted: Option<String> = None;
        for secret in &state.secrets {
            if redacted.as_deref().unwrap_or(text).contains(secret.as_str()) {
                redacted = Some(redacted.as_deref().unwrap_or(text).replace(secret.as_str(), "[key]"));
            }
        }
        redacted
    }
}

fn header_value(key: &ApiKey, secret: &str) -> Option<HeaderValue> {
    let value = if key.bearer { format!("Bearer {secret}") } else { secret.to_owned() };
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
