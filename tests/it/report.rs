//! `enrich report`: one page about all runs of a job, from its figures and its target.

use enrich::config::{FaultSpec, SimulatorSpec};
use html5ever::tendril::TendrilSink;
use html5ever::{ParseOpts, parse_document};
use markup5ever_rcdom::{NodeData, RcDom};

use crate::support::{Setup, World, dear, fault};

/// Names of elements and of what they refer to.
fn elements(dom: &RcDom) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let mut nodes = vec![dom.document.clone()];
    while let Some(node) = nodes.pop() {
        if let NodeData::Element { name, attrs, .. } = &node.data {
            let attributes = attrs.borrow();
            let attributes = attributes.iter().map(|own| (own.name.local.to_string(), own.value.to_string()));
            found.push((name.local.to_string(), attributes.collect()));
        }
        nodes.extend(node.children.borrow().iter().cloned());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_tells_of_all_runs_and_shows_rows_beside_their_answers() {
    let spec = SimulatorSpec {
        faults: vec![
            FaultSpec { status: Some(400), contains: Some("Judge In short: Row 7 ".into()), ..fault() },
            FaultSpec { share: 0.3, status: Some(503), times: Some(1), ..fault() },
        ],
        ..dear()
    };
    let world = World::of(Setup { simulator: spec, rows: 60, ..Setup::of_two_steps() }).await;
    let early = world.on_job("report", &[]).await;
    early.assert_status(0).assert_says("no batch has figures yet");
    assert!(early.stdout.to_lowercase().contains("<!doctype html>"), "{}", early.stdout);
    world.run_with(&[], &[("ENRICH_FAULT", "journal-append.before=io")]).await.assert_status(1);
    world.run(&["--max-rows", "20"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
    let file = world.path("report.html");
    let _job = world.job();
    let mut command = world.job_command("report", &["--output", "report.html"]);
    command.current_dir(world.folder.path());
    let written = world.outcome(command).await;
    written.assert_status(0).assert_says("report.html written");
    let page = std::fs::read_to_string(&file).unwrap();

    let dom = parse_document(RcDom::default(), ParseOpts::default()).one(page.as_str());
    assert!(dom.errors.borrow().is_empty(), "{:?}", dom.errors.borrow());
    let elements = elements(&dom);
    for (element, attributes) in &elements {
        assert!(
            !["script", "link", "img", "iframe", "object", "base"].contains(&element.as_str()),
            "{element}"
        );
        let refers = |name: &str| ["src", "href", "style"].contains(&name) || name.starts_with("on");
        assert!(attributes.iter().all(|(name, _)| !refers(name)), "{element} {attributes:?}");
    }
    for external in ["http://", "https://", "@import", "url("] {
        assert!(!page.contains(external), "{external}");
    }
    let figures: Vec<&str> = elements
        .iter()
        .filter(|(element, _)| element == "svg")
        .filter_map(|(_, attributes)| {
            attributes.iter().find(|(name, _)| name == "aria-label").map(|(_, label)| label.as_str())
        })
        .collect();
    for figure in ["Throughput", "Latency", "Requests", "Errors", "Tokens", "Cost"] {
        assert!(figures.iter().any(|label| label.contains(figure)), "{figure} is not among {figures:?}");
    }
    let said = ["bad_request", "Slowest rows", "Dearest rows", "$2.00 in, $8.00 out", "Row 1", "In short:"];
    for said in said {
        assert!(page.contains(said), "{said}");
    }
    assert!(page.contains("Last run") && page.contains("UTC: complete"));
    assert!(page.contains("Runs without a commit") && page.contains("UTC: error: cannot append"), "{page}");
    // Two runs, and both of them on the page.
    let all = crate::support::figures(&world).await;
    let mut runs: Vec<String> = all.iter().map(|row| row.run_id.to_string()).collect();
    runs.dedup();
    assert_eq!(runs.len(), 2);
    assert!(runs.iter().all(|run| page.contains(run)), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_figures_is_told_how_to_get_them() {
    let world = World::of(Setup { rows: 2, ..Setup::of_two_steps() }).await;
    let refused = world.on_job("report", &["--set", "metrics.enabled=false"]).await;
    refused.assert_status(2).assert_says("the job keeps no figures").assert_says("take metrics.enabled out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_came_later_has_no_rows_on_the_page_and_keeps_none_from_it() {
    let world = World::of(Setup { rows: 10, ..Setup::of_two_steps() }).await;
    world.run(&[]).await.assert_status(0);
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("output = \"verdict\"", "output = \"opinion\""));
    let page = world.on_job("report", &[]).await;
    page.assert_status(0);
    assert!(
        page.stdout.contains("Slowest rows") && page.stdout.contains("In short: Row 1"),
        "{}",
        page.stdout
    );
}
