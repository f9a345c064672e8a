//! A server of the interface of Hugging Face's dataset repositories: revisions, listings in pages, files in parts. Large
//! files are redirected to a second server, which fails if it sees a token.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The one repository.
pub const REPOSITORY: &str = "owner/name";
/// Smallest file that is kept at the second server.
const LARGE_BYTES: usize = 1_000;
const PAGE_ENTRIES: usize = 2;

/// A refusal of a request.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub status: u16,
    pub retry_after: Option<u64>,
    /// Whether it is for a request of a part of a file.
    pub is_of_part: bool,
}

/// The two servers; they end with this value.
pub struct Hub {
    pub url: String,
    inner: Arc<Inner>,
    _servers: JoinSet<()>,
}

type Files = BTreeMap<String, Bytes>;

struct Inner {
    /// Files of each commit, the newest at the end.
    commits: Mutex<Vec<Files>>,
    token: Option<String>,
    /// What the next requests get.
    refusals: Mutex<VecDeque<Refusal>>,
    /// Requests, by their paths and whether they are of a part.
    requests: Mutex<Vec<(String, bool)>>,
    own_at: String,
    large_at: String,
    /// Whether the second server was shown a token.
    has_leaked: Mutex<bool>,
}

impl Hub {
    /// Starts the servers. With a token, each request needs it.
    pub async fn start(token: Option<&str>) -> Hub {
        let own = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let large = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Arc::new(Inner {
            commits: Mutex::new(vec![Files::new()]),
            token: token.map(ToOwned::to_owned),
            refusals: Mutex::default(),
            requests: Mutex::default(),
            own_at: format!("http://{}", own.local_addr().unwrap()),
            large_at: format!("http://{}", large.local_addr().unwrap()),
            has_leaked: Mutex::default(),
        });
        let url = inner.own_at.clone();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let app_of_large = Router::new().fallback(answer_large).with_state(Arc::clone(&inner));
        let mut servers = JoinSet::new();
        servers.spawn(async move { axum::serve(own, app).await.unwrap() });
        servers.spawn(async move { axum::serve(large, app_of_large).await.unwrap() });
        Hub { url, inner, _servers: servers }
    }

    /// Makes a commit that puts files, or removes those that are given without content. Returns its id.
    pub fn commit(&self, changes: &[(&str, Option<Vec<u8>>)]) -> String {
        let mut commits = self.inner.commits.lock().unwrap();
        let mut files = commits.last().unwrap().clone();
        for (path, content) in changes {
            match content {
                Some(content) => files.insert((*path).to_owned(), content.clone().into()),
                None => files.remove(*path),
            };
        }
        commits.push(files);
        id_of(commits.len() - 1)
    }

    /// Makes the next requests fail.
    pub fn refuse(&self, refusals: impl IntoIterator<Item = Refusal>) {
        self.inner.refusals.lock().unwrap().extend(refusals);
    }

    /// Whether every refusal was used.
    pub fn has_refused_all(&self) -> bool {
        self.inner.refusals.lock().unwrap().is_empty()
    }

    /// Paths of the requests for parts of files.
    pub fn parts(&self) -> BTreeSet<String> {
        let requests = self.inner.requests.lock().unwrap();
        requests.iter().filter(|(_, is_part)| *is_part).map(|(path, _)| path.clone()).collect()
    }

    /// Whether a token went to the second server.
    pub fn has_leaked(&self) -> bool {
        *self.inner.has_leaked.lock().unwrap()
    }
}

/// The id of a commit.
fn id_of(commit: usize) -> String {
    format!("{:040x}", 0xabc_def0_0000 + commit)
}

/// The id of a content.
fn content_id(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

/// An id of as many digits as Git's.
fn short(id: &str) -> String {
    id.chars().take(40).collect()
}

fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    let headers = [("x-error-code", code.to_owned()), ("x-error-message", message.to_owned())];
    (status, headers, json!({ "error": message }).to_string()).into_response()
}

fn no_entry() -> Response {
    refused(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found")
}

fn json_response(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    inner.requests.lock().unwrap().push((path.clone(), parts.headers.contains_key("range")));
    let is_of_part = parts.headers.contains_key("range");
    let refusal = inner.refusals.lock().unwrap().pop_front_if(|refusal| is_of_part || !refusal.is_of_part);
    if let Some(refusal) = refusal {
        let status = StatusCode::from_u16(refusal.status).unwrap();
        let mut response = (status, "busy").into_response();
        if let Some(seconds) = refusal.retry_after {
            response.headers_mut().insert("retry-after", seconds.into());
        }
        return response;
    }
    let given = parts.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    if let Some(token) = &inner.token
        && given != Some(format!("Bearer {token}"))
    {
        return refused(StatusCode::UNAUTHORIZED, "GatedRepo", "Access to dataset owner/name is restricted");
    }
    let is_api = path.starts_with("/api/");
    let Some(rest) = path.trim_start_matches("/api").strip_prefix(&format!("/datasets/{REPOSITORY}")) else {
        return refused(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found");
    };
    let mut rest = rest.trim_start_matches('/').splitn(3, '/').map(decoded);
    let (interface, revision) = (rest.next().unwrap_or_default(), rest.next().unwrap_or("main".into()));
    let below = rest.next().unwrap_or_default();
    let Some((commit, files)) = inner.revision(&revision) else {
        return refused(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id");
    };
    match (is_api, interface.as_str()) {
        (true, "revision" | "") => json_response(&json!({
            "_id": "1", "id": REPOSITORY, "sha": commit, "private": false, "gated": false, "disabled": false,
            "tags": [], "downloads": 0, "likes": 0, "siblings": [],
        })),
        (true, "tree") => inner.tree(&path, &query, &below, &files),
        (true, "paths-info") => {
            let body = axum::body::to_bytes(body, 1_000_000).await.unwrap();
            let wanted = paths_of(&String::from_utf8_lossy(&body));
            let entries = entries_of("", true, &files);
            let found = entries.into_iter().filter(|entry| wanted.iter().any(|path| entry["path"] == **path));
            json_response(&found.collect())
        }
        (false, "resolve") => inner.resolve(&parts.method, &below, &commit, &files, &parts.headers),
        _ => no_entry(),
    }
}

/// What the second server says: the path is the id of a content.
async fn answer_large(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if parts.headers.contains_key("authorization") {
        *inner.has_leaked.lock().unwrap() = true;
        return StatusCode::BAD_REQUEST.into_response();
    }
    inner.requests.lock().unwrap().push((parts.uri.path().to_owned(), parts.headers.contains_key("range")));
    let commits = inner.commits.lock().unwrap();
    let mut contents = commits.iter().flat_map(BTreeMap::values);
    let wanted = parts.uri.path().trim_start_matches('/');
    match contents.find(|content| content_id(content) == wanted) {
        Some(content) => part_of(content, &parts.headers),
        None => no_entry(),
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

/// The paths that a body asks for, as JSON or as a form.
fn paths_of(body: &str) -> Vec<String> {
    if let Ok(value) = serde_json::from_str::<Value>(body) {
        return value["paths"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap().to_owned())
            .collect();
    }
    let pairs = body.split('&').filter_map(|pair| pair.strip_prefix("paths="));
    pairs.map(|path| decoded(&path.replace('+', " "))).collect()
}

/// Entries of a folder, in order.
fn entries_of(folder: &str, is_recursive: bool, files: &Files) -> Vec<Value> {
    let before = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut entries = BTreeMap::new();
    for (path, content) in files {
        let Some(rest) = path.strip_prefix(&before) else { continue };
        let parts: Vec<&str> = rest.split('/').collect();
        let depths = if is_recursive { 1..parts.len() } else { 1..parts.len().min(2) };
        for depth in depths {
            let path = format!("{before}{}", parts[..depth].join("/"));
            entries.insert(path.clone(), json!({ "type": "directory", "oid": "0", "size": 0, "path": path }));
        }
        if is_recursive || parts.len() == 1 {
            let id = content_id(content);
            let mut entry = json!({ "type": "file", "oid": short(&id), "size": content.len(), "path": path });
            if content.len() >= LARGE_BYTES {
                entry["lfs"] = json!({ "oid": id, "size": content.len(), "pointerSize": 134 });
            }
            entries.insert(path.clone(), entry);
        }
    }
    entries.into_values().collect()
}

/// A file, or the part of it that a request asks for.
fn part_of(content: &Bytes, headers: &HeaderMap) -> Response {
    let size = content.len();
    let range = headers.get("range").map(|range| range.to_str().unwrap().trim_start_matches("bytes="));
    let Some((start, end)) = range.and_then(|range| range.split_once('-')) else {
        return content.clone().into_response();
    };
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(size, |last: usize| (last + 1).min(size));
    if start >= end {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let range = format!("bytes {start}-{}/{size}", end - 1);
    (StatusCode::PARTIAL_CONTENT, [("content-range", range)], content.slice(start..end)).into_response()
}

impl Inner {
    fn revision(&self, revision: &str) -> Option<(String, Files)> {
        let commits = self.commits.lock().unwrap();
        let newest = commits.len() - 1;
        let found = match revision {
            "main" | "refs/convert/parquet" => newest,
            id => (0..commits.len()).find(|commit| id_of(*commit) == id)?,
        };
        Some((id_of(found), commits[found].clone()))
    }

    fn tree(&self, path: &str, query: &str, folder: &str, files: &Files) -> Response {
        let is_recursive = query.to_lowercase().contains("recursive=true");
        let entries = entries_of(folder, is_recursive, files);
        if entries.is_empty() && !folder.is_empty() {
            return no_entry();
        }
        let cursor = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
        let first: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        let page: Vec<Value> = entries.iter().skip(first).take(PAGE_ENTRIES).cloned().collect();
        let mut response = json_response(&page.into());
        let next = first + PAGE_ENTRIES;
        if next < entries.len() {
            let link =
                format!("<{}{path}?recursive={is_recursive}&cursor={next}>; rel=\"next\"", self.own_at);
            response.headers_mut().insert("link", link.parse().unwrap());
        }
        response
    }

    fn resolve(
        &self,
        method: &Method,
        path: &str,
        commit: &str,
        files: &Files,
        headers: &HeaderMap,
    ) -> Response {
        let Some(content) = files.get(path) else { return no_entry() };
        let (id, size) = (content_id(content), content.len());
        let mut response = if size >= LARGE_BYTES {
            let to = [
                ("location", format!("{}/{id}", self.large_at)),
                ("x-linked-etag", format!("\"{id}\"")),
                ("x-linked-size", size.to_string()),
            ];
            (StatusCode::FOUND, to).into_response()
        } else if method == Method::HEAD {
            [("content-length", size.to_string())].into_response()
        } else {
            part_of(content, headers)
        };
        response.headers_mut().insert("x-repo-commit", commit.parse().unwrap());
        response.headers_mut().insert("etag", format!("\"{}\"", short(&id)).parse().unwrap());
        response
    }
}
