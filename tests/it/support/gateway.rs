//! What stands between a store and those who ask it: delays, failures, answers that are lost, keys that expire, and
//! Google's interface in front of a server of Amazon's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use enrich::clock::{self, Instant};
use tokio::task::JoinSet;

/// moto looks who signed, and not whether that is right.
const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=none";

/// What goes wrong at a gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Each request waits so long.
    pub delay: Duration,
    /// One request in so many is turned away before it gets through.
    pub refused: Option<u64>,
    /// One request in so many gets through, and its answer is lost.
    pub lost: Option<u64>,
    /// Keys are given out, and are good for so long.
    pub keys_last: Option<Duration>,
    /// Puts are done whatever their conditions say.
    pub ignores_conditions: bool,
}

/// Whether a gateway passes requests on. A test changes it while the gateway runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// They get through, as far as its trouble lets them.
    #[default]
    Free,
    /// They are turned away.
    Barred,
    /// They are never answered.
    Endless,
}

/// A gateway on loopback; it ends with this value.
pub struct Gateway {
    pub url: String,
    inner: Arc<Inner>,
    _server: JoinSet<()>,
}

struct Inner {
    behind: String,
    trouble: Trouble,
    is_google: bool,
    client: reqwest::Client,
    passage: Mutex<Passage>,
    requests: AtomicU64,
    turned_away: AtomicU64,
    hanging: AtomicU64,
    /// Keys that were given out, and when.
    keys: Mutex<BTreeMap<String, Instant>>,
    seen: Mutex<Vec<(Method, String, HeaderMap)>>,
}

impl Gateway {
    /// In front of a server of S3's interface.
    pub async fn start(behind: String, trouble: Trouble) -> Gateway {
        Gateway::open(behind, trouble, false).await
    }

    /// Google's interface, in front of a server of S3's: what both have in common is passed on, and generations stand
    /// for ETags.
    pub async fn google(behind: String) -> Gateway {
        Gateway::open(behind, Trouble::default(), true).await
    }

    async fn open(behind: String, trouble: Trouble, is_google: bool) -> Gateway {
        let inner = Arc::new(Inner {
            behind,
            trouble,
            is_google,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            passage: Mutex::default(),
            requests: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            hanging: AtomicU64::new(0),
            keys: Mutex::default(),
            seen: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(pass).with_state(Arc::clone(&inner));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Gateway { url, inner, _server: server }
    }

    /// Requests that did not get through, or whose answer was lost.
    pub fn turned_away(&self) -> u64 {
        self.inner.turned_away.load(Ordering::Relaxed)
    }

    /// Sets what becomes of the requests that come from now on.
    pub fn set_passage(&self, passage: Passage) {
        *self.inner.passage.lock().unwrap() = passage;
    }

    /// Requests that are never answered.
    pub fn hanging(&self) -> u64 {
        self.inner.hanging.load(Ordering::Relaxed)
    }

    /// Keys that were given out.
    pub fn keys(&self) -> usize {
        self.inner.keys.lock().unwrap().len()
    }

    pub fn seen(&self) -> Vec<(Method, String, HeaderMap)> {
        self.inner.seen.lock().unwrap().clone()
    }
}

async fn pass(State(gate): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
    if path.starts_with("/latest/") {
        return gate.metadata(&path);
    }
    gate.seen.lock().unwrap().push((parts.method.clone(), path.clone(), parts.headers.clone()));
    let body = to_bytes(body, usize::MAX).await.unwrap();
    tokio::time::sleep(gate.trouble.delay).await;
    if !gate.has_good_key(&parts.headers) {
        gate.turned_away.fetch_add(1, Ordering::Relaxed);
        return failure(StatusCode::FORBIDDEN, "ExpiredToken");
    }
    let number = gate.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let is_hit = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
    let passage = *gate.passage.lock().unwrap();
    if passage == Passage::Endless {
        gate.hanging.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<()>().await;
    }
    if is_hit(gate.trouble.refused) || passage == Passage::Barred {
        gate.turned_away.fetch_add(1, Ordering::Relaxed);
        return failure(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    }
    let answer = gate.forward(parts.method, &path, parts.headers, body).await;
    if is_hit(gate.trouble.lost) {
        gate.turned_away.fetch_add(1, Ordering::Relaxed);
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    answer
}

/// As Amazon's and Google's stores tell it.
fn failure(status: StatusCode, code: &str) -> Response {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    (status, text).into_response()
}

/// A number that stands for an ETag.
fn generation(etag: &str) -> u64 {
    let digits: String = etag.chars().filter(char::is_ascii_hexdigit).take(15).collect();
    u64::from_str_radix(&digits, 16).unwrap()
}

impl Inner {
    /// The metadata service of an instance, which hands out keys.
    fn metadata(&self, path: &str) -> Response {
        let name = "latest/meta-data/iam/security-credentials/";
        match path.trim_start_matches('/') {
            "latest/api/token" => ([("x-aws-ec2-metadata-token-ttl-seconds", "60")], "token").into_response(),
            path if path == name => "role".into_response(),
            path if path.strip_prefix(name) == Some("role") => {
                let lasts = self.trouble.keys_last.unwrap();
                let key = format!("KEY{}", self.keys() + 1);
                self.keys.lock().unwrap().insert(key.clone(), clock::now());
                let rfc3339 = |time: chrono::DateTime<chrono::Utc>| {
                    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
                };
                let until = rfc3339(clock::wall() + lasts);
                serde_json::json!({
                    "AccessKeyId": key, "SecretAccessKey": "secret", "Token": "token", "Expiration": until,
                    "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": rfc3339(clock::wall()),
                })
                .to_string()
                .into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    fn keys(&self) -> usize {
        self.keys.lock().unwrap().len()
    }

    fn has_good_key(&self, headers: &HeaderMap) -> bool {
        let Some(lasts) = self.trouble.keys_last else { return true };
        let signed = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let key =
            signed.split("Credential=").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let given = self.keys.lock().unwrap().get(key).copied();
        // Who signs at the last moment arrives later, on a busy machine by seconds.
        given.is_some_and(|given| clock::now() - given < lasts + Duration::from_secs(10))
    }

    async fn forward(&self, method: Method, path: &str, mut headers: HeaderMap, body: Bytes) -> Response {
        for name in ["host", "content-length", "connection", "transfer-encoding"] {
            headers.remove(name);
        }
        if self.trouble.ignores_conditions {
            headers.remove("if-match");
            headers.remove("if-none-match");
        }
        if self.is_google
            && let Err(refused) = self.translate(path, &mut headers).await
        {
            return refused;
        }
        let url = format!("{}{path}", self.behind);
        let sent = self.client.request(method, url).headers(headers).body(body).send().await;
        let Ok(answer) = sent else { return failure(StatusCode::BAD_GATEWAY, "BadGateway") };
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.unwrap();
        headers.remove("transfer-encoding");
        headers.remove("connection");
        if let Some(etag) = headers.get("etag").filter(|_| self.is_google) {
            let number = generation(etag.to_str().unwrap());
            headers.insert(HeaderName::from_static("x-goog-generation"), HeaderValue::from(number));
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Puts Amazon's condition in the place of Google's.
    async fn translate(&self, path: &str, headers: &mut HeaderMap) -> Result<(), Response> {
        headers.insert("authorization", HeaderValue::from_static(SIGNED));
        let Some(wanted) = headers.remove("x-goog-if-generation-match") else { return Ok(()) };
        if wanted == "0" {
            headers.insert("if-none-match", HeaderValue::from_static("*"));
            return Ok(());
        }
        let there = self
            .client
            .head(format!("{}{path}", self.behind))
            .header("authorization", SIGNED)
            .send()
            .await
            .unwrap();
        match there.headers().get("etag") {
            Some(etag) if wanted == generation(etag.to_str().unwrap()).to_string().as_str() => {
                headers.insert("if-match", etag.clone());
                Ok(())
            }
            _ => Err(failure(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")),
        }
    }
}
