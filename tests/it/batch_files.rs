//! Files and batches at a provider: what is uploaded, made, looked for, cancelled and downloaded, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use enrich::config::{BatchFailure, BatchShape, BatchesSpec, Job, SimulatorSpec, Span, StuckIn};
use enrich::fault::Class;
use enrich::simulator::{Simulator, answer_to};
use enrich::transport::{BatchApi, BatchCreation, RefusalSubject};
use enrich::wire::{AnswerLine, BatchRequest, BatchStatus, RemoteBatch};
use serde_json::json;
use serde_json::value::RawValue;
use tempfile::TempDir;
use url::Url;

use crate::support::until;

const CHAT: &str = "/v1/chat/completions";
/// The other interfaces, Together's also with uploads that are sent elsewhere.
const OTHER_SHAPES: [(BatchShape, bool); 3] =
    [(BatchShape::Together, false), (BatchShape::Together, true), (BatchShape::Mistral, false)];

/// A simulator, and the Batch API of a provider that it plays.
struct BatchBench {
    simulator: Simulator,
    api: BatchApi,
    shape: BatchShape,
    folder: TempDir,
}

impl BatchBench {
    async fn new(batches: BatchesSpec) -> BatchBench {
        BatchBench::of(SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() }).await
    }

    async fn of(spec: SimulatorSpec) -> BatchBench {
        let folder = tempfile::tempdir().unwrap();
        let shape = spec.batches.as_ref().unwrap().shape;
        let simulator = Simulator::start(spec, 0).await.unwrap();
        let api = api(folder.path(), simulator.url(), shape);
        BatchBench { simulator, api, shape, folder }
    }

    /// Writes a file of requests about these texts, and uploads it until it is there.
    async fn upload(&self, texts: &[String]) -> String {
        let path = self.folder.path().join("questions.jsonl");
        std::fs::write(&path, lines(texts, self.shape)).unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        for _ in 0..1_000 {
            if let Ok(file) = self.api.upload(&path, "enrich-test.jsonl").await {
                return file.id;
            }
            if let Ok(Some(file)) = self.api.find_file("enrich-test.jsonl", bytes).await {
                return file.id;
            }
        }
        panic!("the file is never there");
    }

    async fn create(&self, file: &str) -> BatchCreation {
        let metadata = BTreeMap::from([("enrich", "id-1".to_owned())]);
        let request = BatchRequest {
            input_file_id: file,
            endpoint: CHAT,
            completion_window: "24h",
            metadata: &metadata,
        };
        self.api.create(&request, "id-1").await
    }

    async fn made(&self, file: &str) -> RemoteBatch {
        match self.create(file).await {
            BatchCreation::Made(batch) => *batch,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a batch is seen as it `is_wanted`.
    async fn seen(&self, id: &str, is_wanted: impl Fn(&RemoteBatch) -> bool) -> RemoteBatch {
        for _ in 0..1_000 {
            if let Ok(Some(batch)) = self.api.get(id).await
                && is_wanted(&batch)
            {
                return batch;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} does not come to be as it is awaited");
    }

    /// Waits until a batch has ended.
    async fn ended(&self, id: &str) -> RemoteBatch {
        self.seen(id, |batch| batch.status.is_end()).await
    }

    /// Downloads a file, going on as often as it is cut off. Returns it, and how often that was.
    async fn download(&self, id: &str) -> (String, u32) {
        let path = self.folder.path().join(format!("{id}.jsonl"));
        let _ = std::fs::remove_file(&path);
        for cut in 0..100 {
            if self.api.download(id, &path).await.is_ok() {
                return (std::fs::read_to_string(&path).unwrap(), cut);
            }
            assert!(!path.exists(), "a part is no file");
        }
        panic!("{id} is never whole");
    }
}

fn api(folder: &Path, url: &Url, shape: BatchShape) -> BatchApi {
    let job = folder.join("job.toml");
    let text = format!(
        "app_id = \"test\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\nbase_url = \"{url}\"\n\
         model = \"m\"\nrequest_timeout = \"5s\"\n[provider.p.batch]\nshape = \"{}\"\n[[step]]\noutput = \"o\"\n\
         prompt = \"p\"\n",
        shape.name()
    );
    std::fs::write(&job, text).unwrap();
    let job = Job::load(&job).unwrap();
    BatchApi::new(&job.providers[0], url).unwrap()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|row| format!("Row {row}: what is it?\u{2028}")).collect()
}

fn lines(texts: &[String], shape: BatchShape) -> String {
    let line = |(at, text): (usize, &String)| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        let body = RawValue::from_string(shape.line_body(body.to_string()).unwrap()).unwrap();
        let id = format!("row-{at}");
        format!("{}\n", serde_json::to_string(&shape.line(&id, CHAT, &body)).unwrap())
    };
    texts.iter().enumerate().map(line).collect()
}

/// The answers in a file, by the id of their request.
fn answers(file: &str) -> BTreeMap<String, String> {
    let lines = file.split('\n').filter(|line| !line.is_empty());
    let answer = |line: &str| {
        let line: AnswerLine<'_> = serde_json::from_str(line).unwrap();
        let response = line.response.unwrap();
        assert_eq!(response.status_code, Some(200));
        let body: serde_json::Value = serde_json::from_str(response.body.unwrap().get()).unwrap();
        let text = body["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        (line.custom_id.unwrap(), text)
    };
    lines.map(answer).collect()
}

fn expected(texts: &[String]) -> BTreeMap<String, String> {
    texts.iter().enumerate().map(|(at, text)| (format!("row-{at}"), answer_to(text))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_out_and_comes_back_with_every_answer() {
    let bench = BatchBench::new(BatchesSpec::default()).await;
    let texts = texts(500);
    let file = bench.upload(&texts).await;
    let batch = bench.made(&file).await;
    assert_eq!((&batch.status, batch.input_file_id.as_deref()), (&BatchStatus::Validating, Some(&*file)));
    let ended = bench.ended(&batch.id).await;
    assert_eq!((ended.status, ended.error_file_id), (BatchStatus::Completed, None));
    let (output, _) = bench.download(&ended.output_file_id.unwrap()).await;
    assert_eq!(answers(&output), expected(&texts));
    let listed = bench.api.list(None).await.unwrap();
    assert_eq!((listed.items.len(), listed.next), (1, None));
    assert_eq!(listed.items[0].metadata.as_ref().unwrap()["enrich"], "id-1");
    bench.api.delete_file(&file).await.unwrap();
    bench.api.delete_file(&file).await.unwrap();
    assert!(bench.api.get("batch_none").await.unwrap().is_none());
    let counts = bench.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again(), counts.batches.lines), (500, 0, 500));
    assert_eq!(counts.requests, 0, "a line is no request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_unclear_and_a_refusal_is_not() {
    let lost = BatchBench::new(BatchesSpec { lost_creations: 1.0, ..BatchesSpec::default() }).await;
    let file = lost.upload(&texts(1)).await;
    assert!(matches!(lost.create(&file).await, BatchCreation::Unclear(_)));
    assert_eq!(lost.api.list(None).await.unwrap().items.len(), 1);
    let failing = BatchBench::new(BatchesSpec { refused_creations: 1.0, ..BatchesSpec::default() }).await;
    let file = failing.upload(&texts(1)).await;
    // A gateway may have passed on what it answers with 500.
    assert!(matches!(failing.create(&file).await, BatchCreation::Unclear(_)));
    assert!(failing.api.list(None).await.unwrap().items.is_empty());
    let busy = BatchBench::new(BatchesSpec::default()).await;
    match busy.create("file-none").await {
        BatchCreation::Refused(refusal) => {
            assert!(
                refusal.subject == RefusalSubject::File && refusal.failure.class == Class::BadRequest,
                "{refusal:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    let throttled = BatchBench::new(BatchesSpec { throttled_requests: 1.0, ..BatchesSpec::default() }).await;
    match throttled.create("file-none").await {
        BatchCreation::Refused(refusal) => {
            assert!(refusal.subject == RefusalSubject::Other && refusal.failure.class == Class::RateLimited);
            assert_eq!(refusal.failure.delay, Some(Duration::from_secs(1)));
        }
        other => panic!("{other:?}"),
    }
    let gone = api(lost.folder.path(), &Url::parse("http://127.0.0.1:1/v1").unwrap(), BatchShape::Openai);
    let metadata = BTreeMap::new();
    let request =
        BatchRequest { input_file_id: "f", endpoint: CHAT, completion_window: "24h", metadata: &metadata };
    assert!(matches!(gone.create(&request, "id").await, BatchCreation::Refused(_)), "nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_made_late_is_made_once() {
    let late_by = Some(Span(Duration::from_millis(200)));
    let spec = BatchesSpec { late_creations: 1.0, late_by, ..BatchesSpec::default() };
    let bench = BatchBench::new(spec).await;
    let file = bench.upload(&texts(1)).await;
    assert!(matches!(bench.create(&file).await, BatchCreation::Unclear(_)));
    assert!(bench.api.list(None).await.unwrap().items.is_empty());
    until(&bench.simulator, |counts| counts.batches.created == 1).await;
    assert_eq!(bench.simulator.counts().batches.created, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_upload_is_found_by_its_name_and_size() {
    let bench = BatchBench::new(BatchesSpec { lost_uploads: 1.0, ..BatchesSpec::default() }).await;
    let file = bench.upload(&texts(3)).await;
    assert_eq!(bench.simulator.counts().batches.uploads, 1);
    assert!(matches!(bench.create(&file).await, BatchCreation::Made(_)));
    assert!(bench.api.find_file("enrich-test.jsonl", 1).await.unwrap().is_none());
    assert!(bench.api.find_file("other.jsonl", 1).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_goes_on_where_it_ended() {
    for (ignores_ranges, gzips_downloads) in [(false, false), (false, true), (true, false), (true, true)] {
        let spec =
            BatchesSpec { cut_downloads: 0.7, ignores_ranges, gzips_downloads, ..BatchesSpec::default() };
        let bench = BatchBench::new(spec).await;
        let texts = texts(300);
        let batch = bench.made(&bench.upload(&texts).await).await;
        let output = bench.ended(&batch.id).await.output_file_id.unwrap();
        let mut cuts = 0;
        while cuts < 50 {
            let (whole, cut) = bench.download(&output).await;
            cuts += cut;
            assert_eq!(answers(&whole), expected(&texts));
        }
    }
    // One that ends without a sign is seen by its last line.
    let bench = BatchBench::new(BatchesSpec { short_downloads: 0.7, ..BatchesSpec::default() }).await;
    let texts = texts(300);
    let batch = bench.made(&bench.upload(&texts).await).await;
    let output = bench.ended(&batch.id).await.output_file_id.unwrap();
    let (whole, cut) = bench.download(&output).await;
    assert!(cut > 0);
    assert_eq!(answers(&whole), expected(&texts));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_brings_what_was_answered() {
    let texts = texts(200);
    let expiring = BatchBench::new(BatchesSpec { expired_lines: 0.3, ..BatchesSpec::default() }).await;
    let batch = expiring.made(&expiring.upload(&texts).await).await;
    let ended = expiring.ended(&batch.id).await;
    assert_eq!(ended.status, BatchStatus::Expired);
    let answered = answers(&expiring.download(&ended.output_file_id.unwrap()).await.0);
    let (errors, _) = expiring.download(&ended.error_file_id.unwrap()).await;
    let expired = errors.lines().count();
    assert!(expired > 20 && answered.len() + expired == 200, "{expired}");
    assert!(errors.lines().all(|line| line.contains("batch_expired")));
    let stuck =
        BatchBench::new(BatchesSpec { stuck: Some(StuckIn::InProgress), ..BatchesSpec::default() }).await;
    let batch = stuck.made(&stuck.upload(&texts).await).await;
    stuck.seen(&batch.id, |batch| batch.request_counts.is_some_and(|counts| counts.completed >= 100)).await;
    stuck.api.cancel(&batch.id).await.unwrap();
    let ended = stuck.ended(&batch.id).await;
    assert_eq!(ended.status, BatchStatus::Cancelled);
    assert_eq!(answers(&stuck.download(&ended.output_file_id.unwrap()).await.0).len(), 100);
    // One that has ended meanwhile needs no cancellation.
    stuck.api.cancel(&batch.id).await.unwrap();
    assert!(stuck.api.cancel("batch_none").await.is_err());
    let line = BatchFailure { code: Some("invalid_request".into()), line: Some(7), times: None };
    let failing = BatchBench::new(BatchesSpec { failure: Some(line), ..BatchesSpec::default() }).await;
    let batch = failing.made(&failing.upload(&texts).await).await;
    let ended = failing.ended(&batch.id).await;
    assert_eq!((ended.status, ended.output_file_id), (BatchStatus::Failed, None));
    assert_eq!(ended.errors.unwrap().data[0].line, Some(7));
    assert_eq!(failing.simulator.counts().answered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_beyond_the_limit_fails_in_its_validation() {
    let spec = BatchesSpec {
        enqueued_tokens: Some(6_000),
        takes: Some(Span(Duration::from_millis(300))),
        ..BatchesSpec::default()
    };
    let bench = BatchBench::new(spec).await;
    let file = bench.upload(&texts(200)).await;
    let first = bench.made(&file).await;
    bench.seen(&first.id, |batch| batch.status != BatchStatus::Validating).await;
    let second = bench.ended(&bench.made(&file).await.id).await;
    assert_eq!(second.errors.unwrap().data[0].code.as_deref(), Some("token_limit_exceeded"));
    bench.ended(&first.id).await;
    let third = bench.ended(&bench.made(&file).await.id).await;
    assert_eq!(third.status, BatchStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_found_with_the_key_that_made_it() {
    let bench = BatchBench::new(BatchesSpec { each_key_apart: true, ..BatchesSpec::default() }).await;
    let file = bench.upload(&texts(1)).await;
    let batch = bench.made(&file).await;
    let url = bench.simulator.url().as_str();
    let text = format!(
        "app_id = \"test\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\nbase_url = \"{url}\"\n\
         model = \"m\"\napi_key_file = \"key\"\n[[step]]\noutput = \"o\"\nprompt = \"p\"\n"
    );
    std::fs::write(bench.folder.path().join("key"), "another").unwrap();
    std::fs::write(bench.folder.path().join("other.toml"), text).unwrap();
    let job = Job::load(&bench.folder.path().join("other.toml")).unwrap();
    let other = BatchApi::new(&job.providers[0], bench.simulator.url()).unwrap();
    assert!(other.get(&batch.id).await.unwrap().is_none());
    assert!(other.list(None).await.unwrap().items.is_empty());
    assert!(bench.api.get(&batch.id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_every_shape_goes_out_and_comes_back() {
    for (shape, signed_uploads) in OTHER_SHAPES {
        let bench = BatchBench::new(BatchesSpec { shape, signed_uploads, ..BatchesSpec::default() }).await;
        let texts = texts(120);
        let file = bench.upload(&texts).await;
        let batch = bench.made(&file).await;
        assert_eq!(
            (&batch.status, batch.input_file_id.as_deref()),
            (&BatchStatus::Validating, Some(&*file)),
            "{shape:?}"
        );
        let ended = bench.ended(&batch.id).await;
        assert_eq!((ended.status, ended.error_file_id), (BatchStatus::Completed, None), "{shape:?}");
        let (output, _) = bench.download(&ended.output_file_id.unwrap()).await;
        assert_eq!(answers(&output), expected(&texts), "{shape:?}");
        bench.api.delete_file(&file).await.unwrap();
        assert!(bench.api.get("batch_none").await.unwrap().is_none());
        let counts = bench.simulator.counts();
        assert_eq!((counts.answered, counts.paid_again(), counts.batches.uploads), (120, 0, 1), "{shape:?}");
        assert!(counts.unknown_routes.is_empty(), "{:?}", counts.unknown_routes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_found_in_the_lists_of_every_shape() {
    for (shape, signed_uploads) in OTHER_SHAPES {
        let spec = BatchesSpec {
            shape,
            signed_uploads,
            lost_creations: 1.0,
            lost_uploads: 1.0,
            ..BatchesSpec::default()
        };
        let bench = BatchBench::new(spec).await;
        let file = bench.upload(&texts(2)).await;
        assert_eq!(bench.simulator.counts().batches.uploads, 1, "{shape:?}");
        assert!(bench.api.find_file("other.jsonl", 1).await.unwrap().is_none());
        assert!(matches!(bench.create(&file).await, BatchCreation::Unclear(_)), "{shape:?}");
        let listed = bench.api.list(None).await.unwrap();
        assert_eq!((listed.items.len(), listed.next), (1, None), "{shape:?}");
        let found = &listed.items[0];
        assert_eq!(found.input_file_id.as_deref(), Some(&*file), "{shape:?}");
        let id = found.metadata.as_ref().map(|metadata| metadata["enrich"].as_str());
        // Together keeps no metadata: there the file tells whose it is.
        assert_eq!(id, (shape == BatchShape::Mistral).then_some("id-1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistrals_lists_are_read_page_by_page() {
    let spec = BatchesSpec { shape: BatchShape::Mistral, ..BatchesSpec::default() };
    let bench = BatchBench::new(spec).await;
    let first = bench.upload(&texts(1)).await;
    let bytes = std::fs::metadata(bench.folder.path().join("questions.jsonl")).unwrap().len();
    for _ in 0..120 {
        let file = bench.upload(&texts(2)).await;
        bench.made(&file).await;
    }
    let found = bench.api.find_file("enrich-test.jsonl", bytes).await.unwrap();
    assert_eq!(found.unwrap().id, first, "it is on the last page");
    let (mut ids, mut pages, mut page) = (BTreeSet::new(), 0, None);
    loop {
        let list = bench.api.list(page.as_deref()).await.unwrap();
        ids.extend(list.items.into_iter().map(|batch| batch.id));
        pages += 1;
        page = list.next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!((ids.len(), pages), (120, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_known_in_every_shape() {
    let texts = texts(100);
    for (shape, signed_uploads) in OTHER_SHAPES {
        let plain = BatchesSpec { shape, signed_uploads, ..BatchesSpec::default() };
        let expiring = BatchBench::new(BatchesSpec { expired_lines: 0.3, ..plain.clone() }).await;
        let ended = expiring.ended(&expiring.made(&expiring.upload(&texts).await).await.id).await;
        assert_eq!(ended.status, BatchStatus::Expired, "{shape:?}");
        let answered = answers(&expiring.download(&ended.output_file_id.unwrap()).await.0);
        let (errors, _) = expiring.download(&ended.error_file_id.unwrap()).await;
        for line in errors.lines() {
            let line: AnswerLine<'_> = serde_json::from_str(line).unwrap();
            assert!(line.response.is_none());
            assert_eq!(line.error.unwrap().code.as_deref(), Some("batch_expired"), "{shape:?}");
        }
        assert!(!answered.is_empty() && answered.len() + errors.lines().count() == 100, "{shape:?}");

        let stuck = BatchBench::new(BatchesSpec { stuck: Some(StuckIn::InProgress), ..plain.clone() }).await;
        let batch = stuck.made(&stuck.upload(&texts).await).await;
        until(&stuck.simulator, |counts| counts.answered == 50).await;
        assert_eq!(stuck.api.get(&batch.id).await.unwrap().unwrap().status, BatchStatus::Running);
        stuck.api.cancel(&batch.id).await.unwrap();
        let ended = stuck.ended(&batch.id).await;
        assert_eq!(ended.status, BatchStatus::Cancelled, "{shape:?}");
        assert_eq!(answers(&stuck.download(&ended.output_file_id.unwrap()).await.0).len(), 50);
        stuck.api.cancel(&batch.id).await.unwrap();

        let failure = BatchFailure { code: Some("invalid_request".into()), line: None, times: None };
        let failing = BatchBench::new(BatchesSpec { failure: Some(failure), ..plain }).await;
        let ended = failing.ended(&failing.made(&failing.upload(&texts).await).await.id).await;
        assert_eq!((ended.status, ended.output_file_id), (BatchStatus::Failed, None), "{shape:?}");
        let errors = ended.errors.unwrap().data;
        assert_eq!(errors[0].message.as_deref(), Some("a configured failure"), "{shape:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_whole_when_its_process_ended_is_finished() {
    for ignores_ranges in [false, true] {
        let bench = BatchBench::new(BatchesSpec { ignores_ranges, ..BatchesSpec::default() }).await;
        let texts = texts(5);
        let batch = bench.made(&bench.upload(&texts).await).await;
        let output = bench.ended(&batch.id).await.output_file_id.unwrap();
        let (whole, _) = bench.download(&output).await;
        let path = bench.folder.path().join(format!("{output}.jsonl"));
        std::fs::rename(&path, path.with_extension("part")).unwrap();
        assert_eq!(bench.download(&output).await, (whole, 0));
    }
}
