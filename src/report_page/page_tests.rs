//! Tests of what holds for every page, whatever its data.

use super::data::Report;
use super::example;
use super::render;
use crate::ident::BatchId;
use crate::metrics::{LatencyQuantiles, Load, MetricsRow, RunKind};
use std::cell::RefCell;
use std::collections::BTreeMap;

use chrono::TimeDelta;
use html5ever::tendril::TendrilSink;
use html5ever::tree_builder::TreeBuilderOpts;
use html5ever::{ParseOpts, parse_document};
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use regex::Regex;

/// Returns the elements of a page in order, each with its attributes. Asserts that the page has no parse error.
fn elements(page: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let tree_builder = TreeBuilderOpts { exact_errors: true, ..TreeBuilderOpts::default() };
    let dom: RcDom =
        parse_document(RcDom::default(), ParseOpts { tree_builder, ..ParseOpts::default() }).one(page);
    assert_eq!(RefCell::borrow(&dom.errors).as_slice(), [] as [&str; 0]);
    let mut found = Vec::new();
    walk(&dom.document, &mut found);
    found
}

fn walk(node: &Handle, found: &mut Vec<(String, BTreeMap<String, String>)>) {
    if let NodeData::Element { name, attrs, .. } = &node.data {
        let attributes = attrs.borrow();
        let pairs = attributes.iter().map(|attr| (attr.name.local.to_string(), attr.value.to_string()));
        found.push((name.local.to_string(), pairs.collect()));
    }
    node.children.borrow().iter().for_each(|child| walk(child, found));
}

fn page(report: &Report) -> String {
    let page = render(report).unwrap();
    refers_to_nothing_outside(&page);
    page
}

/// Asserts that the page refers to nothing outside. Text from tables may look like anything, so only elements and the
/// stylesheet are searched.
fn refers_to_nothing_outside(page: &str) {
    const KNOWN: [&str; 43] = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "article",
        "div",
        "p",
        "b",
        "bdi",
        "h1",
        "h2",
        "h3",
        "dl",
        "dt",
        "dd",
        "ul",
        "li",
        "figure",
        "figcaption",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "svg",
        "line",
        "polyline",
        "polygon",
        "rect",
        "text",
        "circle",
        "g",
        "title",
        "desc",
        "path",
    ];
    for (name, attributes) in elements(page) {
        assert!(KNOWN.contains(&name.as_str()), "<{name}>");
        for (attribute, value) in &attributes {
            let outside =
                ["src", "href", "xlink:href", "srcset", "action", "style", "data", "poster", "xmlns"];
            let is_known = !outside.contains(&attribute.as_str()) && !attribute.starts_with("on");
            assert!(is_known, "<{name} {attribute}={value:?}>");
        }
    }
    let css = page.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).unwrap().0;
    assert!(!Regex::new(r"(?i)url\(|@import|https?:|//").unwrap().is_match(css));
}

fn attribute<'a>(found: &'a [(String, BTreeMap<String, String>)], element: &str, name: &str) -> Vec<&'a str> {
    let of = found.iter().filter(|(found, _)| found == element);
    of.filter_map(|(_, attributes)| attributes.get(name).map(String::as_str)).collect()
}

const FIGURES: [&str; 9] =
    ["throughput", "latency", "requests", "errors", "error-classes", "waiting", "tokens", "cost", "quota"];

#[test]
fn a_page_parses_and_names_its_figures() {
    let found = elements(&page(&example::realistic()));
    assert_eq!(attribute(&found, "figure", "id"), FIGURES);
    assert_eq!(attribute(&found, "svg", "role"), ["img"; 9]);
    let labels = attribute(&found, "svg", "aria-label");
    assert!(labels.iter().all(|label| label.len() > 30), "{labels:?}");
    assert!(labels[0].starts_with("Throughput. Rows a second. "), "{}", labels[0]);
    assert_eq!(attribute(&found, "html", "lang"), ["en"]);
    let policy = attribute(&found, "meta", "content");
    assert!(
        policy.iter().any(|content| content.starts_with("default-src 'none'; style-src 'unsafe-inline'"))
    );
}

#[test]
fn a_page_of_plain_texts_holds_nothing_that_looks_like_a_reference() {
    let page =
        page(&example::report(vec![example::metrics_row(0, "classify", "main")], vec![example::sample(0)]));
    let outside = Regex::new(r"(?i)https?://|url\(|@import|<script|<link|\bsrc\s*=|\bhref\s*=").unwrap();
    assert_eq!(outside.find(&page).map(|found| found.as_str()), None);
}

#[test]
#[should_panic(expected = "Unexpected token")]
fn a_page_with_a_fault_does_not_parse() {
    elements("<!DOCTYPE html><title>x</title><p></div>");
}

/// A report in which every text is hostile.
pub(crate) fn hostile_report() -> Report {
    let hostile = example::hostile();
    let mut row = example::metrics_row(0, &hostile, &hostile);
    row.errors = [(hostile.clone(), 6)].into();
    let sample = super::data::Sample {
        step: hostile.clone(),
        source_file: hostile.clone(),
        inputs: vec![(hostile.clone(), hostile.repeat(40)); 30],
        answer: Some(hostile.repeat(9)),
        error: Some(hostile.clone()),
        ..example::sample(-1)
    };
    let mut report = example::report(vec![row], vec![sample; 60]);
    let header = &mut report.header;
    header.app_id = hostile.clone().into();
    for text in [&mut header.source, &mut header.target]
        .into_iter()
        .chain(&mut header.last_run)
        .chain(&mut header.without_commit)
    {
        text.clone_from(&hostile);
    }
    header.providers[0].name.clone_from(&hostile);
    header.providers[0].price = Some(hostile);
    report
}

#[test]
fn hostile_texts_stay_texts() {
    let page = page(&hostile_report());
    assert!(!page.contains(['\0', '\u{1b}', '\u{202e}', '\u{2066}', '\u{fffe}', '\u{85}']));
    assert_eq!(page.matches("<script").count() + page.matches("<img").count(), 0);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
}

#[test]
fn a_job_without_batches_says_so() {
    let page = page(&example::report(Vec::new(), Vec::new()));
    assert!(page.contains("No batch of this job is committed") && page.contains("There is no answer yet."));
    assert!(attribute(&elements(&page), "svg", "role").is_empty());
}

#[test]
fn one_batch_has_every_chart() {
    let page = page(&example::report(vec![example::metrics_row(0, "classify", "main")], Vec::new()));
    assert_eq!(attribute(&elements(&page), "svg", "role").len(), FIGURES.len());
    assert!(page.contains("50 rows a second on average."));
}

#[test]
fn a_batch_about_which_nothing_is_known_has_reasons_instead_of_charts() {
    let mut row = example::metrics_row(0, "classify", "local");
    row.committed_at = row.started_at - TimeDelta::seconds(3);
    row.errors.clear();
    row.cost = None;
    row.latency = None;
    row.load =
        Load { requests_share: Some(f64::NAN), tokens_share: Some(f64::NEG_INFINITY), ..Load::default() };
    let page = page(&example::report(vec![row], Vec::new()));
    for reason in [
        "less time than the clock can measure",
        "nothing is known of latency",
        "No request was sent",
        "No row ended in an error",
        "No request waited",
        "No price is known. Set price_per_million_input",
        "No limit is known",
    ] {
        assert!(page.contains(reason), "{reason}");
    }
}

#[test]
fn numbers_beyond_all_measure_draw_a_page() {
    let mut row = example::metrics_row(0, "classify", "main");
    row.batch_id = BatchId::new(u64::MAX);
    for number in [
        &mut row.rows,
        &mut row.answers,
        &mut row.tokens.prompt,
        &mut row.tokens.cached,
        &mut row.tokens.completion,
        &mut row.load.requests,
        &mut row.load.throttled,
        &mut row.shared,
    ] {
        *number = u64::MAX;
    }
    row.errors = [("timeout".to_owned(), u64::MAX), ("server".to_owned(), 1)].into();
    row.cost = Some(u64::MAX);
    row.latency = Some(LatencyQuantiles { p50: u64::MAX, p90: 1_420, p99: 0, max: 5_200 });
    (row.load.requests_share, row.load.tokens_share) = (Some(f64::MAX), Some(f64::INFINITY));
    row.load.waited_ms = example::waits([("pause", u64::MAX)]);
    let below = MetricsRow {
        cost: Some(0),
        started_at: chrono::DateTime::<chrono::Utc>::MIN_UTC,
        committed_at: chrono::DateTime::<chrono::Utc>::MAX_UTC,
        kind: RunKind::Retry,
        ..row.clone()
    };
    page(&example::report(vec![row.clone(), row.clone()], Vec::new()));
    page(&example::report(vec![row, below], Vec::new()));
}

#[test]
fn twenty_thousand_batches_make_a_page_of_no_more_than_120_buckets() {
    let steps = ["clean", "classify", "summarise"];
    let rows = (0..20_000).flat_map(|batch| {
        let row = move |step, provider| MetricsRow {
            run_id: example::run(&format!("019ce1f0-6a3b-7c41-9d52-{:012x}", batch / 20)),
            ..example::metrics_row(batch, step, provider)
        };
        steps.into_iter().flat_map(move |step| [row(step, "main"), row(step, "spare")])
    });
    let page = page(&example::report(rows.collect(), vec![example::sample(0); 20]));
    assert!(page.len() < 400_000, "{} bytes", page.len());
    let found = elements(&page);
    let most = attribute(&found, "polyline", "points").iter().map(|points| points.split(' ').count()).max();
    assert!(most.is_some_and(|points| points <= 2 * 120 + 1), "{most:?}");
    assert!(page.contains("The latest 60 of 1,000."));
}
