//! Datasets of Hugging Face as sources: listings in pages, files in parts and at another host, tokens, refusals, and
//! repositories that change between runs.

use std::process::Command;

use enrich::config::SimulatorSpec;

use crate::files::bytes_of;
use crate::support::hub::{Hub, REPOSITORY, Refusal};
use crate::support::{Outcome, World, packages, prompt_of, rows, write_parquet};

/// The bytes of a Parquet file, which is large enough for the second server.
fn parquet_of(ids: std::ops::Range<i64>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write_parquet(&path, &rows(ids), 10);
    std::fs::read(path).unwrap()
}

/// A world with the usual job over a path of the repository.
async fn world_of(path: &str) -> World {
    let world = World::new(SimulatorSpec::default()).await;
    point(&world, path);
    world
}

fn point(world: &World, path: &str) {
    let url = format!("\"hf://datasets/{REPOSITORY}{path}\"");
    world.write_text(&world.usual_job("").replace("\"source\"", &url));
}

fn command(world: &World, hub: &Hub, arguments: &[&str]) -> Command {
    let mut command = world.job_command(arguments[0], &arguments[1..]);
    command.env("HF_ENDPOINT", &hub.url).env_remove("HF_TOKEN");
    command
}

async fn run(world: &World, hub: &Hub, environment: &[(&str, &str)]) -> Outcome {
    let mut command = command(world, hub, &["run"]);
    command.envs(environment.iter().copied());
    world.outcome(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_each_format_are_read_over_pages_and_redirects() {
    for (ending, folder) in [("parquet", "data/split=train"), ("csv", "a b/ü"), ("jsonl", ""), ("tsv", "x")]
    {
        let hub = Hub::start(None).await;
        let bytes = |ids| if ending == "parquet" { parquet_of(ids) } else { bytes_of(ending, &rows(ids)) };
        let path = |name: &str| {
            let path = format!("{folder}/{name}.{ending}");
            path.trim_start_matches('/').to_owned()
        };
        let contents = [(0, bytes(0..40)), (1, bytes(40..80)), (2, bytes(80..83))];
        let files: Vec<(String, Vec<u8>)> =
            contents.into_iter().map(|(at, content)| (path(&format!("part {at}")), content)).collect();
        let mut changes: Vec<(&str, Option<Vec<u8>>)> =
            files.iter().map(|(path, content)| (path.as_str(), Some(content.clone()))).collect();
        changes.push((".gitattributes", Some(b"*.parquet filter=lfs".to_vec())));
        changes.push(("README.md", Some(b"# About".to_vec())));
        let commit = hub.commit(&changes);
        for path in
            ["".to_owned(), format!("/{folder}"), format!("@main/{folder}"), format!("@{commit}/{folder}")]
        {
            let world = world_of(path.trim_end_matches('/')).await;
            run(&world, &hub, &[]).await.assert_status(0);
            world.assert_target(0..83).await;
            run(&world, &hub, &[]).await.assert_status(0).assert_says("nothing to do");
        }
        let world = world_of(&format!("/{}", files[1].0)).await;
        run(&world, &hub, &[]).await.assert_status(0);
        world.assert_target(40..80).await;
        assert!(hub.parts().iter().any(|path| !path.contains("/resolve/")), "the second server has parts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_no_other_host() {
    let hub = Hub::start(Some("hf_secret")).await;
    hub.commit(&[("a.parquet", Some(parquet_of(0..40)))]);
    let world = world_of("").await;
    let refused = run(&world, &hub, &[]).await;
    refused
        .assert_status(2)
        .assert_says("the server answers 401 (Access to dataset owner/name is restricted)");
    refused.assert_says("Set the environment variable HF_TOKEN to a token that may read it");
    let refused = run(&world, &hub, &[("HF_TOKEN", "hf_other")]).await;
    refused.assert_status(2).assert_says("the token in HF_TOKEN may not read it");
    assert!(!refused.stderr.contains("hf_other"), "{}", refused.stderr);
    let ended = run(&world, &hub, &[("HF_TOKEN", "hf_secret")]).await;
    ended.assert_status(0);
    assert!(!ended.stderr.contains("hf_secret"));
    world.assert_target(0..40).await;
    assert!(!hub.has_leaked());
    for (path, bytes) in crate::support::everything_below(&world.path("target")) {
        assert!(!String::from_utf8_lossy(&bytes).contains("hf_secret"), "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_pass_cost_time_alone() {
    let hub = Hub::start(None).await;
    hub.commit(&[("a.csv", Some(bytes_of("csv", &rows(0..40))))]);
    let of = |status, retry_after| Refusal { status, retry_after, is_of_part: false };
    let world = world_of("").await;
    hub.refuse([of(503, None), of(429, Some(1)), of(500, None), of(429, None), of(504, None)]);
    run(&world, &hub, &[]).await.assert_status(0);
    world.assert_target(0..40).await;
    assert!(hub.has_refused_all());

    hub.refuse([of(429, Some(3_600))]);
    let refused = run(&world, &hub, &[]).await;
    refused.assert_status(1).assert_says("asks to wait for 3600 s");
    hub.refuse([of(403, None)]);
    run(&world, &hub, &[]).await.assert_status(2).assert_says("the server answers 403");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_long_in_reading_is_named_meanwhile() {
    let hub = Hub::start(None).await;
    hub.commit(&[("a.csv", Some(bytes_of("csv", &rows(0..40))))]);
    // Longer than the time between two messages.
    hub.refuse([Refusal { status: 429, retry_after: Some(6), is_of_part: true }]);
    let world = world_of("").await;
    let ended = run(&world, &hub, &[]).await;
    ended.assert_status(0).assert_says("a.csv: 0 of 1 MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let hub = Hub::start(None).await;
    hub.commit(&[("a.csv", Some(b"id,text\n1,a\n".to_vec()))]);
    let world = world_of("@nowhere/a.csv").await;
    let refused = run(&world, &hub, &[]).await;
    refused.assert_status(2).assert_says("the server answers 404 (Invalid rev id)");
    for path in ["/b.csv", "/folder"] {
        point(&world, path);
        let refused = run(&world, &hub, &[]).await;
        refused.assert_status(2).assert_says("is not there");
    }
    let job = world.usual_job("").replace("\"source\"", "\"hf://datasets/owner/other/a.csv\"");
    world.write_text(&job);
    let refused = run(&world, &hub, &[]).await;
    refused
        .assert_status(2)
        .assert_says("hf://datasets/owner/other/a.csv: the server answers 404 (Repository");
    let refused = run(&world, &hub, &[("HF_ENDPOINT", "nowhere")]).await;
    refused.assert_status(2).assert_says("HF_ENDPOINT is set to what is no URL");
    let refused = run(&world, &hub, &[("HF_ENDPOINT", "http://127.0.0.1:9")]).await;
    refused.assert_status(1).assert_says("the server does not answer").assert_says("5 times in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_revision_adds_the_rows_of_its_new_files() {
    let hub = Hub::start(None).await;
    hub.commit(&[("b.parquet", Some(parquet_of(0..40)))]);
    let world = world_of("").await;
    let ended = world.outcome({
        let mut command = command(&world, &hub, &["run"]);
        command.env("ENRICH_FAULT", "delta-commit.after=kill@2");
        command
    });
    assert_eq!(ended.await.status, None);
    // Its name comes before that of the file that is read in part.
    hub.commit(&[("a.parquet", Some(parquet_of(40..60)))]);
    world.settle().await;
    run(&world, &hub, &[]).await.assert_status(0);
    let target = world.target().await;
    let mut ids: Vec<i64> = target.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..60).collect::<Vec<_>>());
    let counts = world.simulator.counts();
    assert!((0..60).all(|id| (1..=2).contains(&counts.answers_to(&prompt_of(id)))));
    run(&world, &hub, &[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_or_went_is_refused_and_read_at_its_commit() {
    for ending in ["csv", "parquet"] {
        for is_gone in [false, true] {
            let hub = Hub::start(None).await;
            let name = format!("a.{ending}");
            let bytes =
                |ids| if ending == "parquet" { parquet_of(ids) } else { bytes_of(ending, &rows(ids)) };
            let first = bytes(10..40);
            let other = bytes(40..70);
            assert_eq!(first.len(), other.len(), "its size does not tell");
            let commit = hub.commit(&[(&name, Some(first.clone()))]);
            let world = world_of("").await;
            let mut killed = command(&world, &hub, &["run"]);
            killed.env("ENRICH_FAULT", "delta-commit.after=kill@2");
            assert_eq!(world.outcome(killed).await.status, None);
            world.settle().await;
            let change = (!is_gone).then_some(other);
            hub.commit(&[(&name, change), ("b.csv", None), ("z.parquet", Some(parquet_of(70..75)))]);
            if ending == "csv" {
                hub.commit(&[("z.parquet", None), ("z.csv", Some(bytes(70..75)))]);
            }
            let refused = run(&world, &hub, &[]).await;
            assert_ne!(refused.status, Some(0), "{refused:?}");
            let reason =
                if is_gone { "it is gone" } else { "its content is not what it was when it was read" };
            refused.assert_says(&name).assert_says(reason);
            refused.assert_says(&format!("source.path = \"hf://datasets/{REPOSITORY}@{commit}\""));
            let again = run(&world, &hub, &[]).await;
            again.assert_says(reason);

            point(&world, &format!("@{commit}"));
            run(&world, &hub, &[]).await.assert_status(0);
            world.assert_target(10..40).await;
            point(&world, "");
            let later = run(&world, &hub, &[]).await;
            if is_gone {
                later.assert_status(0);
                let ids: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
                assert_eq!(ids, (10..40).chain(70..75).collect::<Vec<_>>());
            } else {
                later.assert_says(reason);
                // Under its former content again, it is what was read.
                hub.commit(&[(&name, Some(first))]);
                run(&world, &hub, &[]).await.assert_status(0);
                assert_eq!(world.target().await.len(), 35);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_before_it_was_read_is_read_as_it_is() {
    let hub = Hub::start(None).await;
    hub.commit(&[
        ("a.csv", Some(bytes_of("csv", &rows(0..4)))),
        ("b.csv", Some(bytes_of("csv", &rows(10..40)))),
    ]);
    let world = world_of("").await;
    let ended = world.outcome(command(&world, &hub, &["run", "--max-rows", "4"])).await;
    ended.assert_status(0);
    hub.commit(&[("b.csv", Some(bytes_of("csv", &rows(40..70))))]);
    run(&world, &hub, &[]).await.assert_status(0);
    let ids: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
    assert_eq!(ids, (0..4).chain(40..70).collect::<Vec<_>>());
    run(&world, &hub, &[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_repository() {
    let world = World::with_rows(1, 1).await;
    let job = world.usual_job("");
    let url = format!("\"hf://datasets/{REPOSITORY}/out\"");
    for text in [job.replace("\"target\"", &url), format!("{job}\n[checkpoint]\npath = {url}\n")] {
        world.write_text(&text);
        let refused = world.run(&[]).await;
        refused.assert_status(2).assert_says("repositories of Hugging Face are only read");
    }
    world.write_text(&job);
    world.run(&[]).await.assert_status(0);
    let to = format!("hf://datasets/{REPOSITORY}/out.csv");
    let refused = world.on_job("export", &["--to", &to]).await;
    refused.assert_says("repositories of Hugging Face are only read");
}

/// What huggingface_hub reads: the listing, a file as a whole, and a part of one.
const READ: &str = r#"
import os, sys
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
url, folder, commit = sys.argv[1:]
api = HfApi(endpoint=url)
entries = api.list_repo_tree("owner/name", repo_type="dataset", recursive=True)
print(sorted(entry.path for entry in entries if hasattr(entry, "size")))
print(api.dataset_info("owner/name").sha == commit)
path = hf_hub_download("owner/name", "large.csv", repo_type="dataset", cache_dir=folder, endpoint=url)
print(open(path, "rb").read() == open(os.path.join(folder, "large.csv"), "rb").read())
system = HfFileSystem(endpoint=url)
print(sorted(system.ls("datasets/owner/name", detail=False)))
with system.open(f"datasets/owner/name@{commit}/large.csv", "rb", block_size=1000) as file:
    file.seek(1500)
    print(file.read(20) == open(os.path.join(folder, "large.csv"), "rb").read()[1500:1520])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_these_tests_is_what_hugging_faces_own_program_expects() {
    let Some(python) = packages::of_pypi("huggingface_hub", "huggingface_hub>=1") else { return };
    let hub = Hub::start(None).await;
    let large = bytes_of("csv", &rows(0..200));
    let small = Some(b"id,text\n".to_vec());
    let commit = hub.commit(&[
        ("large.csv", Some(large.clone())),
        ("a b/c.csv", small.clone()),
        ("d.csv", small.clone()),
        ("e.csv", small),
    ]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("large.csv"), &large).unwrap();
    let mut command = Command::new(python);
    command.args(["-c", READ, &hub.url, folder.path().to_str().unwrap(), &commit]);
    command.env("HF_HOME", folder.path()).env("HF_HUB_DISABLE_TELEMETRY", "1").env_remove("HF_TOKEN");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "['a b/c.csv', 'd.csv', 'e.csv', 'large.csv']\nTrue\nTrue\n\
                    ['datasets/owner/name/a b', 'datasets/owner/name/d.csv', 'datasets/owner/name/e.csv', \
                    'datasets/owner/name/large.csv']\nTrue\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
