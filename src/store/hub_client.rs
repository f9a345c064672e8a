//! Requests to the REST interface of Hugging Face's repositories ("Hub API Endpoints" in its documentation), repeated
//! while they fail for a reason that may pass.
//!
//! The token goes to the endpoint alone, and is dropped where a redirect leads to another host (test
//! `hugging_face::the_token_goes_to_no_other_host`).

use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpRequest, HttpRequestBody, HttpResponse, ReqwestConnector,
};
use url::Url;

use crate::clock::{self, Jitter};

/// Environment variables, as Hugging Face's own programs read them.
const ENDPOINT: &str = "HF_ENDPOINT";
const TOKEN: &str = "HF_TOKEN";
const USUAL_ENDPOINT: &str = "https://huggingface.co";
/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Time for a request and all of its repetitions.
const PATIENCE: Duration = Duration::from_secs(180);
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Number of requests to a server that has not answered this process yet.
const FIRST_TRIES: u32 = 5;
const MAX_DELAY: Duration = Duration::from_secs(10);
/// What delays grow by.
const GROWTH: u32 = 4;
const MAX_MESSAGE_CHARS: usize = 300;
/// Largest file that is taken whole from a server that ignores ranges.
pub(super) const MAX_WHOLE_BYTES: u64 = 16_000_000;

/// Whether the server has answered this process: one that does not answer at all fails a run at once.
static HAS_ANSWERED: AtomicBool = AtomicBool::new(false);

/// Why a repository cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A setting in the environment is wrong.
    #[error("{name} is set to what is no {what}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it should be.
        what: &'static str,
    },
    /// There is no token, and the server wants one.
    #[error(
        "the server answers {status}{message}: it does not exist, or is private or gated. Set the environment variable \
         HF_TOKEN to a token that may read it"
    )]
    NoToken {
        /// Status of the response.
        status: u16,
        /// What the server says, behind a colon.
        message: String,
    },
    /// The token does not suffice.
    #[error(
        "the server answers {status}{message}: it does not exist, or the token in HF_TOKEN may not read it. The \
         conditions of a gated dataset are accepted on its page"
    )]
    TokenRefused {
        /// Status of the response.
        status: u16,
        /// What the server says, behind a colon.
        message: String,
    },
    /// There is no such repository, revision or file.
    #[error("the server answers 404{message}: there is no such repository, revision or file")]
    NotFound {
        /// What the server says, behind a colon.
        message: String,
        /// The server's name for what is not there.
        code: String,
    },
    /// The server asks to wait longer than a run does.
    #[error(
        "the server answers 429, too many requests, and asks to wait for {seconds} s; start again then. With a token in HF_TOKEN its limits are higher"
    )]
    Limited {
        /// The time to wait.
        seconds: u64,
    },
    /// The server refuses a request, or fails.
    #[error("the server answers {status}{message}, {times} times in all")]
    Status {
        /// Status of the last response.
        status: u16,
        /// What the server says, behind a colon.
        message: String,
        /// Number of requests.
        times: u32,
    },
    /// The server does not answer.
    #[error("the server does not answer: {message}, {times} times in all")]
    NoAnswer {
        /// What happened.
        message: String,
        /// Number of requests.
        times: u32,
    },
    /// The answer is not what the interface promises.
    #[error("the server's answer cannot be used: {0}")]
    Unusable(String),
}

impl HubError {
    /// Whether the job or the environment has to be changed, as opposed to a failure that may pass.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        use HubError::{Limited, NoAnswer, NoToken, NotFound, Setting, Status, TokenRefused, Unusable};
        match self {
            Setting { .. } | NoToken { .. } | TokenRefused { .. } | NotFound { .. } => true,
            Limited { .. } | Status { .. } | NoAnswer { .. } | Unusable(_) => false,
        }
    }
}

/// Client of one server.
#[derive(Debug)]
pub(super) struct HubClient {
    endpoint: Url,
    token: Option<String>,
    http: HttpClient,
}

/// A response with its whole body.
#[derive(Debug)]
pub(super) struct HubResponse {
    pub(super) body: Bytes,
    /// Whether the body is the range that was asked for, and not everything.
    pub(super) is_partial: bool,
    /// URL of the next page of a listing.
    pub(super) next: Option<Url>,
}

/// Why an attempt has failed, and whether another one may succeed.
enum FailedAttempt {
    Final(HubError),
    /// With the time that the server asks for.
    Passing(HubError, Option<Duration>),
}

impl HubClient {
    /// Returns a client with the settings of the environment.
    ///
    /// # Errors
    /// When a setting is wrong.
    pub(super) fn of_environment() -> Result<Self, HubError> {
        let text = |name| std::env::var(name).ok().map(|text| text.trim().to_owned());
        let set = |name| text(name).filter(|text| !text.is_empty());
        let wrong = |name, what| HubError::Setting { name, what };
        let endpoint = set(ENDPOINT).unwrap_or_else(|| USUAL_ENDPOINT.to_owned());
        let endpoint = Url::parse(&endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = endpoint.ok_or_else(|| wrong(ENDPOINT, "URL that begins with https or http"))?;
        let token = set(TOKEN);
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(wrong(TOKEN, "token: it has characters that no header can hold"));
        }
        let options = ClientOptions::new().with_timeout(TIMEOUT).with_allow_http(endpoint.scheme() == "http");
        let http = ReqwestConnector::default().connect(&options);
        let http = http.map_err(|error| HubError::Unusable(error.to_string()))?;
        Ok(HubClient { endpoint, token, http })
    }

    /// Returns a URL below the endpoint.
    pub(super) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Gets a URL, or a range of bytes of it.
    ///
    /// # Errors
    /// When the server refuses, or fails for longer than a request is repeated.
    pub(super) async fn get(&self, url: &Url, range: Option<&Range<u64>>) -> Result<HubResponse, HubError> {
        let (started, mut jitter) = (clock::now(), Jitter::from_entropy());
        let mut most = FIRST_DELAY;
        let mut times = 0;
        loop {
            times += 1;
            let (error, asked) = match self.attempt(url, range, times).await {
                Ok(response) => return Ok(response),
                Err(FailedAttempt::Final(error)) => return Err(error),
                Err(FailedAttempt::Passing(error, asked)) => (error, asked),
            };
            let is_absent =
                matches!(error, HubError::NoAnswer { .. }) && !HAS_ANSWERED.load(Ordering::Relaxed);
            if is_absent && times >= FIRST_TRIES {
                return Err(error);
            }
            let delay = jitter.full(most).saturating_add(asked.unwrap_or_default());
            most = (most * GROWTH).min(MAX_DELAY);
            if (clock::now() - started).saturating_add(delay) > PATIENCE {
                return Err(match asked {
                    Some(asked) if matches!(error, HubError::Status { status: 429, .. }) => {
                        HubError::Limited { seconds: asked.as_secs() }
                    }
                    _ => error,
                });
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        range: Option<&Range<u64>>,
        times: u32,
    ) -> Result<HubResponse, FailedAttempt> {
        let response = self.http.execute(self.request(url, range)?).await;
        let no_answer = |error: &dyn Error| {
            FailedAttempt::Passing(HubError::NoAnswer { message: innermost(error), times }, None)
        };
        let response = response.map_err(|error| no_answer(&error))?;
        HAS_ANSWERED.store(true, Ordering::Relaxed);
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (status, asked) = (response.status().as_u16(), header("retry-after"));
        let next = header("link").and_then(|links| next_page(&links, url));
        let (code, said) =
            (header("x-error-code").unwrap_or_default(), header("x-error-message").unwrap_or_default());
        let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
        if range.is_some() && status == 200 && length.is_some_and(|length| length > MAX_WHOLE_BYTES) {
            let message = "the server gives whole files alone, and this one is too large for that".to_owned();
            return Err(FailedAttempt::Final(HubError::Unusable(message)));
        }
        let body = body_of(response).await;
        if status == 200 || status == 206 {
            let body = body.map_err(|error| no_answer(error.as_ref()))?;
            return Ok(HubResponse { body, is_partial: status == 206, next });
        }
        let message = if said.is_empty() { error_in(&body.unwrap_or_default()) } else { said };
        let message = match message.trim().chars().take(MAX_MESSAGE_CHARS).collect::<String>() {
            empty if empty.is_empty() => empty,
            message => format!(" ({message})"),
        };
        let asked = asked.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Err(match status {
            401 | 403 if self.token.is_none() => FailedAttempt::Final(HubError::NoToken { status, message }),
            401 | 403 => FailedAttempt::Final(HubError::TokenRefused { status, message }),
            404 => FailedAttempt::Final(HubError::NotFound { message, code }),
            408 | 429 | 500..=599 => {
                FailedAttempt::Passing(HubError::Status { status, message, times }, asked)
            }
            _ => FailedAttempt::Final(HubError::Status { status, message, times }),
        })
    }

    fn request(&self, url: &Url, range: Option<&Range<u64>>) -> Result<HttpRequest, FailedAttempt> {
        let unusable = |what: &str| FailedAttempt::Final(HubError::Unusable(format!("{url} {what}")));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.as_str().parse().map_err(|_| unusable("is no URL of a request"))?;
        let headers = request.headers_mut();
        if let Some(range) = range {
            let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            headers
                .insert("range", text.parse().map_err(|_| unusable("has a range that no header can hold"))?);
        }
        if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
            let wrong = HubError::Setting { name: TOKEN, what: "token" };
            let value = format!("Bearer {token}").parse().map_err(|_| FailedAttempt::Final(wrong))?;
            headers.insert("authorization", value);
            if let Some(value) = headers.get_mut("authorization") {
                value.set_sensitive(true);
            }
        }
        Ok(request)
    }
}

async fn body_of(response: HttpResponse) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    Ok(response.into_body().bytes().await?)
}

/// Returns the target of the link `next` of a listing ("Web Linking", RFC 8288).
fn next_page(links: &str, of: &Url) -> Option<Url> {
    let next = links.split(',').find(|link| {
        link.split(';').skip(1).any(|pair| matches!(pair.trim(), "rel=\"next\"" | "rel=next"))
    })?;
    let (_, target) = next.split_once('<')?;
    of.join(target.split_once('>')?.0).ok()
}

/// Returns what the body of a refusal says.
fn error_in(body: &[u8]) -> String {
    let value = serde_json::from_slice::<serde_json::Value>(body).ok();
    value.and_then(|value| Some(value.get("error")?.as_str()?.to_owned())).unwrap_or_default()
}

/// Returns the message of the error below all others.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}
