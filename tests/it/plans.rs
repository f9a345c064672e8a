//! Plans are a function of source, position and limits.

use std::path::Path;

use enrich::checkpoint::{PlannedBatch, Position};
use enrich::config::{BatchLimits, Job};
use enrich::ident::BatchId;
use enrich::plan::Planner;
use enrich::source::Source;
use proptest::prelude::*;

use crate::support::{append_delta, rows, write_parquet};

async fn source(folder: &Path, every: i64) -> Source {
    // Of a condition that statistics can rule out files and row groups with, and one that they cannot.
    let condition = match every {
        1 => String::new(),
        every => format!("where = \"id % {every} = 0 AND id >= {every}\"\n"),
    };
    let text = "app_id = \"a\"\n[source]\npath = \"source\"\nWHERE[target]\npath = \"t\"\n\
                [provider.p]\nbase_url = \"simulator\"\nmodel = \"m\"\n[[step]]\noutput = \"o\"\nprompt = \"p\"\n";
    let text = text.replace("WHERE", &condition);
    let job = Job::parse(&folder.join("job.toml"), &text, |_| None).unwrap();
    Source::open(&job.source, &job.places.state).await.unwrap()
}

async fn plan(
    folder: &Path,
    every: i64,
    limits: BatchLimits,
    from: &Position,
    first: BatchId,
) -> Vec<PlannedBatch> {
    let mut planner = Planner::new(source(folder, every).await, limits, from.clone(), None);
    let mut batches: Vec<PlannedBatch> = Vec::new();
    loop {
        let id = batches.last().map_or(first, |last| last.id.next());
        match planner.next(id).await.unwrap() {
            Some(batch) => batches.push(batch),
            None => return batches,
        }
    }
}

async fn check(
    files: &[(i64, usize)],
    is_delta: bool,
    every: i64,
    max_rows: u32,
    max_bytes: u64,
    pick: prop::sample::Index,
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    std::fs::create_dir(&path).unwrap();
    let mut all = 0;
    for (at, (count, group)) in files.iter().enumerate() {
        let batch = rows(all..all + count);
        if is_delta {
            append_delta(&path, &batch).await;
        } else {
            write_parquet(&path.join(format!("{at}.parquet")), &batch, *group);
        }
        all += count;
    }
    let limits = BatchLimits { max_rows, max_bytes };
    let batches = plan(folder.path(), every, limits, &Position::Start, BatchId::FIRST).await;

    // Every row once, in order, in batches of bounded size.
    let mut opened = source(folder.path(), every).await;
    let mut reader = opened.reader();
    let mut ids: Vec<i64> = Vec::new();
    for batch in &batches {
        let before = ids.len();
        for part in &batch.parts {
            let kept = opened.kept(part, batch.condition.as_deref()).await.unwrap();
            for chunk in reader.read(part, &kept).unwrap() {
                let column =
                    chunk.rows.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
                ids.extend(column.values());
            }
        }
        let found = (ids.len() - before) as u64;
        assert!((1..=u64::from(max_rows)).contains(&found));
        let is_last = batch.id == batches[batches.len() - 1].id;
        assert!(is_last || max_bytes < 1 << 40 || found == u64::from(max_rows), "batches are full");
        assert!(batch.bytes <= max_bytes || found == 1);
    }
    ids.sort_unstable();
    let wanted: Vec<i64> = match every {
        1 => (0..all).collect(),
        every => (every..all).step_by(usize::try_from(every).unwrap()).collect(),
    };
    assert_eq!(ids, wanted);
    assert!(reader.decoded() <= all.cast_unsigned(), "no row is decoded twice");
    assert!(every > 1 || reader.decoded() == all.cast_unsigned());

    // From any position on, the same batches again, also after a trip through JSON.
    if !batches.is_empty() {
        let at = pick.index(batches.len());
        let stored = serde_json::to_string(&batches[at]).unwrap();
        let from: PlannedBatch = serde_json::from_str(&stored).unwrap();
        assert_eq!(from, batches[at]);
        let again = plan(folder.path(), every, limits, &from.next, from.id.next()).await;
        assert_eq!(again, batches[at + 1..]);
        let digests: Vec<_> = batches.iter().map(PlannedBatch::digest).collect();
        assert!(digests.iter().collect::<std::collections::BTreeSet<_>>().len() == digests.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_plans_cover_every_row_once_and_replay_to_the_same_content(
        files in prop::collection::vec((0_i64..60, 1_usize..30), 1..6),
        is_delta in any::<bool>(),
        every in prop_oneof![Just(1_i64), 2_i64..40],
        max_rows in 1_u32..40,
        max_bytes in prop_oneof![Just(1_u64 << 40), 1_u64..5_000],
        pick in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&files, is_delta, every, max_rows, max_bytes, pick));
    }
}
