//! The short form: the real binary against the real simulator. What is refused is counted there; how much of
//! the quota was used depends on the machine and is only printed.

use enrich::config::{HeaderFamily, LimitSpec, LimitWindow, SimulatorSpec};
use serde_json::Value;

use crate::stops::{slow, world_of};
use crate::support::{World, append_delta, rows};

fn limited(per_minute: u32, window: LimitWindow, seconds: u32) -> SimulatorSpec {
    SimulatorSpec { requests: Some(LimitSpec { per_minute, window, seconds: Some(seconds) }), ..slow(50) }
}

/// Runs a job with more lines for its provider; its summary, and the share of requests that got a 429.
async fn summary(world: &World, provider: &str) -> (Value, f64) {
    world.write_text(&world.usual_job(provider).replace("max_concurrency = 4", "max_concurrency = 64"));
    let ran = world.run(&["--summary", "json"]).await;
    ran.assert_status(0).assert_says("0 errors");
    let counts = world.simulator.counts();
    let refused = counts.statuses.get(&429).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let throttled = refused as f64 / counts.requests as f64;
    (serde_json::from_str(&ran.stdout).unwrap(), throttled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_limit_is_kept() {
    for window in [LimitWindow::TokenBucket, LimitWindow::FixedWindow, LimitWindow::SlidingWindow] {
        let world = world_of(limited(6_000, window, 1), 400).await;
        let (summary, throttled) = summary(&world, "requests_per_minute = 6000").await;
        println!("{window:?}: {}, 429s {throttled:.4}", summary["providers"]["sim"]["limits"]);
        assert!(throttled <= 0.01, "{window:?}: {throttled}");
        world.assert_target(0..400).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_headers_state_is_kept() {
    for headers in [HeaderFamily::Openai, HeaderFamily::Azure, HeaderFamily::Anthropic] {
        let spec = SimulatorSpec { headers, ..limited(6_000, LimitWindow::TokenBucket, 1) };
        let world = world_of(spec, 300).await;
        let (summary, throttled) = summary(&world, "").await;
        let limits = &summary["providers"]["sim"]["limits"];
        println!("{headers:?}: {limits}, 429s {throttled:.4}");
        assert_eq!(limits[0]["per_minute"], 6_000.0, "{headers:?}");
        assert!(throttled <= 0.05, "{headers:?}: {throttled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_kept_beside_the_checkpoint_and_may_be_damaged() {
    let world = world_of(limited(3_000, LimitWindow::TokenBucket, 1), 300).await;
    let (_, throttled) = summary(&world, "").await;
    assert!(throttled > 0.0, "the limit was met");
    let path = world.path("target/_checkpoints/test/learned.json");
    let read = || -> Value { serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap() };
    let per_minute = read()["sim"]["requests_per_minute"].as_f64().unwrap();
    assert!((1_000.0..9_000.0).contains(&per_minute), "{per_minute}");
    for (from, damaged) in [(300, "{"), (320, r#"{"sim":{"requests_per_minute":-5,"concurrency":0}}"#)] {
        std::fs::write(&path, damaged).unwrap();
        append_delta(&world.path("source"), &rows(from..from + 20)).await;
        world.run(&[]).await.assert_status(0).assert_says("20 answers, 0 errors");
    }
}
