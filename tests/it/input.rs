//! Bad input, each with the message that a person reads.

use enrich::config::FaultSpec;
use std::fs;

use arrow::array::{ArrayRef, Int64Array, StringArray, Time32SecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use enrich::config::SimulatorSpec;
use enrich::simulator::answer_to;
use enrich::table::Table;

use crate::support::{
    Setup, World, append_delta, everything_below, fault, faulty, rows, rows_about, write_parquet,
};

/// Runs the usual job after a change to its text and expects a refusal before the first call.
async fn refused(world: &World, change: impl Fn(String) -> String, says: &[&str]) {
    world.write_text(&change(world.usual_job("")));
    let outcome = world.run(&[]).await;
    outcome.assert_status(2);
    for text in says {
        outcome.assert_says(text);
    }
    assert_eq!(world.simulator.counts().requests, 0, "refused before the first call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_job_file_names_file_and_line_or_key() {
    let world = World::with_rows(3, 1).await;
    let replace = |from: &'static str, to: &'static str| {
        move |text: String| {
            assert!(text.contains(from));
            text.replace(from, to)
        }
    };
    let cases: Vec<(&str, &str, &[&str])> = vec![
        ("model = ", "modle = ", &["job.toml:10: unknown key `provider.sim.modle`; did you mean `model`?"]),
        ("[batch]", "[batches]", &["job.toml:6: unknown key `batches`; did you mean `batch`?"]),
        (
            "max_rows = 10",
            "max_rows = \"ten\"",
            &["job.toml:7: `batch.max_rows`: invalid type: string \"ten\""],
        ),
        ("max_rows = 10", "max_rows = 0", &["`batch.max_rows` is 0; it must be at least 1"]),
        (
            "max_rows = 10",
            "max_bytes = \"some\"",
            &[
                "job.toml:7: `batch.max_bytes`: \"some\" is no size like \"50MB\", \"64 MiB\" or a whole number",
            ],
        ),
        ("max_rows = 10", "max_bytes = 1.5", &["`batch.max_bytes`: 1.5 is no size like \"50MB\""]),
        ("[target]", "[source]\npath = \"x\"\n[target]", &["`source` stands there twice"]),
        ("max_rows = 10", "max_rows = 10\nmax_rows = 11", &["job.toml:8: `max_rows` stands there twice"]),
        ("{{ text }}", "{{ text | truncte(5) }}", &["filter truncte is unknown; did you mean truncate?"]),
        (
            "output = \"answer\"",
            "output = \"answer\"\nprompt_file = \"p.txt\"",
            &["`step[0].prompt_file` and prompt are both set; keep one"],
        ),
        (
            "output = \"answer\"",
            "output = \"answer\"\nfields = { a = \"int\" }\non_error = \"null\"",
            &["`step[0].on_error` is set, and the answer is no text"],
        ),
        ("max_rows = 10", "max_rows = -1", &["job.toml:7: `batch.max_rows`: ", "-1"]),
        ("max_concurrency = 4", "requests_per_minute = 0", &["`provider.sim.requests_per_minute` is 0"]),
        (
            "max_concurrency = 4",
            "request_timeout = \"soon\"",
            &["job.toml:11: `provider.sim.request_timeout`: ", "`soon` is no length of time"],
        ),
        (
            "max_concurrency = 4",
            "api_key_env = \"NO_SUCH_KEY_1\"",
            &["names the variable NO_SUCH_KEY_1, which is not set"],
        ),
        ("max_concurrency = 4", "api_key_file = \"nokey\"", &["names ", "nokey, which cannot be read"]),
        ("app_id = \"test\"", "app_id = \"../x\"", &["`app_id` is \"../x\"; it takes 1 to 100 letters"]),
        ("app_id = \"test\"\n", "", &["missing field `app_id`"]),
        ("path = \"source\"", "path = \"nowhere\"", &["the source ", "nowhere is not there"]),
        (
            "path = \"source\"",
            "path = \"ftp://host/x\"",
            &["`source.path` is \"ftp://host/x\"; it is a local path, or a URL that begins with file, s3"],
        ),
        (
            "path = \"target\"",
            "path = \"target\"\n[journal]\npath = \"s3://bucket/x\"",
            &["`journal.path` is s3://bucket/x; it must be a local folder"],
        ),
        (
            "path = \"target\"",
            "path = \"target\"\n[checkpoint]\nlease = \"200ms\"",
            &["`checkpoint.lease` is 200ms; it must be at least 1s"],
        ),
        (
            "path = \"target\"",
            "path = \"./source\"",
            &["`target.path` is the source: every row written would become a row to read"],
        ),
        (
            "path = \"target\"",
            "path = \"source/out\"",
            &["`target.path` and source.path lie one inside the other"],
        ),
        (
            "output = \"answer\"",
            "output = \"Text\"",
            &["the output \"Text\" has the name of the source's column \"text\""],
        ),
        (
            "output = \"answer\"",
            "output = \"batch_id\"",
            &["the output \"batch_id\" has the name of the field _enrich.batch_id"],
        ),
        ("output = \"answer\"", "output = \"_enrich\"", &["the name of the metadata column"]),
        (
            "output = \"answer\"",
            "output = \"answer\"\nprovider = \"smi\"",
            &["there is no [provider.smi]; did you mean \"sim\"?"],
        ),
        (
            "output = \"answer\"",
            "output = \"answer\"\ntemperature = 3",
            &["`step[0].temperature` lies outside 0 to 2"],
        ),
        (
            "{{ text }}",
            "{{ txet }}",
            &["name the column \"txet\", which the source does not have; did you mean \"text\"?"],
        ),
        ("{{ text }}", "{{ text", &["the prompt template is wrong in line 2: "]),
        ("{{ text }}", "{{ text | nofilter }}", &["nofilter"]),
    ];
    for (from, to, says) in cases {
        refused(&world, replace(from, to), says).await;
        assert!(!world.path("target").exists(), "{to}: nothing is made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_are_no_table_are_told_apart() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let source = world.path("source");
    let says =
        ["neither a Delta table nor a file or directory of Parquet, CSV, TSV, JSON, Arrow IPC or Avro"];
    refused(&world, |text| text, &says).await;
    fs::write(source.join("notes.txt"), "text").unwrap();
    refused(&world, |text| text, &says).await;
    fs::write(world.path("file"), "PAR0").unwrap();
    refused(&world, |text| text.replace("\"source\"", "\"file\""), &says).await;

    let whole = source.join("a.parquet");
    write_parquet(&whole, &rows(0..100), 50);
    let bytes = fs::read(&whole).unwrap();
    fs::write(&whole, &bytes[..bytes.len() / 2]).unwrap();
    world.write_job("");
    let outcome = world.run(&[]).await;
    outcome.assert_status(1).assert_says("a.parquet: it is no whole file (cut off, or still being written?)");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_source_is_nothing_to_do() {
    let world = World::of(Setup::default()).await;
    append_delta(&world.path("source"), &rows(0..0)).await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("source"), &rows(0..3)).await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_file_that_is_gone_or_changed_is_named_and_the_rest_is_kept() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let source = world.path("source");
    write_parquet(&source.join("a.parquet"), &rows(0..10), 100);
    write_parquet(&source.join("b.parquet"), &rows(10..25), 100);
    world.run(&["--max-rows", "15"]).await.assert_status(0);
    let b = fs::read(source.join("b.parquet")).unwrap();
    fs::remove_file(source.join("b.parquet")).unwrap();
    world
        .run(&[])
        .await
        .assert_status(1)
        .assert_says("b.parquet: it is gone, and not all of its rows are read");
    write_parquet(&source.join("b.parquet"), &rows(10..20), 100);
    world.run(&[]).await.assert_status(1).assert_says("a file is read once, give new data a new name");
    fs::write(source.join("b.parquet"), b).unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..25).await;
    assert_eq!(world.simulator.counts().requests, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_do_not_fit_are_refused() {
    let world = World::with_rows(3, 1).await;
    let target = world.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("letter.txt"), "x").unwrap();
    refused(&world, |text| text, &["target is there and is no Delta table"]).await;
    fs::remove_dir_all(&target).unwrap();

    append_delta(&target, &rows(0..1)).await;
    refused(
        &world,
        |text| text,
        &["does not fit this job: it has no column \"answer\", which a step of the job is to fill"],
    )
    .await;
    fs::remove_dir_all(&target).unwrap();

    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("answer", DataType::Int32, true),
    ];
    Table::create(&target, &Schema::new(fields), &[], &[]).await.unwrap();
    let bare = |text: String| text.replace("path = \"target\"", "path = \"target\"\nmetadata = false");
    refused(&world, bare, &["its column \"answer\" has the type Int32, and Utf8 is to be written"]).await;
    fs::remove_dir_all(&target).unwrap();

    let retention = [("delta.setTransactionRetentionDuration", "interval 7 days".to_owned())];
    Table::create(&target, &rows(0..0).schema(), &[], &retention).await.unwrap();
    refused(&world, |text| text, &["sets delta.setTransactionRetentionDuration", "Unset the property"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_of_an_earlier_job_as_a_source_needs_another_metadata_column() {
    let world = World::with_rows(4, 1).await;
    world.run(&[]).await.assert_status(0);
    let requests = world.simulator.counts().requests;
    let second = world
        .usual_job("")
        .replace("path = \"target\"", "path = \"second\"")
        .replace("path = \"source\"", "path = \"target\"")
        .replace("output = \"answer\"", "output = \"more\"");
    world.write_text(&second);
    let outcome = world.run(&[]).await;
    outcome.assert_status(2).assert_says("is the source the target of an earlier job?");
    outcome.assert_says("set target.metadata_column to another name");
    assert_eq!(world.simulator.counts().requests, requests);
    world
        .write_text(&second.replace("path = \"second\"", "path = \"second\"\nmetadata_column = \"_second\""));
    world.run(&[]).await.assert_status(0).assert_says("4 answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_delta_cannot_hold_is_refused_by_column() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", std::sync::Arc::new(StringArray::from(vec!["a"]))),
        ("at", std::sync::Arc::new(Time32SecondArray::from(vec![1]))),
    ];
    write_parquet(&world.path("source/a.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 10);
    world
        .run(&[])
        .await
        .assert_says("column \"at\", which has the type Time32(s), which a Delta table cannot hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn unicode_control_characters_and_rows_of_a_megabyte_come_through_whole() {
    let world = World::new(SimulatorSpec::default()).await;
    let texts: Vec<String> = vec![
        "\u{0}\u{1}\u{7f}\u{85}\u{2028}".into(),
        "\u{202e}right to left\u{202c} \u{feff}\u{200d}".into(),
        "👩‍👩‍👧‍👦 ÿ \u{10ffff} e\u{301}".into(),
        "\"quotes\" \\ / {{ text }} {% raw %} \r\n\t".into(),
        "x".repeat(1_000_000),
        "ü".repeat(500_000),
    ];
    append_delta(&world.path("source"), &rows_about(texts.clone())).await;
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    let target = world.target().await;
    for (row, text) in target.iter().zip(&texts) {
        assert_eq!(row.text.as_ref(), Some(text));
        let prompt = format!("Say something about:\n{text}");
        assert_eq!(row.answer.as_ref(), Some(&answer_to(&prompt)), "row {}", row.id);
    }
    assert_eq!(target.len(), texts.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_found_nowhere_but_in_the_request() {
    const KEY: &str = "sk-very-secret-0123456789";
    let echo = FaultSpec {
        contains: Some("Row 1 ".into()),
        status: Some(400),
        message: Some(format!("your key {KEY} does not like this")),
        ..fault()
    };
    let said = FaultSpec {
        contains: Some("Row 2 ".into()),
        text: Some(format!("your key is {KEY}, and here is the answer")),
        ..fault()
    };
    let spec =
        SimulatorSpec { api_key: Some(KEY.into()), faults: vec![echo, said], ..SimulatorSpec::default() };
    let world = World::of(Setup {
        simulator: spec,
        rows: 12,
        provider: "api_key_env = \"ENRICH_TEST_KEY\"",
        ..Setup::default()
    })
    .await;
    let crash =
        [("ENRICH_TEST_KEY", KEY), ("RUST_LOG", "trace"), ("ENRICH_FAULT", "delta-commit.before=kill")];
    let crashed = world.run_with(&[], &crash).await;
    let places = everything_below(world.folder.path());
    let done = world.run_with(&[], &[("ENRICH_TEST_KEY", KEY), ("RUST_LOG", "trace")]).await;
    done.assert_status(0).assert_says("11 answers");
    let places = places.into_iter().chain(everything_below(world.folder.path()));
    for (path, bytes) in places {
        let is_there = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
        assert!(!is_there, "the key stands in {}", path.display());
    }
    assert!(!(crashed.stderr + &done.stderr).contains(KEY), "the key stands in the log");
    let error = world.target().await[1].answer.clone().unwrap();
    assert!(error.contains("your key [key] does not like this"), "{error}");

    let wrong = world.path("wrong");
    world.write_text(&world.usual_job("api_key_file = \"wrong\"").replace("\"target\"", "\"other\""));
    fs::write(&wrong, "  sk-other\n").unwrap();
    world.run(&[]).await.assert_status(4).assert_says("auth: HTTP 401 invalid_api_key");
    fs::write(&wrong, format!("  {KEY}\n")).unwrap();
    world.run(&[]).await.assert_status(0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_can_be_read_by_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let sections = "[cache]\npath = \"cache/answers.sqlite\"";
    let world = World::of(Setup { rows: 4, sections, ..Setup::default() }).await;
    let umask = "umask 000 && exec \"$0\" \"$@\"";
    let run = world.job_command("run", &[]);
    let mut open = std::process::Command::new("sh");
    open.arg("-c").arg(umask).arg(run.get_program()).args(run.get_args());
    open.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    open.env("ENRICH_FAULT", "delta-commit.before=kill");
    let ended = world.output(open).await;
    assert!(!ended.status.success(), "it was killed before the commit");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut seen = 0;
    for (path, _) in everything_below(world.folder.path()) {
        let ending = path.extension().and_then(std::ffi::OsStr::to_str).unwrap_or_default().to_owned();
        if ending == "lock" {
            assert_eq!(mode(&path), 0o600, "whoever may read a lock may hold it");
        }
        if ["journal", "sqlite", "sqlite-wal", "sqlite-shm"].contains(&ending.as_str()) {
            seen += 1;
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            assert_eq!(mode(path.parent().unwrap()), 0o700, "{}", path.display());
        }
    }
    assert!(seen >= 2, "a journal and a cache: {seen}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_an_address_is_shown_to_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    const KEY: &str = "secret-0123456789";
    let echo = FaultSpec {
        contains: Some("Row 1 ".into()),
        status: Some(400),
        message: Some(format!("your key {KEY} does not like this")),
        ..fault()
    };
    let world = World::new(faulty(echo)).await;
    append_delta(&world.path("source"), &rows(0..4)).await;
    let url = format!("{}?api_key={KEY}", world.simulator.url());
    let [source, target] = ["source", "target"].map(|name| world.path(name).to_str().unwrap().to_owned());
    let flags = ["--source", &source, "--target", &target, "--prompt", "{{ text }}", "--model", "m"];
    let mut command = world.command(&["run", "--app-id", "direct", "--base-url", &url]);
    command.args(flags).env("RUST_LOG", "trace");
    let run = world.outcome(command).await;
    run.assert_status(0).assert_says("3 answers, 1 error");
    assert!(!run.stderr.contains(KEY), "{}", run.stderr);
    let holds = |bytes: &[u8]| bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
    let held: Vec<_> =
        everything_below(world.folder.path()).into_iter().filter(|(_, bytes)| holds(bytes)).collect();
    let [(job, _)] = held.as_slice() else { panic!("the key stands in {} files", held.len()) };
    assert!(job.ends_with("job.toml"), "{}", job.display());
    assert_eq!(fs::metadata(job).unwrap().permissions().mode() & 0o777, 0o600);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_others_may_put_into_a_folder_is_not_followed_and_hangs_nobody() {
    let world = World::with_rows(12, 1).await;
    world.run(&["--max-rows", "2"]).await.assert_status(0);
    let state = world.path("target/_checkpoints/test");
    // The names of files that take the place of others, as links to what is not ours.
    let victim = world.path("victim");
    fs::write(&victim, "keep me").unwrap();
    for name in ["checkpoint.tmp", "learned.tmp", "last_run.tmp", "counters.tmp", "job.tmp"] {
        std::os::unix::fs::symlink(&victim, state.join(name)).unwrap();
    }
    let fifo = state.join("journal/1.journal");
    let _ = fs::remove_file(&fifo);
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let refused = world.run(&[]).await;
    refused.assert_says("1.journal");
    assert_ne!(refused.status, Some(0), "a pipe is no journal");
    fs::remove_file(&fifo).unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..12).await;
    assert_eq!(fs::read_to_string(&victim).unwrap(), "keep me");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_may_stand_in_a_file_and_names_with_dots_and_structs_are_understood() {
    let inner: ArrayRef = std::sync::Arc::new(Int64Array::from_iter_values(0..3));
    let place = arrow::array::StructArray::from(vec![(
        std::sync::Arc::new(Field::new("floor", DataType::Int64, true)),
        inner.clone(),
    )]);
    let texts: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let place: ArrayRef = std::sync::Arc::new(place);
    let columns = [("id", inner), ("user.name", texts.clone()), ("place", place)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    write_parquet(&world.path("source/a.parquet"), &batch, 10);
    let job = world.usual_job("");
    let (before, _) = job.split_once("prompt = ").unwrap();
    let with = |prompt: &str| world.write_text(&format!("{before}{prompt}\n"));
    with("prompt = \"{{ user.name }}\"");
    let wrong = world.run(&[]).await;
    wrong.assert_status(2).assert_says("did you mean {{ row[\"user.name\"] }}?");
    with("prompt_file = \"prompt.txt\"");
    world.run(&[]).await.assert_status(2).assert_says("prompt.txt, which cannot be read");
    fs::write(world.path("prompt.txt"), " \n").unwrap();
    world.run(&[]).await.assert_status(2).assert_says("`step[0].prompt_file` is empty");
    fs::write(world.path("prompt.txt"), "{{ row[\"user.name\"] }} is at {{ place }}\n").unwrap();
    let tried = world.on_job("try", &["--rows", "2"]).await;
    tried.assert_status(0).assert_says("nothing is written but the answers, which are kept");
    assert!(tried.stdout.starts_with("sent         2 rows: 2 answers, 0 errors"), "{}", tried.stdout);
    assert!(!world.path("target/_delta_log").exists() && world.simulator.counts().answered == 2);
    world.run(&[]).await.assert_status(0);
    let counts = world.simulator.counts();
    assert_eq!((counts.answers_to("b is at {\"floor\":1}"), counts.answered), (1, 3), "as JSON, and once");
    with("");
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("`step[0].prompt` is missing; it is what is sent to the model");
    let hidden = RecordBatch::try_from_iter([("user.name", texts.clone()), ("row", texts)]).unwrap();
    write_parquet(&world.path("source/a.parquet"), &hidden, 10);
    fs::remove_dir_all(world.path("target")).unwrap();
    with("prompt = \"{{ row['user.name'] }}\"");
    world.run(&[]).await.assert_status(2).assert_says("which hides all others from row[…]");
    assert_eq!(world.simulator.counts().answered, 3);
}
