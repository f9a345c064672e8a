//! The HTTP server: its routes, its connections and its shared state.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::serve::{IncomingStream, Listener};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use url::Url;

use super::api_kind::ApiKind;
use super::counts::Counts;
use super::hold::Gate;
use super::model::SimulatedModel;
use super::reply::{HangUp, refuse, success};
use super::state::{ServerShared, ServerState};
use super::stored::StoredBatches;
use super::{batches, chat, embeddings, files, signed_uploads};
use crate::clock;
use crate::config::{Prices, SimulatorSpec};
use crate::ident::Money;

const MAX_REQUEST_BYTES: usize = 64 << 20;

/// A running simulator. Dropping it stops the server.
#[derive(Debug)]
pub struct Simulator {
    url: Url,
    shared: Arc<ServerShared>,
    server: JoinSet<()>,
}

impl Simulator {
    /// Starts a simulator on a port of the loopback address. Port 0 takes any free one.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn start(spec: SimulatorSpec, port: u16) -> std::io::Result<Simulator> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ServerShared {
            state: Mutex::new(ServerState {
                counts: Counts::default(),
                model: SimulatedModel::new(&spec, clock::now()),
                next_in_script: 0,
                batches: StoredBatches::default(),
                batch_draws: 0,
                tasks: JoinSet::new(),
            }),
            gate: watch::Sender::default(),
            prices: prices(&spec),
            spec,
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/v1/embeddings", post(embed))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route(
                "/v1/files",
                post(signed_uploads::upload).get(files::list).layer(DefaultBodyLimit::disable()),
            )
            .route("/signed/{id}", put(signed_uploads::receive).layer(DefaultBodyLimit::disable()))
            .route("/v1/files/{id}/preprocess", post(signed_uploads::preprocess))
            .route("/v1/files/{id}", get(files::get).delete(files::delete))
            .route("/v1/files/{id}/content", get(files::download))
            .route("/v1/batches", post(batches::create).get(batches::list))
            .route("/v1/batches/{id}", get(batches::get))
            .route("/v1/batches/{id}/cancel", post(batches::cancel))
            .route("/v1/batch/jobs", post(batches::create).get(batches::list))
            .route("/v1/batch/jobs/{id}", get(batches::get))
            .route("/v1/batch/jobs/{id}/cancel", post(batches::cancel))
            .route("/simulator/counts", get(counts))
            .fallback(unknown)
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<Connection>();
        let listener = CountingListener { listener, shared: Arc::clone(&shared) };
        let mut server = JoinSet::new();
        server.spawn(async move {
            // Serving ends only when the task is aborted.
            let _ = axum::serve(listener, router).await;
        });
        let url = Url::parse(&format!("http://{address}/v1")).map_err(std::io::Error::other)?;
        Ok(Simulator { url, shared, server })
    }

    /// The URL to use as a job's `base_url`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns what the simulator has received, answered and billed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts.clone()
    }

    /// Sets the gate for the requests that come from now on and for those that wait at it.
    pub fn set_gate(&self, gate: Gate) {
        self.shared.gate.send_replace(gate);
    }

    /// Serves until the server fails or the caller drops the future.
    pub async fn serve(mut self) {
        self.server.join_next().await;
    }
}

fn prices(spec: &SimulatorSpec) -> Prices {
    let price = |dollars| Money::per_million(dollars).unwrap_or_default();
    let input = price(spec.price_per_million_input);
    Prices { input, cached_input: input, output: price(spec.price_per_million_output) }
}

#[derive(Clone, Copy)]
enum Interface {
    Chat,
    Embeddings,
}

/// A listener that counts its open connections.
struct CountingListener {
    listener: TcpListener,
    shared: Arc<ServerShared>,
}

impl Listener for CountingListener {
    type Io = TcpStream;
    type Addr = Connection;

    async fn accept(&mut self) -> (TcpStream, Connection) {
        let (stream, _) = Listener::accept(&mut self.listener).await;
        // With Nagle's algorithm answers would wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        self.shared.lock().counts.connections += 1;
        (stream, Connection(Arc::new(OpenConnection(Arc::clone(&self.shared)))))
    }

    fn local_addr(&self) -> std::io::Result<Connection> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Keeps a connection counted as open: the service of the connection holds it until the connection closes.
#[derive(Clone, Debug)]
struct Connection(#[expect(dead_code, reason = "it counts when it is dropped")] Arc<OpenConnection>);

impl Connected<IncomingStream<'_, CountingListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, CountingListener>) -> Self {
        stream.remote_addr().clone()
    }
}

#[derive(Debug)]
struct OpenConnection(Arc<ServerShared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.lock().counts.connections -= 1;
    }
}

/// Counts a request as in flight until it is processed, or dropped because its client disconnected.
struct InFlight(Arc<ServerShared>);

impl InFlight {
    fn begin(shared: &Arc<ServerShared>) -> Self {
        shared.lock().counts.began();
        InFlight(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().counts.in_flight -= 1;
    }
}

async fn complete(State(shared): State<Arc<ServerShared>>, headers: HeaderMap, body: Bytes) -> Response {
    finish(shared, Interface::Chat, headers, body).await
}

async fn embed(State(shared): State<Arc<ServerShared>>, headers: HeaderMap, body: Bytes) -> Response {
    finish(shared, Interface::Embeddings, headers, body).await
}

async fn finish(
    shared: Arc<ServerShared>,
    interface: Interface,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let in_flight = InFlight::begin(&shared);
    if !shared.spec.bills_the_gone {
        return work(in_flight, interface, headers, body).await;
    }
    // The answer is billed even if the client disconnects, so its task must outlive the connection.
    let (sender, receiver) = oneshot::channel();
    let task = work(in_flight, interface, headers, body);
    shared.lock().tasks.spawn(async move {
        // The client may have disconnected.
        let _ = sender.send(task.await);
    });
    receiver.await.unwrap_or_else(|_| refuse(500, "stopped", "the simulator stops"))
}

async fn work(in_flight: InFlight, interface: Interface, headers: HeaderMap, body: Bytes) -> Response {
    let shared = &in_flight.0;
    let answered = match interface {
        Interface::Chat => chat::answer(shared, ApiKind::Synchronous(&headers), &body).await,
        Interface::Embeddings => embeddings::answer(shared, ApiKind::Synchronous(&headers), &body).await,
    };
    let response = answered.unwrap_or_else(|refused| *refused);
    let status = if response.extensions().get::<HangUp>().is_some() { 0 } else { response.status().as_u16() };
    *shared.lock().counts.statuses.entry(status).or_default() += 1;
    response
}

/// Creation time of the models, in seconds since 1970.
const MODELS_MADE: i64 = 1_767_225_600;

fn model_of(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": MODELS_MADE, "owned_by": "enrich"})
}

async fn models(State(shared): State<Arc<ServerShared>>) -> Response {
    let id = shared.spec.model.as_deref().unwrap_or("simulated");
    success(json!({"object": "list", "data": [model_of(id)]}).to_string())
}

async fn model(State(shared): State<Arc<ServerShared>>, Path(id): Path<String>) -> Response {
    match &shared.spec.model {
        Some(known) if *known != id => {
            refuse(404, "model_not_found", &format!("The model `{id}` does not exist"))
        }
        _ => success(model_of(&id).to_string()),
    }
}

async fn counts(State(shared): State<Arc<ServerShared>>) -> Response {
    let body = serde_json::to_string(&shared.lock().counts).unwrap_or_default();
    success(body)
}

async fn unknown(State(shared): State<Arc<ServerShared>>, method: Method, uri: Uri) -> Response {
    let route = format!("{method} {}", uri.path());
    shared.lock().counts.unknown_routes.push(route.clone());
    refuse(404, "unknown_route", &format!("the simulator has no {route}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::{answer_to, embedding_of};
    use super::*;
    use crate::wire::{COMPLAINT, SCHEMA_WORDS};

    const PROMPT: &str = "Row 1: what is it?";

    async fn started(spec: &str) -> Simulator {
        Simulator::start(toml::from_str(spec).unwrap(), 0).await.unwrap()
    }

    /// Posts a body. Returns the status and the body of the response.
    async fn post(simulator: &Simulator, path: &str, body: &Value) -> (u16, Value) {
        let url = simulator.url();
        let mut stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {}{path} HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            url.path(),
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    async fn chat(simulator: &Simulator, prompt: &str, more: Value) -> (u16, Value) {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post(simulator, "/chat/completions", &body).await
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": ["bug", "idea"]},
                "note": {"type": ["string", "null"]},
                "parts": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["kind", "note", "parts"],
            "additionalProperties": false,
        })
    }

    fn in_words(prompt: &str) -> String {
        format!("{prompt}\n\n{SCHEMA_WORDS}\n{}", schema())
    }

    /// Returns each schema form: its name, its prompt, and the further fields of its request.
    fn forms() -> Vec<(&'static str, String, Value)> {
        let plain = || PROMPT.to_owned();
        let function = json!({"name": "note", "parameters": schema()});
        let described = json!({"name": "note", "strict": true, "schema": schema()});
        vec![
            (
                "json_schema",
                plain(),
                json!({"response_format": {"type": "json_schema", "json_schema": described}}),
            ),
            ("json_object", in_words(PROMPT), json!({"response_format": {"type": "json_object"}})),
            (
                "tool",
                plain(),
                json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required"}),
            ),
            ("llama_cpp", plain(), json!({"response_format": {"type": "json_object", "schema": schema()}})),
            ("vllm", plain(), json!({"structured_outputs": {"json": schema()}})),
            ("words", in_words(PROMPT), json!({})),
        ]
    }

    fn content(body: &Value) -> &str {
        body["choices"][0]["message"]["content"].as_str().unwrap()
    }

    #[tokio::test]
    async fn every_form_is_answered_with_the_same_instance() {
        let simulator = started("answers = [\"only where there is no schema\"]").await;
        let mut texts = BTreeSet::new();
        for (form, prompt, more) in forms() {
            let (status, body) = chat(&simulator, &prompt, more).await;
            assert_eq!(status, 200, "{form}: {body}");
            let choice = &body["choices"][0];
            let text = if form == "tool" {
                let call = &choice["message"]["tool_calls"][0];
                assert!(choice["message"]["content"].is_null() && call["function"]["name"] == "note");
                assert_eq!(choice["finish_reason"], "tool_calls");
                call["function"]["arguments"].as_str().unwrap()
            } else {
                assert_eq!(choice["finish_reason"], "stop");
                content(&body)
            };
            assert!(jsonschema::is_valid(&schema(), &serde_json::from_str(text).unwrap()), "{text}");
            texts.insert(text.to_owned());
        }
        assert_eq!(texts.len(), 1, "{texts:?}");
        let (_, body) = chat(&simulator, "Row 2", json!({})).await;
        assert_eq!(content(&body), "only where there is no schema");
        let counts = simulator.counts();
        assert_eq!((counts.answers_to(PROMPT), counts.answered, counts.answered_prompts), (6, 7, 2));
    }

    #[tokio::test]
    async fn a_form_that_is_not_taken_is_refused_unanswered_and_words_need_no_support() {
        let simulator = started("schema_forms = []").await;
        for (form, prompt, more) in forms() {
            let (status, body) = chat(&simulator, &prompt, more).await;
            assert_eq!(status, if form == "words" { 200 } else { 400 }, "{form}");
            if form == "words" {
                continue;
            }
            assert_eq!(body["error"]["code"], "unsupported_parameter");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(body["error"]["param"].as_str().unwrap()), "{message}");
        }
        let counts = simulator.counts();
        assert_eq!((counts.requests, counts.answered, counts.statuses[&400]), (6, 1, 5));
        let some = started("schema_forms = [\"json_object\", \"llama_cpp\", \"vllm\"]").await;
        for (form, prompt, more) in forms() {
            let refused = chat(&some, &prompt, more).await.0 == 400;
            assert_eq!(refused, ["json_schema", "tool"].contains(&form), "{form}");
        }
    }

    #[tokio::test]
    async fn schemas_that_are_ignored_are_answered_with_prose() {
        let simulator = started("ignores_schema = true\nschema_forms = []").await;
        for (form, prompt, more) in forms() {
            let (_, body) = chat(&simulator, &prompt, more).await;
            assert_eq!(content(&body), answer_to(PROMPT), "{form}");
        }
    }

    #[tokio::test]
    async fn an_object_is_an_object_also_without_a_schema() {
        let simulator = started("").await;
        let format = json!({"response_format": {"type": "json_object"}});
        let (_, body) = chat(&simulator, PROMPT, format).await;
        let object: Value = serde_json::from_str(content(&body)).unwrap();
        assert!(object["answer"].is_string(), "{object}");
    }

    #[tokio::test]
    async fn answers_that_are_wrong_are_billed_and_come_as_often_as_the_fault_says() {
        let spec = |wrong: &str| format!("[[fault]]\nwrong = \"{wrong}\"\ntimes = 1\ncontains = \"Row 1\"");
        for wrong in ["prose", "fenced", "extra_field", "wrong_enum", "cut_json", "missing_field"] {
            let simulator = started(&spec(wrong)).await;
            for (form, prompt, more) in forms() {
                let (status, body) = chat(&simulator, &prompt, more.clone()).await;
                let choice = &body["choices"][0];
                let call = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str();
                let text = call.unwrap_or_else(|| content(&body)).to_owned();
                let fits =
                    serde_json::from_str(&text).is_ok_and(|value| jsonschema::is_valid(&schema(), &value));
                let first = form == "json_schema";
                assert_eq!((status, fits), (200, !first), "{wrong} {form}: {text}");
                assert_eq!(choice["finish_reason"] == "length", first && wrong == "cut_json");
            }
            assert_eq!(simulator.counts().answered, 6);
            // A complaint is answered like the question before it, and is not a new prompt.
            let message = |role: &str, content: String| json!({"role": role, "content": content});
            let complaint = message("user", format!("{COMPLAINT}what was asked for."));
            let messages = [message("user", in_words(PROMPT)), message("assistant", "no".into()), complaint];
            let (_, body) = chat(&simulator, "", json!({"messages": messages})).await;
            assert!(jsonschema::is_valid(&schema(), &serde_json::from_str(content(&body)).unwrap()));
            assert_eq!(simulator.counts().answers_to(PROMPT), 7);
        }
    }

    #[tokio::test]
    async fn a_wrong_call_is_a_text_or_has_wrong_arguments() {
        let (_, prompt, more) = forms().swap_remove(2);
        let talking = started("[[fault]]\nwrong = \"prose\"").await;
        let (_, body) = chat(&talking, &prompt, more.clone()).await;
        assert!(body["choices"][0]["message"]["tool_calls"].is_null() && !content(&body).contains('{'));
        let fault = started("[[fault]]\nwrong = \"wrong_enum\"\ntext = \"{}\"").await;
        let (_, body) = chat(&fault, &prompt, more).await;
        assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{}");
    }

    #[tokio::test]
    async fn a_request_that_is_longer_than_the_context_is_refused() {
        let simulator = started("context_tokens = 100").await;
        let long = "word ".repeat(79);
        for (prompt, max_tokens, expected) in
            [(PROMPT, 90, 200), (PROMPT, 99, 400), (&long, 1, 200), (&long, 2, 400)]
        {
            let (status, body) = chat(&simulator, prompt, json!({"max_tokens": max_tokens})).await;
            assert_eq!(status, expected, "{body}");
            if status == 400 {
                assert_eq!(body["error"]["code"], "context_length_exceeded");
            }
        }
        assert_eq!(simulator.counts().answered, 2);
    }

    fn vectors(body: &Value) -> Vec<(u64, Vec<f32>)> {
        let data = body["data"].as_array().unwrap().iter();
        let vector = |item: &Value| serde_json::from_value(item["embedding"].clone()).unwrap();
        data.map(|item| (item["index"].as_u64().unwrap(), vector(item))).collect()
    }

    async fn embed(simulator: &Simulator, input: Value) -> (u16, Value) {
        post(simulator, "/embeddings", &json!({"model": "m", "input": input})).await
    }

    #[tokio::test]
    async fn embeddings_are_in_order_billed_and_counted_by_input() {
        let simulator = started("dimensions = 4\ntells_cost = true\nprice_per_million_input = 1000").await;
        let (_, body) = embed(&simulator, json!(["Row 1", "Row 2", "Row 1"])).await;
        let expected = ["Row 1", "Row 2", "Row 1"].map(|text| embedding_of(text, 4));
        assert_eq!(vectors(&body), (0..).zip(expected).collect::<Vec<_>>());
        assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("m")));
        assert_eq!(body["usage"], json!({"prompt_tokens": 6, "total_tokens": 6, "cost": 0.006}));
        let (_, body) = embed(&simulator, json!("Row 2")).await;
        assert_eq!(vectors(&body), [(0, embedding_of("Row 2", 4))]);
        let body = json!({"model": "m", "input": "Row 3", "dimensions": 2, "encoding_format": "base64"});
        let (_, body) = post(&simulator, "/embeddings", &body).await;
        // Two numbers of four bytes each, in base64.
        assert_eq!(body["data"][0]["embedding"].as_str().unwrap().len(), 12);
        let counts = simulator.counts();
        assert_eq!(
            (counts.requests, counts.answered, counts.answered_prompts, counts.paid_again()),
            (3, 3, 3, 0)
        );
        assert_eq!((counts.embedded, counts.embedded_again, counts.embeddings_of("Row 2")), (5, 2, 2));
        assert_eq!((counts.billed_tokens, counts.answers_to("Row 2")), (10, 1));
    }

    #[tokio::test]
    async fn inputs_that_cannot_be_embedded_are_refused() {
        let simulator = started("max_inputs = 2\nmax_input_tokens = 3\n[requests]\nper_minute = 60").await;
        for (input, code) in [
            (json!(["a", "b", "c"]), "invalid_request_error"),
            (json!([]), "invalid_request_error"),
            (json!(["a", ""]), "invalid_request_error"),
            (json!(""), "invalid_request_error"),
            (json!([1.5, "a"]), "invalid_request_error"),
            (json!(["a", "thirteen long"]), "context_length_exceeded"),
        ] {
            let (status, body) = embed(&simulator, input).await;
            assert_eq!((status, body["error"]["code"].as_str().unwrap()), (400, code), "{body}");
        }
        for more in
            [json!({"dimensions": 0}), json!({"dimensions": 1_000_000}), json!({"encoding_format": "hex"})]
        {
            let mut body = json!({"model": "m", "input": "a"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(post(&simulator, "/embeddings", &body).await.0, 400, "{more}");
        }
        assert_eq!(embed(&simulator, json!(["a", "twelve signs"])).await.0, 200);
        let (status, body) = embed(&simulator, json!("b")).await;
        assert_eq!((status, body["error"]["code"].as_str().unwrap()), (429, "rate_limit_exceeded"));
        let counts = simulator.counts();
        assert_eq!((counts.requests, counts.answered, counts.embedded), (11, 1, 2));
    }

    #[tokio::test]
    async fn wrong_embeddings_are_billed_and_a_fault_looks_at_each_input() {
        let texts = json!(["Row 1", "Row 2", "Row 3"]);
        for (wrong, indexes, dimensions) in [
            ("wrong_index", vec![0, 1, 1], 8),
            ("shuffled", vec![2, 1, 0], 8),
            ("fewer", vec![0, 1], 8),
            ("other_dimension", vec![0, 1, 2], 9),
            ("prose", vec![0, 1, 2], 8),
        ] {
            let fault = format!("[[fault]]\nwrong = \"{wrong}\"\ntimes = 1\ncontains = \"Row 3\"");
            let simulator = started(&fault).await;
            let (_, body) = embed(&simulator, texts.clone()).await;
            let made = vectors(&body);
            assert_eq!(made.iter().map(|(index, _)| *index).collect::<Vec<_>>(), indexes, "{wrong}");
            assert!(made.iter().all(|(_, vector)| vector.len() == dimensions), "{wrong}");
            let (_, body) = embed(&simulator, texts.clone()).await;
            let right = ["Row 1", "Row 2", "Row 3"].map(|text| embedding_of(text, 8));
            assert_eq!(vectors(&body), (0..).zip(right).collect::<Vec<_>>(), "{wrong}");
            let counts = simulator.counts();
            assert_eq!((counts.answered, counts.embedded, counts.embedded_again), (2, 6, 3));
            assert_eq!((counts.answered_prompts, counts.paid_again()), (1, 1));
        }
        let refusing = started("[[fault]]\nstatus = 503\ncontains = \"Row 3\"").await;
        assert_eq!(embed(&refusing, texts).await.0, 503);
        assert_eq!(embed(&refusing, json!(["Row 1", "Row 2"])).await.0, 200);
    }
}
