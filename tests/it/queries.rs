//! Sources that are SQL queries over several tables: what is new is asked once, whatever is killed, lost or started over.

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, Time64MicrosecondArray};
use arrow::csv::WriterBuilder;
use arrow::record_batch::RecordBatch;
use enrich::config::{FaultSpec, SimulatorSpec};
use enrich::faultpoint::{ACTIONS, QUERY_ACTIONS};

use crate::support::store::Store;
use crate::support::{Outcome, World, append_delta, fault, project, prompt_of, rows, rows_of, write_parquet};

/// A query that gives the usual rows, over `left` and `right`.
const JOINED: &str = "SELECT l.id, r.text FROM l JOIN r ON l.id = r.id";

fn csv_of(rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    WriterBuilder::new().build(&mut bytes).write(rows).unwrap();
    bytes
}

/// The usual job over a query, with further lines for `[source]`.
fn job_of(world: &World, query: &str, more: &str) -> String {
    let source = format!(
        "query = '''{query}'''\n{more}\n[source.table.l]\npath = \"left\"\n[source.table.r]\npath = \"right\""
    );
    world.usual_job("").replace("path = \"source\"", &source)
}

/// Adds rows to both tables: CSV files on the left, Parquet files on the right.
fn add(world: &World, ids: std::ops::Range<i64>) {
    for name in ["left", "right"] {
        fs::create_dir_all(world.path(name)).unwrap();
    }
    let rows = rows(ids.clone());
    fs::write(world.path(&format!("left/{}.csv", ids.start)), csv_of(&rows.project(&[0]).unwrap())).unwrap();
    write_parquet(&world.path(&format!("right/{}.parquet", ids.start)), &rows, 10);
}

async fn world_of(ids: std::ops::Range<i64>, query: &str, more: &str) -> World {
    world_with(SimulatorSpec::default(), ids, query, more).await
}

async fn world_with(spec: SimulatorSpec, ids: std::ops::Range<i64>, query: &str, more: &str) -> World {
    let world = World::new(spec).await;
    add(&world, ids);
    world.write_text(&job_of(&world, query, more));
    world
}

/// What a command has printed, and what it has said.
fn said(outcome: &Outcome, text: &str) {
    let both = format!("{}\n{}", outcome.stdout, outcome.stderr);
    assert!(both.contains(text), "{text:?} is missing in:\n{both}");
}

/// Names of the results that are kept for rows that are not in the target.
fn results(world: &World) -> Vec<String> {
    let folder = world.path("target/_checkpoints/test/query");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with("columns-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_asks_for_the_rows_whose_key_is_new() {
    let world = world_of(0..25, JOINED, "key = [\"id\"]").await;
    world.run(&[]).await.assert_status(0).assert_says("the query gives 25 rows, 25 of them new");
    world.assert_target(0..25).await;
    assert_eq!(results(&world), [""; 0], "what is in the target is removed");
    add(&world, 25..40);
    world.run(&[]).await.assert_status(0).assert_says("the query gives 40 rows, 15 of them new");
    world.run(&[]).await.assert_status(0).assert_says("40 rows, 0 of them new").assert_says("nothing to do");
    // Another query with the same key goes on, too.
    world.write_text(&job_of(
        &world,
        "SELECT id, text FROM r WHERE id < 45 ORDER BY id DESC",
        "key = [\"id\"]",
    ));
    add(&world, 40..50);
    world.run(&[]).await.assert_status(0).assert_says("the query gives 45 rows, 5 of them new");
    world.assert_target(0..45).await;
    let answered = world.simulator.counts().answered;
    assert_eq!(answered, 45);
    let target = world.target().await;
    let mut last: Vec<_> = target.iter().filter(|row| row.id >= 40).collect();
    last.sort_by_key(|row| row.row);
    assert_eq!(
        last.iter().map(|row| row.id).collect::<Vec<_>>(),
        [44, 43, 42, 41, 40],
        "in the query's order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_null_or_come_twice_are_refused_with_three_of_them() {
    for (query, says) in [
        ("SELECT id, text FROM r UNION ALL SELECT id, text FROM r WHERE id < 9", "same key (id), such as "),
        ("SELECT nullif(id, 3) AS id, text FROM r", "rows whose key (id) is null, such as null"),
        (
            "SELECT id AS number, text FROM r",
            "has no column \"id\", which source.key names; it has number, text",
        ),
        ("SELECT * FROM l JOIN r ON l.id = r.id", "has two columns named \"id\""),
        ("SELECT id, txt AS text FROM r", "No field named txt"),
        ("SELECT id, text FROM somewhere", "somewhere"),
        ("DROP TABLE r", "is wrong: "),
        ("SELECT id, text, 1 AS __enrich_row FROM r", "names that begin with __enrich are taken"),
        ("SELECT id, FROM", "is wrong: "),
        ("SELECT 1 / (id - 3) AS id, text FROM r", "cannot be computed: "),
    ] {
        let world = world_of(0..12, query, "key = [\"id\"]").await;
        let checked = world.on_job("check", &[]).await;
        said(&checked, says);
        assert_ne!(checked.status, Some(0), "{query}");
        let run = world.run(&[]).await;
        run.assert_says(says);
        assert_ne!(run.status, Some(0), "{query}");
        assert_eq!(world.simulator.counts().requests, 0);
        if says.starts_with("same key") {
            let examples = run.stderr.split("such as ").nth(1).unwrap().split("; join").next().unwrap();
            assert_eq!(examples.split("; ").count(), 3, "{}", run.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_the_job_is_said_with_its_key() {
    let world = World::new(SimulatorSpec::default()).await;
    for (source, says) in [
        ("query = 'SELECT 1'\n[source.table.l]\npath = \"left\"", "`source.key` is missing"),
        ("query = 'SELECT 1'\nkey = [\"id\"]", "`source.table` is missing"),
        ("query = 'SELECT 1'\nkey = [\"id\"]\npath = \"x\"\n[source.table.l]\npath = \"l\"", "take path out"),
        ("query = 'SELECT 1'\nkey = [\"id\"]\nheader = false\n[source.table.l]\npath = \"l\"", "move format"),
        (
            "query = 'SELECT 1'\nkey = [\"id\"]\n[source.table.l]\nversion = 1",
            "`source.table.l.path` is missing",
        ),
        (
            "query = 'SELECT 1'\nkey = [\"id\"]\n[source.table.l]\npath = \"l\"\ndelimiter = \"ab\"",
            "`source.table.l.delimiter` is \"ab\"",
        ),
        (
            "query = 'SELECT 1'\nkey = [\"id\"]\ncolumns = [\"a\"]\n[source.table.l]\npath = \"l\"",
            "lacks \"id\"",
        ),
        (
            "query = 'SELECT 1'\nkey = [\"id\"]\nwhere = \"a > 1\"\n[source.table.l]\npath = \"l\"",
            "`source.where` and source.query are both set",
        ),
        (
            "query = 'SELECT 1'\nkey = [\"id\"]\n[source.table.\"../l\"]\npath = \"l\"",
            "letters, digits and _ are allowed",
        ),
        ("path = \"source\"\nkey = [\"id\"]", "`source.query` is missing"),
        ("columns = [\"a\"]", "`source.path` is missing; it, or source.query"),
    ] {
        world.write_text(&world.usual_job("").replace("path = \"source\"", source));
        world.run(&[]).await.assert_status(2).assert_says(says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_point_loses_and_doubles_nothing() {
    for action in ACTIONS.iter().chain(QUERY_ACTIONS) {
        for side in ["before", "after"] {
            for hit in [1, 2] {
                // A value that a second computation would change.
                let query = "SELECT l.id, r.text, random() AS chance FROM l JOIN r ON l.id = r.id";
                let world = world_of(0..45, query, "key = [\"id\"]").await;
                let fault = format!("{action}.{side}=kill@{hit}");
                let killed = world.run_with(&[], &[("ENRICH_FAULT", &fault)]).await;
                // Some points are passed once, and the last ones after everything.
                assert!(hit == 2 || killed.status.is_none(), "{fault}: {}", killed.stderr);
                world.settle().await;
                add(&world, 45..50);
                world.run(&[]).await.assert_status(0);
                world.assert_target(0..50).await;
                let counts = world.simulator.counts();
                for id in 0..50 {
                    let times = counts.answers_to(&prompt_of(id));
                    let most = if action == &"query-result" { 1 } else { 2 };
                    assert!((1..=most).contains(&times), "{fault}: row {id} was answered {times} times");
                }
                assert_eq!(results(&world), [""; 0], "{fault}");
                world.run(&[]).await.assert_status(0).assert_says("nothing to do");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_has_left_is_kept_and_not_computed_again() {
    let query = "SELECT l.id, r.text, random() AS chance, now() AS at FROM l JOIN r ON l.id = r.id";
    let world = world_of(0..45, query, "key = [\"id\"]").await;
    said(&world.on_job("check", &[]).await, "random, now counts as of this run");
    world.run(&["--max-rows", "20"]).await.assert_status(0);
    assert_eq!(results(&world).len(), 1);
    let kept = results(&world);
    world.run(&["--max-rows", "20"]).await.assert_status(0).assert_says("45 rows, 0 of them new");
    assert_eq!(results(&world), kept);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..45).await;
    let times =
        rows_of(&world.path("target"), "SELECT count(DISTINCT at), count(DISTINCT chance) FROM target").await;
    assert_eq!(times, [["1", "45"]], "all rows are of the first computation");
    assert_eq!((results(&world).len(), world.simulator.counts().answered), (0, 45));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_checkpoint_costs_only_what_is_not_in_the_target() {
    let world = world_of(0..45, JOINED, "key = [\"id\"]").await;
    let killed = world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.after=kill@2")]).await;
    assert_eq!(killed.status, None);
    world.settle().await;
    let written = world.target().await.len() as u64;
    let before = world.simulator.counts().answered;
    fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..45).await;
    assert!(world.simulator.counts().answered <= before + 45 - written);
    // Lost once more, with everything in the table.
    fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("45 rows, 0 of them new");
    world.assert_target(0..45).await;
    // Results that are lost alone are missed, with what to do.
    add(&world, 45..55);
    for fault in ["", "parquet-file.before=kill@1"] {
        let variables = [("ENRICH_FAULT", fault)];
        let variables = if fault.is_empty() { &[][..] } else { &variables[..] };
        world.run_with(&["--max-rows", "4"], variables).await;
        fs::remove_dir_all(world.path("target/_checkpoints/test/query")).unwrap();
        world.run(&[]).await.assert_status(2).assert_says("has lost rows that it gave before");
        fs::remove_file(world.path("target/_checkpoints/test/checkpoint.json")).unwrap();
    }
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..55).await;
    // Lost alone, while results are kept.
    add(&world, 55..75);
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    fs::remove_file(world.path("target/_checkpoints/test/checkpoint.json")).unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..75).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_asks_for_all_rows_again_also_when_it_is_cut_short() {
    for fault in ["", "checkpoint.after=kill@1", "query-result.after=kill@1", "delta-commit.after=kill@1"] {
        let world = world_of(0..25, JOINED, "key = [\"id\"]").await;
        world.run(&["--max-rows", "10"]).await.assert_status(0);
        let variables = [("ENRICH_FAULT", fault)];
        let variables = if fault.is_empty() { &[][..] } else { &variables[..] };
        let restarted = world.run_with(&["--restart", "--yes"], variables).await;
        assert_eq!(restarted.status, fault.is_empty().then_some(0), "{fault}: {}", restarted.stderr);
        world.settle().await;
        world.run(&[]).await.assert_status(0);
        world.assert_target(0..25).await;
        assert_eq!(results(&world), [""; 0], "{fault}");
        if fault.is_empty() {
            assert_eq!(world.simulator.counts().answered, 35);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rows_are_retried_without_the_query() {
    let refused =
        FaultSpec { status: Some(400), contains: Some("about:\nRow 7".into()), share: 1.0, ..fault() };
    let spec = SimulatorSpec { faults: vec![refused], ..SimulatorSpec::default() };
    let world = world_with(spec, 0..25, JOINED, "key = [\"id\"]").await;
    world.run(&[]).await.assert_status(0);
    world.run(&[]).await.assert_status(0).assert_says("25 rows, 0 of them new");
    fs::remove_dir_all(world.path("left")).unwrap();
    world.on_job("errors", &[]).await.assert_status(0).assert_says("1 failed row");
    world.on_job("retry", &[]).await.assert_says("1 row");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_only_look_see_what_a_run_would_find_and_write_nothing() {
    let world = world_of(0..25, JOINED, "key = [\"id\"]").await;
    said(&world.on_job("check", &[]).await, "the query gives 25 rows, 25 of them new");
    said(&world.on_job("plan", &[]).await, "25 rows");
    said(&world.on_job("status", &[]).await, "query over l, r");
    assert!(!world.path("target").exists());
    world.on_job("try", &["--rows", "3"]).await.assert_status(0);
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    add(&world, 25..30);
    said(&world.on_job("plan", &[]).await, "20 rows");
    said(&world.on_job("status", &[]).await, "15");
    let kept = results(&world);
    assert_eq!(kept.len(), 1);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_table_is_read_at_its_newest_version_or_at_a_stated_one() {
    let world = World::new(SimulatorSpec::default()).await;
    append_delta(&world.path("left"), &rows(0..20)).await;
    append_delta(&world.path("left"), &rows(20..30)).await;
    let source = |version: &str| {
        let source = format!(
            "query = 'SELECT id, text FROM l'\nkey = [\"id\"]\n[source.table.l]\npath = \"left\"\n{version}"
        );
        world.usual_job("").replace("path = \"source\"", &source)
    };
    world.write_text(&source("version = 1"));
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..20).await;
    world.write_text(&source(""));
    world.run(&[]).await.assert_status(0).assert_says("30 rows, 10 of them new");
    world.assert_target(0..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_checkpoint_in_a_store_another_machine_goes_on() {
    let Some(store) = Store::start() else { return };
    let world = world_of(0..45, JOINED, "key = [\"id\"]").await;
    let job = fs::read_to_string(world.job()).unwrap().replace("\"target\"", "\"s3://bucket/target\"");
    let job = job.replace("[batch]", "[checkpoint]\nlease = \"1s\"\n[batch]");
    world.write_text(&job);
    let run = async |machine: &str, fault: &str| {
        let mut command = world.job_command("run", &[]);
        command.envs(store.environment()).env("XDG_STATE_HOME", world.path(machine));
        if !fault.is_empty() {
            command.env("ENRICH_FAULT", fault);
        }
        world.outcome(command).await
    };
    let killed = run("one", "delta-commit.after=kill@2").await;
    assert_eq!(killed.status, None, "{killed:?}");
    world.settle().await;
    // Until the lease of the dead machine runs out, the other one is refused.
    let goes_on = loop {
        let outcome = run("two", "").await;
        if outcome.status != Some(6) {
            break outcome;
        }
    };
    goes_on.assert_status(0).assert_says("0 of them new");
    store.download("target", &world.path("target")).await;
    world.assert_target(0..45).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_read_are_null_and_told_and_stop_nothing() {
    let world = World::new(SimulatorSpec::default()).await;
    let folder = world.path("docs/a b");
    fs::create_dir_all(&folder).unwrap();
    let contract = project().join("examples/contracts/pdf/01-supply-agreement.pdf");
    fs::copy(contract, folder.join("good.pdf")).unwrap();
    for (name, bytes) in
        [("damaged.pdf", &b"%PDF-1.7 and no more"[..]), ("empty.pdf", b""), ("words.pdf", b"no PDF")]
    {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let source = "query = 'SELECT path AS id, pdf_text(content, path) AS text FROM docs'\nkey = [\"id\"]\n\
                  [source.table.docs]\nfiles = \"docs/**/*.pdf\"";
    world.write_text(&world.usual_job("").replace("path = \"source\"", source));
    let run = world.run(&[]).await;
    run.assert_status(0)
        .assert_says("4 rows, 4 of them new; 3 values null because a document cannot be read");
    run.assert_says("docs/a b/empty.pdf cannot be read: it is empty");
    run.assert_says("docs/a b/words.pdf cannot be read: it is not a PDF");
    let sql = "SELECT id, text LIKE '%wheat flour%' FROM target ORDER BY id";
    let found = rows_of(&world.path("target"), sql).await;
    let expected = [("damaged", "NULL"), ("empty", "NULL"), ("good", "true"), ("words", "NULL")];
    assert_eq!(found, expected.map(|(name, is_it)| [format!("docs/a b/{name}.pdf"), is_it.to_owned()]));
    world.run(&[]).await.assert_status(0).assert_says("0 of them new");
    // A pattern that matches nothing is a mistake.
    let other = fs::read_to_string(world.job()).unwrap().replace("docs/**/*.pdf", "docs/**/*.htm");
    world.write_text(&other);
    world.run(&[]).await.assert_status(2).assert_says("reads docs, which cannot be listed: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_have_columns_that_no_target_holds() {
    let world = World::new(SimulatorSpec::default()).await;
    fs::create_dir(world.path("left")).unwrap();
    let rows = rows(0..10);
    let times: ArrayRef = Arc::new(Time64MicrosecondArray::from_iter_values(0..10));
    let columns = [("id", rows.column(0).clone()), ("text", rows.column(1).clone()), ("at", times)];
    write_parquet(&world.path("left/a.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 10);
    let source = "query = 'SELECT id, text, at FROM l'\nkey = [\"id\"]\n[source.table.l]\npath = \"left\"";
    world.write_text(&world.usual_job("").replace("path = \"source\"", source));
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..10).await;
    let texts = rows_of(&world.path("target"), "SELECT at FROM target WHERE id = 3").await;
    assert_eq!(texts, [["00:00:00.000003"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_taken_as_written_and_some_columns_can_be_left_out() {
    let world = World::new(SimulatorSpec::default()).await;
    add(&world, 0..20);
    let source = "query = 'SELECT L.id, text, id % 3 AS Third FROM L JOIN Right_2 USING (id)'\nkey = [\"id\"]\n\
                  columns = [\"text\", \"id\"]\n[source.table.L]\npath = \"left\"\n[source.table.Right_2]\npath = \"right\"";
    world.write_text(&world.usual_job("").replace("path = \"source\"", source));
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..20).await;
    assert!(!format!("{:?}", rows_of(&world.path("target"), "DESCRIBE target").await).contains("Third"));
    // A key of a type that no table has.
    let other =
        source.replace("L.id, text", "CAST(id AS BIGINT UNSIGNED) AS big, interval '1 day' * id AS id, text");
    world.write_text(&world.usual_job("").replace("path = \"source\"", &other));
    assert_ne!(world.run(&[]).await.status, Some(0));
}

/// Two sides of a join that are larger than the memory of a query.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_memory_goes_to_the_disk() {
    let world = World::new(SimulatorSpec::default()).await;
    add(&world, 0..10);
    let wide =
        "SELECT value AS id, repeat(CAST(value AS VARCHAR), 60) AS wide FROM generate_series(1, 1000000)";
    let query = format!(
        "SELECT l.id, r.text, w.wide FROM (SELECT a.id, a.wide FROM ({wide}) a JOIN ({wide}) b ON a.wide = b.wide) w \
         JOIN l ON l.id = w.id JOIN r ON l.id = r.id"
    );
    world.write_text(&job_of(&world, &query, "key = [\"id\"]"));
    world.run(&[]).await.assert_status(0).assert_says("the query gives 9 rows, 9 of them new");
    assert!(!world.path("target/_checkpoints/test/query-work").exists());
}
