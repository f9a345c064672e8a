//! Plans are a function of source, position and limits.

use std::path::Path;

use enrich::checkpoint::{PlannedBatch, Position};
use enrich::config::{BatchLimits, Job};
use enrich::ident::BatchId;
use enrich::plan::Planner;
use enrich::source::Source;
use proptest::prelude::*;

use crate::support::{append_delta, rows, write_parquet};

async fn source(folder: &Path) -> Source {
    let text = "app_id = \"a\"\n[source]\npath = \"source\"\n[target]\npath = \"t\"\n\
                [provider.p]\nbase_url = \"simulator\"\nmodel = \"m\"\n[[step]]\noutput = \"o\"\nprompt = \"p\"\n";
    let job = Job::parse(&folder.join("job.toml"), text, |_| None).unwrap();
    Source::open(&job.source).await.unwrap()
}

async fn plan(folder: &Path, limits: BatchLimits, from: &Position, first: BatchId) -> Vec<PlannedBatch> {
    let mut planner = Planner::new(source(folder).await, limits, from.clone(), None);
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
    let batches = plan(folder.path(), limits, &Position::Start, BatchId::FIRST).await;

    // Every row once, in order, in batches of bounded size.
    let opened = source(folder.path()).await;
    let mut reader = opened.reader();
    let mut ids: Vec<i64> = Vec::new();
    for batch in &batches {
        assert!((1..=u64::from(max_rows)).contains(&batch.rows()));
        assert!(batch.bytes <= max_bytes || batch.rows() == 1);
        for part in &batch.parts {
            for chunk in reader.read(part, None).unwrap() {
                let column =
                    chunk.rows.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
                ids.extend(column.values());
            }
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..all).collect::<Vec<_>>());
    assert_eq!(reader.decoded(), all.cast_unsigned(), "no row is decoded twice");

    // From any position on, the same batches again, also after a trip through JSON.
    if !batches.is_empty() {
        let at = pick.index(batches.len());
        let stored = serde_json::to_string(&batches[at]).unwrap();
        let from: PlannedBatch = serde_json::from_str(&stored).unwrap();
        assert_eq!(from, batches[at]);
        let again = plan(folder.path(), limits, &from.next, from.id.next()).await;
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
        max_rows in 1_u32..40,
        max_bytes in prop_oneof![Just(1_u64 << 40), 1_u64..5_000],
        pick in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&files, is_delta, max_rows, max_bytes, pick));
    }
}
