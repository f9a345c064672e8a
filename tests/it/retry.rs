//! `enrich retry`: failed rows are asked again, once, and mended in place.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use enrich::config::SimulatorSpec;
use enrich::faultpoint::ACTIONS;
use enrich::simulator::{Gate, Simulator, answer_to};

use crate::support::{
    Outcome, TargetRow, World, append_delta, delta, nth, prompt_of, read_target, refusals, rows, text_of,
    until, with_faults,
};

/// Files of the newest version.
async fn files(world: &World) -> BTreeSet<String> {
    let table = delta(&world.path("target")).await;
    table.get_file_uris().unwrap().map(|uri| uri.rsplit('/').next().unwrap().to_owned()).collect()
}

/// Files of the newest version that hold failed rows.
async fn failed_files(world: &World) -> BTreeSet<String> {
    let table = delta(&world.path("target")).await;
    let adds = table.snapshot().unwrap().log_data();
    let has_errors = |stats: &str| {
        !stats.contains("\"maxValues\":{}") && !stats.contains("{\"error_count\":0}},\"nullCount\"")
    };
    adds.iter()
        .filter(|file| file.stats().is_none_or(|stats| has_errors(&stats)))
        .map(|file| file.path().into_owned())
        .collect()
}

fn failed_ids(target: &[TargetRow]) -> BTreeSet<i64> {
    target.iter().filter(|row| row.error_count > 0).map(|row| row.id).collect()
}

/// All rows of one file, in their order in it.
async fn order_in_files(world: &World) -> BTreeMap<String, Vec<i64>> {
    let table = enrich::table::Table::open(&world.path("target")).await.unwrap();
    let mut order = BTreeMap::new();
    for file in files(world).await {
        let mut ids: Vec<i64> = Vec::new();
        let names = [file.clone()];
        let scan = enrich::table::Scan { files: Some(&names), file_column: None };
        table
            .scan(scan, "SELECT id FROM target", |batch| {
                use arrow::array::AsArray;
                ids.extend(batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values());
                Ok::<(), enrich::table::TableError>(())
            })
            .await
            .unwrap();
        order.insert(file, ids);
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rows_are_asked_once_and_mended_in_place() {
    let world = World::with_failed(40, 4, refusals([3, 4, 17], 400, "content_filter")).await;
    let before = files(&world).await;
    let failed = failed_files(&world).await;
    assert_eq!((before.len(), failed.len()), (4, 2));
    world.on_job("retry", &[]).await.assert_status(0).assert_says("3 answers");
    world.assert_target(0..40).await;
    let after = files(&world).await;
    assert_eq!(after.intersection(&before).count(), 2, "files without errors are the same files");
    assert!(after.is_disjoint(&failed));
    for ids in order_in_files(&world).await.values() {
        assert!(ids.is_sorted(), "rows keep their order: {ids:?}");
    }
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.answered), (3, 3));
    for id in [3, 4, 17] {
        assert_eq!(counts.answers_to(&prompt_of(id)), 1);
    }
    let version = world.target_version().await;
    world.on_job("retry", &[]).await.assert_status(0).assert_says("nothing to do");
    assert_eq!((world.target_version().await, world.simulator.counts().requests), (version, 3));
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_takes_the_rows_it_is_told_and_no_others() {
    let mut faults = refusals([1, 2, 3], 400, "content_filter");
    faults.extend(refusals([11, 12, 25], 413, "too_large"));
    let world = World::with_failed(30, 3, faults).await;
    let failed = async || failed_ids(&world.target().await).into_iter().collect::<Vec<_>>();
    assert_eq!(failed().await, [1, 2, 3, 11, 12, 25]);
    world.on_job("retry", &["--class", "content_filter", "--limit", "1"]).await.assert_status(0);
    assert_eq!(failed().await, [2, 3, 11, 12, 25]);
    world.on_job("retry", &["--where", "id > 11 AND text LIKE '%tab'"]).await.assert_status(0);
    assert_eq!(failed().await, [2, 3, 11]);
    world.on_job("retry", &["--batch", "1"]).await.assert_status(0);
    assert_eq!(failed().await, [2, 3]);
    world.on_job("retry", &["--step", "other"]).await.assert_status(2).assert_says("its outputs are answer");
    world
        .on_job("retry", &["--where", "nonsense = 1"])
        .await
        .assert_status(2)
        .assert_says("the condition \"nonsense = 1\" is wrong");
    world.on_job("retry", &["--class", "content_filter,too_large"]).await.assert_status(0);
    assert!(failed().await.is_empty());
    assert_eq!(world.simulator.counts().answered, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_fail_again_keep_their_newest_error() {
    let world = World::with_failed(30, 1, refusals(5..30, 400, "content_filter")).await;
    let spec = with_faults(refusals(5..29, 413, "x"));
    let other = Simulator::start(spec, 0).await.unwrap();
    world.write_text(&world.job_at(&other));
    // More rows are refused in the same way than would stop a run.
    world.on_job("retry", &[]).await.assert_status(0).assert_says("1 answer,").assert_says("24 errors");
    let target = world.target().await;
    assert_eq!(failed_ids(&target), (5..29).collect());
    for row in target.iter().filter(|row| row.error_count > 0) {
        assert!(row.answer.as_deref().unwrap().starts_with("ERROR: too_large"), "{row:?}");
    }
    assert_eq!(target.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_provider_can_be_asked() {
    let world = World::with_failed(12, 1, refusals([5], 400, "content_filter")).await;
    let other = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    let job = world.usual_job("") + "provider = \"sim\"\n";
    let job = job.replace(
        "[[step]]",
        &format!("[provider.other]\nbase_url = \"{}\"\nmodel = \"other\"\n[[step]]", other.url()),
    );
    world.write_text(&job);
    world
        .on_job("retry", &["--provider", "nobody"])
        .await
        .assert_status(2)
        .assert_says("the job has no provider \"nobody\"");
    world.on_job("retry", &["--provider", "other"]).await.assert_status(0);
    world.assert_target(0..12).await;
    assert_eq!((world.simulator.counts().requests, other.counts().requests), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_retries_that_follow_each_other_come_to_every_row() {
    let failing = [2, 7, 11, 15, 18];
    let world = World::with_failed(20, 2, refusals(failing, 413, "x")).await;
    let spec = with_faults(refusals(failing, 413, "x"));
    let broken = Simulator::start(spec, 0).await.unwrap();
    world.write_text(&world.job_at(&broken));
    for (asked, limit) in [(2, "2"), (4, "2")] {
        world.on_job("retry", &["--since", "2h", "--limit", limit]).await.assert_status(0);
        assert_eq!(broken.counts().requests, asked);
    }
    // One is left that no retry has come to; now it can be answered.
    world.write_job("");
    world.on_job("retry", &["--since", "2h", "--limit", "1"]).await.assert_status(0);
    let failed: Vec<i64> =
        world.target().await.iter().filter(|row| row.error_count > 0).map(|row| row.id).collect();
    assert_eq!(failed, [2, 7, 11, 15], "the one that was not asked by the retries before");
    // What is to be typed next chooses the same rows.
    let chosen = ["--class", "too_large", "--step", "answer", "--where", "id > 0", "--limit", "1"];
    let told = world.on_job("retry", &chosen).await;
    let job = world.job().display().to_string();
    let again =
        format!("to go on: enrich retry {job} --class too_large --step answer --where 'id > 0' --limit 1");
    told.assert_status(0).assert_says(&again);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_only_target_is_refused_before_anything_is_paid() {
    let world = World::with_failed(12, 1, refusals([5], 400, "content_filter")).await;
    let properties = [("delta.appendOnly".to_owned(), "true".to_owned())];
    delta(&world.path("target")).await.set_tbl_properties().with_properties(properties.into()).await.unwrap();
    let version = world.target_version().await;
    world.on_job("retry", &[]).await.assert_status(2).assert_says("is append-only");
    assert_eq!((world.simulator.counts().requests, world.target_version().await), (0, version));
}

#[tokio::test(flavor = "multi_thread")]
async fn change_data_is_written_where_the_feed_is_on() {
    let world = World::with_failed(20, 2, refusals([5, 15], 400, "content_filter")).await;
    let properties = [("delta.enableChangeDataFeed".to_owned(), "true".to_owned())];
    delta(&world.path("target")).await.set_tbl_properties().with_properties(properties.into()).await.unwrap();
    let version = world.target_version().await;
    world.on_job("retry", &[]).await.assert_status(0);
    world.assert_target(0..20).await;
    let context = deltalake::datafusion::prelude::SessionContext::new();
    let plan = delta(&world.path("target"))
        .await
        .scan_cdf()
        .with_starting_version(version + 1)
        .build(&context.state(), None)
        .await
        .unwrap();
    let batches = deltalake::datafusion::physical_plan::collect(plan, context.task_ctx()).await.unwrap();
    let mut changes = Vec::new();
    for batch in &batches {
        let text = |name: &str| {
            let column = batch.column_by_name(name).unwrap();
            arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap()
        };
        let (ids, kinds, answers) = (text("id"), text("_change_type"), text("answer"));
        use arrow::array::AsArray;
        for at in 0..batch.num_rows() {
            changes.push((
                ids.as_string::<i32>().value(at).parse::<i64>().unwrap(),
                kinds.as_string::<i32>().value(at).to_owned(),
                answers.as_string::<i32>().value(at).to_owned(),
            ));
        }
    }
    changes.sort();
    let kinds: Vec<(i64, &str)> = changes.iter().map(|(id, kind, _)| (*id, kind.as_str())).collect();
    let (before, after) = ("update_preimage", "update_postimage");
    assert_eq!(kinds, [(5, after), (5, before), (15, after), (15, before)]);
    for (id, kind, answer) in &changes {
        if kind == after {
            assert_eq!(*answer, answer_to(&prompt_of(*id)));
        } else {
            assert!(answer.starts_with("ERROR: content_filter"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beside_a_retry_is_no_conflict() {
    let world = World::with_failed(60, 6, refusals((0..60).step_by(2), 413, "x")).await;
    let held = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    held.set_gate(Gate::ShutFrom(1));
    world.write_text(&world.job_at(&held));
    append_delta(&world.path("source"), &rows(60..120)).await;
    let spawn = |command: &str| {
        let mut command = world.job_command(command, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let retrying = spawn("retry");
    until(&held, |counts| counts.requests > 0).await;
    let running = spawn("run");
    world.on_job("retry", &[]).await.assert_status(6).assert_says("another run holds this job");
    held.set_gate(Gate::Open);
    let end = |child: std::process::Child| {
        tokio::task::spawn_blocking(move || Outcome::of(&child.wait_with_output().unwrap()))
    };
    let (retried, ran) = tokio::join!(end(retrying), end(running));
    retried.unwrap().assert_status(0);
    ran.unwrap().assert_status(0);
    world.assert_target(0..120).await;
    assert_eq!(held.counts().answered, 30 + 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_of_a_retry_survives_a_kill() {
    for action in ACTIONS {
        for side in ["before", "after"] {
            let failed: BTreeSet<i64> = (0..45).filter(|id| id % 3 == 0).collect();
            let world = World::with_failed(45, 3, refusals(failed.iter().copied(), 413, "x")).await;
            world.write_text(&world.usual_job("").replace("max_rows = 10", "max_rows = 4"));
            let fault = format!("{action}.{side}=kill@{}", nth(action));
            let killed = world.on_job_with("retry", &[], &[("ENRICH_FAULT", &fault)]).await;
            assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
            world.on_job("retry", &[]).await.assert_status(0);
            world.assert_target(0..45).await;
            let counts = world.simulator.counts();
            assert!(counts.paid_again() <= 4, "{fault}: {} were paid again", counts.paid_again());
            for id in 0..45 {
                let times = counts.answers_to(&prompt_of(id));
                assert_eq!(times > 0, failed.contains(&id), "{fault}: row {id} was answered {times} times");
            }
            let left = std::fs::read_dir(world.path("target/_checkpoints/test/journal/retry")).unwrap();
            assert_eq!(left.count(), 0, "{fault}: no journal is left");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_errors_kills_and_a_compaction() {
    let seed = std::env::var("ENRICH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("ENRICH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let count = random.i64(20..80);
        let commits = random.i64(1..6);
        let failed: BTreeSet<i64> = (0..count).filter(|_| random.f64() < 0.3).collect();
        let mut faults = Vec::new();
        for id in &failed {
            let (status, code) = [(400, "content_filter"), (413, "x"), (422, "y")][random.usize(..3)];
            faults.extend(refusals([*id], status, code));
        }
        let world = World::with_failed(count, commits, faults).await;
        let size = random.u32(1..12);
        world.write_text(&world.usual_job("").replace("max_rows = 10", &format!("max_rows = {size}")));
        let clean: BTreeSet<String> =
            files(&world).await.difference(&failed_files(&world).await).cloned().collect();
        let mut in_flight = 0;
        let mut compacted = false;
        for _ in 0..random.u32(0..5) {
            let side = if random.bool() { "before" } else { "after" };
            let (action, hit) = (ACTIONS[random.usize(..ACTIONS.len())], random.u32(1..4));
            let fault = format!("{action}.{side}=kill@{hit}");
            let killed = world.on_job_with("retry", &[], &[("ENRICH_FAULT", &fault)]).await;
            in_flight += u64::from(killed.status.is_none()) * 4;
            assert!(matches!(killed.status, None | Some(0)), "{}", killed.stderr);
            if !compacted && random.bool() {
                delta(&world.path("target")).await.optimize().await.unwrap();
                compacted = true;
            }
        }
        world.on_job("retry", &[]).await.assert_status(0);
        let mut target = read_target(&world.path("target")).await;
        target.sort_by_key(|row| row.id);
        let ids: Vec<i64> = target.iter().map(|row| row.id).collect();
        assert_eq!(ids, (0..count).collect::<Vec<_>>());
        for row in &target {
            assert_eq!(row.text.as_deref(), Some(text_of(row.id).as_str()));
            assert_eq!(row.answer.as_deref(), Some(answer_to(&prompt_of(row.id)).as_str()));
            assert_eq!(row.error_count, 0);
        }
        if !compacted {
            assert!(files(&world).await.is_superset(&clean), "files without errors are the same files");
        }
        let counts = world.simulator.counts();
        for id in 0..count {
            assert_eq!(counts.answers_to(&prompt_of(id)) > 0, failed.contains(&id), "row {id}");
        }
        assert!(counts.paid_again() <= in_flight, "{} paid again", counts.paid_again());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_between_reading_and_committing_is_seen() {
    let world = World::with_failed(40, 4, refusals([3, 17], 413, "x")).await;
    let path = world.path("target");
    let mut stale = enrich::table::Table::open(&path).await.unwrap();
    let replaced: BTreeSet<String> =
        stale.files().await.unwrap().into_iter().take(1).map(|file| file.path).collect();
    let rewritten = stale.stage(u64::MAX).await.unwrap().finish().await.unwrap();
    delta(&world.path("target")).await.optimize().await.unwrap();
    let version = world.target_version().await;
    let info = serde_json::Map::new;
    assert!(stale.rewrite(&replaced, &rewritten, None, &[], info()).await.is_err());
    let mut stale = enrich::table::Table::open_at(&path, version - 1).await.unwrap();
    assert!(stale.clear(info()).await.is_err());
    assert_eq!(world.target_version().await, version);
    world.on_job("retry", &[]).await.assert_status(0);
    let mut ids: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    assert!(failed_ids(&world.target().await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_retry_drops_the_plan_of_one_that_was_cut_short_and_keeps_its_answers() {
    let mut faults = refusals([1, 2, 3, 4, 5, 6], 400, "content_filter");
    faults.extend(refusals([11, 12], 413, "x"));
    let world = World::with_failed(30, 3, faults).await;
    let killed = world.on_job_with("retry", &[], &[("ENRICH_FAULT", "journal-append.after=kill@4")]).await;
    assert_eq!(killed.status, None);
    world.settle().await;
    // Only what is selected now is asked and written.
    world.on_job("retry", &["--class", "too_large"]).await.assert_status(0);
    assert_eq!(failed_ids(&world.target().await), (1..=6).collect());
    world.on_job("retry", &["--limit", "2"]).await.assert_status(0).assert_says("from the journal");
    assert_eq!(failed_ids(&world.target().await).len(), 4);
    world.on_job("retry", &[]).await.assert_status(0);
    world.assert_target(0..30).await;
    assert!(world.simulator.counts().paid_again() <= 4, "{}", world.simulator.counts().paid_again());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_the_job_does_not_have_any_more_keeps_its_errors() {
    let world = World::with_rows(10, 1).await;
    let spec = with_faults(refusals([4, 7], 413, "x"));
    let broken = Simulator::start(spec, 0).await.unwrap();
    let one = world.job_at(&broken);
    let two = format!("{one}[[step]]\noutput = \"other\"\nprompt = \"Also: {{{{ text }}}}\"\n");
    world.write_text(&two);
    world.run(&[]).await.assert_status(0).assert_says("4 errors");
    world.write_text(&one.replace(broken.url().as_str(), world.simulator.url().as_str()));
    world.on_job("retry", &[]).await.assert_status(0).assert_says("2 answers");
    assert_eq!(failed_ids(&world.target().await), [4, 7].into());
    world.write_text(&two.replace(broken.url().as_str(), world.simulator.url().as_str()));
    world.on_job("retry", &[]).await.assert_status(0).assert_says("2 answers");
    world.assert_target(0..10).await;
    // Each step was asked once about each row.
    assert_eq!(world.simulator.counts().answered, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_retry_again_asks_the_rows_that_failed_again() {
    let world = World::with_failed(20, 2, refusals([3, 14], 413, "x")).await;
    let spec = with_faults(refusals([3, 14], 413, "x"));
    let broken = Simulator::start(spec, 0).await.unwrap();
    let fixed = world.usual_job("");
    world.write_text(&fixed.replace(world.simulator.url().as_str(), broken.url().as_str()));
    world.on_job("retry", &["--class", "too_large"]).await.assert_status(0).assert_says("2 errors");
    world.write_text(&fixed);
    world.on_job("retry", &["--class", "too_large"]).await.assert_status(0).assert_says("2 answers");
    world.assert_target(0..20).await;
}
