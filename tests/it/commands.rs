//! `check`, `init`, `completions`, and jobs that come from the command line.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use enrich::config::SimulatorSpec;
use enrich::simulator::Simulator;

use crate::support::{Outcome, Setup, World, refusals, steady, with_faults};

pub async fn call(world: &World, arguments: &[&str]) -> Outcome {
    let mut command = world.command(arguments);
    command.env_remove("OPENAI_API_KEY").env_remove("OPENAI_BASE_URL").current_dir(world.folder.path());
    world.outcome(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_shows_all_that_a_run_looks_at_and_changes_nothing() {
    let world = World::with_rows(12, 1).await;
    let fine = world.on_job("check", &["--live"]).await;
    insta::assert_snapshot!("check", steady(&fine.assert_status(0).stdout, &world));
    assert!(!world.path("target").exists());
    assert_eq!(world.simulator.counts().requests, 1, "one tiny request");
    world.run(&[]).await.assert_status(0);
    world.on_job("check", &[]).await.assert_status(0);

    world.write_text(&world.usual_job("").replace("{{ text }}", "{{ txt }}"));
    let wrong = world.on_job("check", &[]).await;
    assert!(wrong.assert_status(2).stdout.contains("wrong   templates:"), "{}", wrong.stdout);
    world.write_text(&world.usual_job("").replace("\"source\"", "\"nowhere\""));
    let wrong = world.on_job("check", &[]).await;
    assert!(wrong.assert_status(2).stdout.contains("wrong   source:"), "{}", wrong.stdout);

    // Without a key there is still much to look at; nobody is asked.
    world.write_job("api_key_env = \"NO_SUCH_KEY\"");
    let keyless = world.on_job("check", &["--live"]).await;
    let shown = &keyless.assert_status(2).stdout;
    assert!(shown.contains("wrong   job: ") && shown.contains("NO_SUCH_KEY, which is not set"), "{shown}");
    assert!(shown.contains("ok      source: ") && shown.contains("ok      target: "), "{shown}");
    assert_eq!(world.simulator.counts().requests, 13);

    let refused = SimulatorSpec { api_key: Some("another".into()), ..SimulatorSpec::default() };
    let refused = Simulator::start(refused, 0).await.unwrap();
    world.write_text(&world.job_at(&refused));
    world.on_job("check", &[]).await.assert_status(0);
    let wrong = world.on_job("check", &["--live"]).await;
    assert!(wrong.assert_status(4).stdout.contains("wrong   provider sim: auth"), "{}", wrong.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_misses_files_of_the_target_that_were_deleted() {
    let world = World::with_rows(40, 1).await;
    world.run(&[]).await.assert_status(0);
    let fine = world.on_job("check", &[]).await;
    let says = "ok      target files: 4 in the log, all there";
    assert!(fine.assert_status(0).stdout.contains(says), "{}", fine.stdout);
    let path = world.path("target");
    let files = enrich::table::Table::open(&path).await.unwrap().files().await.unwrap();
    for file in &files[1..3] {
        fs::remove_file(path.join(&file.path)).unwrap();
    }
    let wrong = world.on_job("check", &[]).await;
    let says = format!(
        "wrong   target files: of 4 data files of the target {}, 2 are not on the disk",
        path.display()
    );
    assert!(wrong.assert_status(1).stdout.contains(&says), "{}", wrong.stdout);
    let named = files[1..3].iter().any(|file| wrong.stdout.contains(&format!("for example {}", file.path)));
    assert!(named && wrong.stdout.contains("bring them back from a backup"), "{}", wrong.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_keeps_what_is_intact_and_says_what_it_did() {
    let world = World::with_rows(30, 1).await;
    world.on_job("check", &["--repair"]).await.assert_status(0);
    assert!(!world.path("target").exists());
    let fault = [("ENRICH_FAULT", "journal-append.after=kill@9")];
    assert_eq!(world.run_with(&[], &fault).await.status, None);
    world.settle().await;
    let answered = world.simulator.counts().answered;

    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, bytes).unwrap();
    let journal = world.path("target/_checkpoints/test/journal/0000000000.journal");
    let written = enrich::journal::read_all(&journal).unwrap().len();
    let mut bytes = fs::read(&journal).unwrap();
    // Within the answer of the first record.
    bytes[54 + 12 + 100] ^= 1;
    fs::write(&journal, bytes).unwrap();

    world.run(&[]).await.assert_status(1).assert_says("is damaged");
    let wrong = world.on_job("check", &[]).await;
    assert!(wrong.assert_status(1).stdout.contains("wrong   checkpoint:"), "{}", wrong.stdout);
    assert!(wrong.stdout.contains("wrong   journal:"), "{}", wrong.stdout);
    let mended = world.on_job("check", &["--repair"]).await;
    mended.assert_status(0);
    assert!(mended.stdout.contains("put the damaged checkpoint aside"), "{}", mended.stdout);
    let kept = format!("kept {} answers of the damaged journal", written - 1);
    assert!(mended.stdout.contains(&kept), "{kept}: {}", mended.stdout);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
    let paid_again = world.simulator.counts().answered - 30;
    assert!(paid_again <= 1 + 4, "{paid_again} of {answered} were paid again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_made_by_init_passes_the_check_and_runs() {
    let world = World::with_rows(12, 1).await;
    let usual = [
        "init",
        "made.toml",
        "--source",
        "source",
        "--task",
        "Say \"what\" it is.",
        "--provider",
        "simulator",
    ];
    call(&world, &[&usual[..], &["--column", "txt"]].concat())
        .await
        .assert_status(2)
        .assert_says("did you mean \"text\"?");
    assert!(!world.path("made.toml").exists());
    call(&world, &usual).await.assert_status(2).assert_says("--column is missing");
    let arguments = [&usual[..], &["--column", "text"]].concat();
    call(&world, &arguments).await.assert_status(0).assert_says("next: enrich check made.toml --live");
    insta::assert_snapshot!("init", fs::read_to_string(world.path("made.toml")).unwrap());
    call(&world, &["check", "made.toml", "--live"]).await.assert_status(0);
    call(&world, &["run", "made.toml"]).await.assert_status(0).assert_says("12 answers");
    call(&world, &arguments).await.assert_status(2).assert_says("is there already");
    for provider in
        ["openai", "openrouter", "mistral", "anthropic", "azure", "gemini", "ollama", "vllm", "llama-cpp"]
    {
        let named = format!("{provider}.toml");
        let arguments =
            ["init", &named, "--source", "source", "--column", "text", "--task", "x", "--provider", provider];
        let made = call(&world, &[&arguments[..], &["--model", "my-model"]].concat()).await;
        let is_placeholder = ["azure", "ollama", "vllm", "llama-cpp"].contains(&provider);
        assert_eq!(made.assert_status(0).stderr.contains("edit first: "), is_placeholder, "{}", made.stderr);
        assert_eq!(
            provider == "openai",
            made.stderr.contains("variable OPENAI_API_KEY, "),
            "{}",
            made.stderr
        );
        let job = enrich::config::Job::load_without_keys(&world.path(&named)).unwrap();
        assert_eq!((job.providers.len(), job.providers[0].model.as_str()), (1, "my-model"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_needs_no_job_file_and_leaves_one_for_what_comes_after() {
    let world = World::with_rows(12, 1).await;
    let url = world.simulator.url().to_string();
    let direct = [
        "run",
        "--source",
        "source",
        "--target",
        "target",
        "--prompt",
        "Say something about:\n{{ text }}",
        "--model",
        "m",
        "--app-id",
        "test",
        "--output-column",
        "answer",
        "--base-url",
        &url,
    ];
    call(&world, &direct).await.assert_status(0).assert_says("12 answers");
    world.assert_target(0..12).await;
    call(&world, &direct).await.assert_status(0).assert_says("nothing to do");
    let job = world.path("target/_checkpoints/test/job.toml");
    call(&world, &["errors", job.to_str().unwrap()]).await.assert_status(0).assert_says("0 failed rows");
    call(&world, &["run", "--source", "source"]).await.assert_status(2).assert_says("--prompt <TEMPLATE>");
    call(&world, &["run"]).await.assert_status(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_can_be_set_on_the_command_line() {
    let world = World::with_rows(12, 1).await;
    world.write_text(&world.usual_job("").replace("simulated", "unheard-of"));
    let set = ["--set", "batch.max_rows=5", "--set", "provider.sim.model=simulated"];
    world.run(&set).await.assert_status(0);
    assert_eq!(world.target().await.iter().map(|row| row.batch).max(), Some(2));
    world.run(&["--set", "provider.sim.modle=x"]).await.assert_status(2).assert_says("did you mean `model`?");
    world.run(&["--set", "batch.max_rows=0"]).await.assert_status(2).assert_says("`batch.max_rows` is 0");
    world.run(&["--set", "batch"]).await.assert_status(2).assert_says("write it as KEY=VALUE");
    let wrong = world.run(&["--set", "provider.sim.max_concurrency=abc"]).await;
    wrong.assert_status(2).assert_says("`provider.sim.max_concurrency`: invalid type: string \"abc\"");
    let none = world.run(&["--set", "provider.smi.model=x"]).await;
    none.assert_status(2).assert_says("there is no [provider.smi]; did you mean \"sim\"?");
    let none = world.run(&["--set", "step.1.output=x"]).await;
    none.assert_status(2).assert_says("there is no number \"1\" among 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_typed_next_sets_the_same_keys() {
    let spec = with_faults(refusals([3], 413, "x"));
    let world = World::of(Setup { simulator: spec, rows: 12, ..Setup::default() }).await;
    let set = ["--set", "batch.max_rows=5", "--set", "step.0.output=answer's", "--set", "app_id=x"];
    let set = [&set[..], &["--set", "target.path=other"]].concat();
    let job = world.job().display().to_string();
    let typed = format!(
        "{job} --set batch.max_rows=5 --set 'step.0.output=answer'\\''s' --set app_id=x --set target.path=other"
    );
    let ran = world.run(&[&set[..], &["--max-rows", "2"]].concat()).await;
    ran.assert_status(0).assert_says(&format!("to go on: enrich run {typed}"));
    let ran = world.run(&set).await;
    ran.assert_status(0).assert_says(&format!("next: enrich errors {typed}"));
    let retried = world.on_job("retry", &[&set[..], &["--max-duration", "1ns"]].concat()).await;
    retried.assert_says(&format!("to go on: enrich retry {typed}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_can_complete_commands() {
    let world = World::new(SimulatorSpec::default()).await;
    for shell in ["bash", "zsh", "fish"] {
        let script = call(&world, &["completions", shell]).await;
        assert!(script.assert_status(0).stdout.contains("retry"), "{shell}");
        let offered = script.stdout.lines().filter(|line| !line.trim_end().ends_with(')'));
        assert!(
            !offered.clone().any(|line| line.contains("progress-interval")),
            "{shell} offers what is hidden"
        );
        assert!(offered.clone().any(|line| line.contains("max-duration")), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_asks_at_a_terminal_and_asks_again_after_a_mistake() {
    let world = World::with_rows(3, 1).await;
    let binary = env!("CARGO_BIN_EXE_enrich");
    let mut terminal = Terminal::open(&format!("{binary} init made.toml"), world.folder.path());
    terminal
        .expect("Source (Delta table; or file or folder of Parquet, CSV, JSON, Arrow or Avro): ")
        .type_line("nowhere");
    terminal.expect("nowhere is not there").expect("Source (").type_line("source");
    terminal.expect("Column that the model is to read (text, id) [text]: ").type_line("txet");
    terminal
        .expect("the source has no column \"txet\"; did you mean \"text\"?")
        .expect("[text]: ")
        .type_line("");
    terminal.expect("What it is to do [Summarize").type_line("");
    terminal.expect("Provider (openai, openrouter").type_line("opnai");
    terminal
        .expect("there is no provider \"opnai\"; there are openai, ")
        .expect("[openai]: ")
        .type_line("azure");
    terminal.expect("Column for the answers [response]: ").type_line("text");
    // An arrow key goes back in the line.
    terminal
        .expect("the source has a column \"text\"")
        .expect("[response]: ")
        .type_line("umary\u{1b}[D\u{1b}[D\u{1b}[D\u{1b}[D\u{1b}[Ds\u{1b}[Cm");
    terminal.expect("Stable name of the job [source-enrich]: ").type_line("../x");
    terminal.expect("it takes 1 to 100 letters").expect("[source-enrich]: ").type_line("mine");
    terminal.expect("wrote made.toml").expect("edit first: my-resource and my-deployment");
    terminal.expect("next: enrich check made.toml --live");
    assert!(terminal.ends_well());
    let job = enrich::config::Job::load_without_keys(&world.path("made.toml")).unwrap();
    assert_eq!((job.app_id.as_str(), job.providers[0].name.as_str()), ("mine", "azure"));
    assert_eq!(job.steps[0].output, "summary");
    assert!(job.steps[0].prompt.ends_with("{{ text }}"), "{}", job.steps[0].prompt);
}

/// A program at a pseudo-terminal, which util-linux's script(1) makes.
struct Terminal {
    script: Child,
    shown: Receiver<u8>,
    seen: String,
}

impl Terminal {
    fn open(command: &str, folder: &Path) -> Terminal {
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", command, "/dev/null"])
            .current_dir(folder)
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) of util-linux is installed");
        let (sender, shown) = mpsc::channel();
        let stdout = BufReader::new(script.stdout.take().unwrap());
        std::thread::spawn(move || stdout.bytes().try_for_each(|byte| sender.send(byte.unwrap())));
        Terminal { script, shown, seen: String::new() }
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    fn expect(&mut self, text: &str) -> &mut Self {
        while !self.seen.ends_with(text) {
            match self.shown.recv_timeout(Duration::from_secs(120)) {
                Ok(byte) => self.seen.push(char::from(byte)),
                Err(_) => panic!("{text:?} is not shown:\n{}", self.seen),
            }
        }
        self.seen.clear();
        self
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.script.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    fn ends_well(mut self) -> bool {
        self.script.wait().unwrap().success()
    }
}
