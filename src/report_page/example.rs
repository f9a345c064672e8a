//! Made-up reports for tests. Nothing is random: the same report is made each time.

use std::collections::BTreeMap;

use super::data::{PageSubject, ProviderLabel, Report, Sample};
use crate::ident::{BatchId, Lineage, RunId, Tokens};
use crate::metrics::{LatencyQuantiles, Load, MetricsRow, RunKind, WAITS};

use chrono::{DateTime, TimeDelta, Utc};

/// Returns a number from 0 to 1 that looks random and depends on `number` alone.
pub(crate) fn noise(number: u64) -> f64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap()) / f64::from(u32::MAX)
}

pub(crate) fn begin() -> DateTime<Utc> {
    DateTime::from_timestamp(1_773_324_312, 0).unwrap()
}

/// Picodollars in a millionth of a dollar.
const PICODOLLARS: u64 = 1_000_000;

/// Returns the id of a run from its text.
pub(crate) fn run(id: &str) -> RunId {
    serde_json::from_value(id.into()).unwrap()
}

/// Returns the times waited, in milliseconds, of some reasons.
pub(crate) fn waits<const N: usize>(of: [(&str, u64); N]) -> [u64; WAITS.len()] {
    WAITS.map(|(_, name)| of.iter().find(|(reason, _)| *reason == name).map_or(0, |(_, waited)| *waited))
}

/// A row of metrics of one provider in a batch of 500 rows that took ten seconds.
pub(crate) fn metrics_row(batch: u64, step: &str, provider: &str) -> MetricsRow {
    let started_at = begin() + TimeDelta::seconds(10 * i64::try_from(batch).unwrap_or_default());
    MetricsRow {
        app_id: "tickets".into(),
        lineage: Lineage::random(),
        kind: RunKind::Run,
        run_id: run("019ce1f0-6a3b-7c41-9d52-1f0f6a3b7c41"),
        batch_id: BatchId::new(batch),
        step: step.to_owned(),
        provider: Some(provider.to_owned()),
        started_at,
        committed_at: started_at + TimeDelta::seconds(10),
        rows: 500,
        answers: 490,
        skipped: 4,
        errors: BTreeMap::from([("timeout".to_owned(), 4), ("bad_answer".to_owned(), 2)]),
        shared: 20,
        tokens: Tokens { prompt: 160_000, cached: 60_000, completion: 22_000, reasoning: 0 },
        cost: Some(31_200 * PICODOLLARS),
        latency: Some(LatencyQuantiles { p50: 640, p90: 1_420, p99: 3_100, max: 5_200 }),
        attempts: 510,
        lines: 0,
        load: Load {
            requests: 510,
            throttled: 0,
            waited_ms: waits([("requests_per_minute", 1_200)]),
            requests_share: Some(0.7),
            tokens_share: Some(0.45),
        },
        counters: 0,
    }
}

pub(crate) fn sample(row: i64) -> Sample {
    Sample {
        step: "classify".to_owned(),
        source_file: "year=2026/part-00012-3f9a7c.snappy.parquet".to_owned(),
        source_row: row,
        inputs: vec![
            ("subject".to_owned(), "Refund for an order that never came".to_owned()),
            ("body".to_owned(), "I ordered two lamps three weeks ago. ".repeat(12)),
        ],
        answer: Some(r#"{"category": "refund", "urgency": 3, "language": "en"}"#.to_owned()),
        error: None,
        cost_microdollars: Some(312),
        tokens: Some(412),
        latency_ms: Some(840),
    }
}

pub(crate) fn report(metrics: Vec<MetricsRow>, samples: Vec<Sample>) -> Report {
    let provider = |name: &str, model: &str, price: Option<&str>| ProviderLabel {
        name: name.to_owned(),
        model: model.to_owned(),
        price: price.map(str::to_owned),
    };
    Report {
        header: PageSubject {
            app_id: "tickets".into(),
            source: "s3://lake/tickets/raw".to_owned(),
            target: "s3://lake/tickets/labelled".to_owned(),
            made_at: begin() + TimeDelta::hours(80),
            last_run: Some("2026-03-05 08:00:00 UTC: complete".to_owned()),
            without_commit: vec!["2026-03-05 07:00:00 UTC: provider: main: auth: HTTP 401".to_owned()],
            providers: vec![
                provider("main", "small-4", Some("$0.15 in, $0.075 cached, $0.60 out for a million tokens")),
                provider("spare", "mini-2", Some("$0.25 in, $1.00 out for a million tokens")),
                provider("local", "open-8b", None),
            ],
        },
        metrics,
        slowest: samples.clone(),
        dearest: samples.clone(),
        samples,
    }
}

/// Two steps, three providers, 200 batches in two runs and a retry, with an outage of the first provider.
pub(crate) fn realistic() -> Report {
    let mut metrics = Vec::new();
    for batch in 0_u32..200 {
        for (index, step) in ["classify", "summarise"].into_iter().enumerate() {
            for (at, provider) in ["main", "spare", "local"].into_iter().enumerate() {
                let seed = u64::from(batch) * 6 + u64::try_from(index * 3 + at).unwrap();
                metrics.extend(realistic_row(batch, step, provider, noise(seed)));
            }
        }
    }
    metrics.push(MetricsRow {
        provider: None,
        rows: 320,
        answers: 0,
        skipped: 320,
        errors: BTreeMap::new(),
        shared: 0,
        tokens: Tokens::default(),
        cost: None,
        latency: None,
        load: Load { requests: 510, ..Load::default() },
        ..metrics_row(12, "summarise", "main")
    });
    let mut report = report(metrics, texts());
    report.slowest.sort_by_key(|sample| std::cmp::Reverse(sample.latency_ms));
    report.dearest.sort_by_key(|sample| std::cmp::Reverse(sample.cost_microdollars));
    report
}

fn realistic_row(batch: u32, step: &str, provider: &str, chance: f64) -> Option<MetricsRow> {
    let is_outage = (60..75).contains(&batch);
    let part = match (provider, is_outage, step) {
        ("main", false, _) => 0.72,
        ("main", true, _) => 0.04,
        ("spare", false, _) => 0.22,
        ("spare", true, _) => 0.9,
        (_, _, "classify") => 0.06,
        _ => return None,
    };
    let slow = f64::from(u8::from(is_outage)) * 2.6 + 1.0;
    let number = |value: f64| u64::try_from(rounded(value)).unwrap();
    let of = |value: u64, factor: f64| number(f64::from(u32::try_from(value).unwrap()) * factor);
    let base = metrics_row(u64::from(batch), step, provider);
    let (kind, id, gap) = match batch {
        ..140 => (RunKind::Run, "019ce1f0-6a3b-7c41-9d52-1f0f6a3b7c41", 0),
        140..192 => (RunKind::Run, "019ce5a2-11f0-7d0e-8b11-7a2c55aa90e4", 19),
        _ => (RunKind::Retry, "019ceb77-9c4d-7a55-b3f2-0c9d1be7f6a2", 47),
    };
    let length = 34.0 * slow * (0.8 + 0.4 * noise(u64::from(batch)));
    let started_at = begin() + TimeDelta::hours(gap) + TimeDelta::seconds(i64::from(batch) * 40);
    let errors = if is_outage { number(22.0 * chance) } else { number(5.0 * chance * chance) };
    let small = if kind == RunKind::Retry { 0.1 } else { 1.0 };
    let weight = part * small * (0.85 + 0.3 * chance);
    let classes = [("timeout", 0.5), ("server", 0.25), ("rate_limited", 0.15), ("bad_answer", 0.1)];
    let tokens = if step == "classify" { 1.0 } else { 2.4 };
    let is_first = step == "classify";
    let limited = chance > 0.55 || is_outage;
    Some(MetricsRow {
        kind,
        run_id: run(id),
        started_at,
        committed_at: started_at + TimeDelta::milliseconds(i64::try_from(number(length * 1e3)).unwrap()),
        rows: of(2_000, weight),
        answers: of(2_000, weight).saturating_sub(errors),
        skipped: 0,
        shared: of(60, weight),
        errors: classes.map(|(class, share)| (class.to_owned(), of(errors, share))).into(),
        tokens: Tokens {
            prompt: of(640_000, weight * tokens),
            cached: of(230_000, weight * tokens * chance),
            completion: of(72_000, weight * tokens),
            reasoning: of(9_000, weight),
        },
        cost: (provider != "local").then(|| of(140_000, weight * tokens) * PICODOLLARS),
        latency: Some(LatencyQuantiles {
            p50: of(620, slow * tokens * (0.8 + 0.5 * chance)),
            p90: of(1_500, slow * tokens * (0.8 + 0.5 * chance)),
            p99: of(3_900, slow * tokens * (0.7 + 0.9 * chance)),
            max: of(9_800, slow * tokens * (0.7 + 0.9 * chance)),
        }),
        load: if is_first {
            Load {
                requests: of(2_060, weight),
                throttled: if limited { of(90, weight * chance * slow) } else { 0 },
                waited_ms: waits([
                    ("requests_per_minute", of(52_000, weight)),
                    ("tokens_per_minute", of(130_000, weight * chance)),
                    ("pause", if limited { of(9_000, chance) } else { 0 }),
                    ("backoff", of(4_000, chance * slow)),
                    ("breaker", if is_outage && provider == "main" { 60_000 } else { 0 }),
                ]),
                requests_share: (provider != "local").then_some((part * 0.9 + 0.15 * chance).min(1.0)),
                tokens_share: (provider == "main").then_some((part * 1.05 + 0.2 * chance).min(1.0)),
            }
        } else {
            Load::default()
        },
        ..base
    })
}

fn rounded(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "numbers of a made-up report are small")]
    let rounded = value.max(0.0).round() as i64;
    rounded
}

fn texts() -> Vec<Sample> {
    let long = "The lamp arrived with a broken shade and the parcel service says that it is not their fault. I have \
                pictures of the box. I would rather have a new one than the money, if it comes before the weekend. ";
    let bodies = [
        ("Refund for an order that never came".to_owned(), long.repeat(2)),
        (
            "طلب لم يصل".to_owned(),
            "مرحبا، طلبت مصباحين قبل ثلاثة أسابيع ولم يصل شيء حتى الآن. الرقم #48213 من فضلكم.".to_owned(),
        ),
        ("<script>alert('hi')</script>".to_owned(), hostile()),
        (
            "Where is my invoice? 🧾".to_owned(),
            "Hi,\n\ncould you send the invoice of 3 March again?\n\nThanks 🙏🏽".to_owned(),
        ),
        ("log".to_owned(), format!("{}\n", "0x7fffdeadbeef".repeat(30)).repeat(20)),
    ];
    let samples = (0..).zip(bodies).map(|(row, (subject, body))| Sample {
        source_row: 1_204 + row * 977,
        inputs: vec![("subject".to_owned(), subject), ("body".to_owned(), body)],
        answer: (row != 4).then(|| match row {
            0 => long.repeat(9),
            _ => sample(0).answer.unwrap(),
        }),
        error: (row == 4)
            .then(|| "bad_answer: the answer is no JSON: expected value at line 1 column 1".to_owned()),
        cost_microdollars: (row != 1).then_some(41_800 - row * 9_000),
        latency_ms: Some(48_200 - u64::try_from(row).unwrap() * 11_100),
        tokens: Some(18_204),
        ..sample(row)
    });
    samples.collect()
}

/// Returns text as hostile as that of tables can be.
pub(crate) fn hostile() -> String {
    "</style></script><script src=\"//evil.example/x.js\">alert(1)</script><img src=x onerror=alert(1)> & \"q\" 'q' \
     {{ 7 * 7 }} {% raw %} ]]> <!-- \u{0}\u{7}\u{1b}[31m \u{202e}drowkcab\u{2066} \u{fffe}\u{85}\r\nz\u{301}\u{301} 👩‍👩‍👧‍👦"
        .to_owned()
}
