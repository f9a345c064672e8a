//! What goes over the wire, and what comes back that must be bounded.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use enrich::config::Job;
use enrich::fault::{Class, Failure};
use enrich::ident::Fingerprint;
use enrich::prompt::Question;
use enrich::transport::{Endpoint, Paid};
use enrich::wire::{Message, Role};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::support::endpoint::{ANSWER, Answer, plain, serve};

fn job(url: &str, provider: &str, step: &str) -> Job {
    let text = format!(
        "app_id = \"a\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n\
         [provider.p]\nbase_url = \"{url}\"\nmodel = \"m\"\n{provider}\n\
         [[step]]\noutput = \"o\"\nprompt = \"p\"\n{step}\n"
    );
    let environment = |name: &str| (name == "KEY").then(|| "secret-key".to_owned());
    Job::parse(Path::new("/job.toml"), &text, environment).unwrap()
}

async fn ask(job: &Job) -> Result<Paid, Failure> {
    let provider = &job.providers[0];
    let endpoint = Endpoint::new(provider, provider.endpoint.as_ref().unwrap()).unwrap();
    let message = |role, content: &str| Message { role, content: content.into() };
    let messages = vec![message(Role::System, "Be brief."), message(Role::User, "Is it «good»?")];
    let question = Question::new(messages, Fingerprint::of([]));
    endpoint.send(&[question.into()], &job.steps[0].params, Duration::from_secs(30)).await.result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_carries_what_the_job_says_as_it_stands() {
    let (url, seen, _tasks) = serve(plain).await;
    let provider = "api_key_env = \"KEY\"\nmax_tokens_field = \"max_completion_tokens\"\n\
                    headers = { X-Title = \"a title\" }\nquery = { api-version = \"2024-10-21\" }\n\
                    extra_body = { provider = { sort = \"price\" } }";
    let step = "temperature = 0.2\nmax_tokens = 50\nextra_body = { seed = 7 }";
    let paid = ask(&job(&format!("{url}/openai/v1/"), provider, step)).await.unwrap();
    assert_eq!(&paid.body[..], ANSWER.as_bytes());
    let (uri, headers, body) = seen.take().remove(0);
    assert_eq!(uri, "/openai/v1/chat/completions?api-version=2024-10-21");
    assert_eq!(headers["authorization"], "Bearer secret-key");
    assert_eq!(headers["x-title"], "a title");
    assert_eq!(headers["content-type"], "application/json");
    let expected = json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is it «good»?"},
        ],
        "temperature": 0.2,
        "max_completion_tokens": 50,
        "provider": {"sort": "price"},
        "seed": 7,
    });
    assert_eq!(body, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_into_the_header_that_the_job_names() {
    let (url, seen, _tasks) = serve(plain).await;
    ask(&job(&url, "api_key_env = \"KEY\"\napi_key_header = \"api-key\"", "")).await.unwrap();
    let (uri, headers, body) = seen.take().remove(0);
    assert_eq!((uri.as_str(), &headers["api-key"]), ("/chat/completions", &"secret-key".parse().unwrap()));
    assert!(!headers.contains_key("authorization"));
    assert_eq!(body.as_object().unwrap().len(), 2, "nothing is sent that the job does not say: {body}");
}

fn zipped(headers: &HeaderMap) -> Response {
    let accepts = headers[header::ACCEPT_ENCODING].to_str().unwrap().contains("gzip");
    assert!(accepts);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(ANSWER.as_bytes()).unwrap();
    ([(header::CONTENT_ENCODING, "gzip")], encoder.finish().unwrap()).into_response()
}

fn bomb(_: &HeaderMap) -> Response {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let spaces = vec![b' '; 1 << 20];
    for _ in 0..100 {
        encoder.write_all(&spaces).unwrap();
    }
    let body = encoder.finish().unwrap();
    assert!(body.len() < 1 << 20);
    ([(header::CONTENT_ENCODING, "gzip")], body).into_response()
}

fn long(_: &HeaderMap) -> Response {
    vec![b' '; 17_000_000].into_response()
}

fn keep_alive(_: &HeaderMap) -> Response {
    format!("\n\n\n   {ANSWER}").into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_bounded_also_when_it_is_compressed() {
    let (url, _, _tasks) = serve(zipped).await;
    assert_eq!(&ask(&job(&url, "", "")).await.unwrap().body[..], ANSWER.as_bytes());
    for answer in [bomb as Answer, long] {
        let (url, _, _tasks) = serve(answer).await;
        let failure = ask(&job(&url, "", "")).await.unwrap_err();
        assert_eq!(failure.class, Class::InvalidResponse);
        assert_eq!(failure.detail, "the answer is longer than 16000000 bytes");
    }
    let (url, _, _tasks) = serve(keep_alive).await;
    ask(&job(&url, "", "")).await.unwrap();
}

fn redirect(_: &HeaderMap) -> Response {
    (axum::http::StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://127.0.0.1:1/")]).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_with_the_key() {
    let (url, seen, _tasks) = serve(redirect).await;
    let failure = ask(&job(&url, "api_key_env = \"KEY\"", "")).await.unwrap_err();
    assert_eq!(failure.class, Class::Redirect);
    assert_eq!(seen.take().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_in_time_is_a_failure_of_its_own() {
    // A listener whose backlog is full does not answer; a port that nobody listens on refuses.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = ask(&job(&url, "", "")).await.unwrap_err();
    assert_eq!(failure.class, Class::Connection);
    assert!(failure.detail.starts_with("cannot connect: "), "{}", failure.detail);
}
