//! Simulators that behave in some way: how quick they are, what they bill, which faults they have.

use std::time::Duration;

use enrich::config::{FaultSpec, SimulatorSpec, Span, WrongForm};

use super::source::text_of;

/// The prices of [`dear`], as lines of a provider.
pub const PRICES: &str = "price_per_million_input = 2.0\nprice_per_million_output = 8.0";

/// A line of a provider that sends no second request beside one that takes long, as one at a shut gate does.
pub const PATIENT: &str = "hedge = \"off\"";

/// A simulator that bills 2 and 8 dollars for a million tokens.
pub fn dear() -> SimulatorSpec {
    SimulatorSpec { price_per_million_input: 2.0, price_per_million_output: 8.0, ..SimulatorSpec::default() }
}

/// A simulator whose answers take so many milliseconds.
pub fn slow(millis: u64) -> SimulatorSpec {
    SimulatorSpec { latency: Some(Span(Duration::from_millis(millis))), ..SimulatorSpec::default() }
}

/// A simulator with one fault.
pub fn faulty(fault: FaultSpec) -> SimulatorSpec {
    with_faults(vec![fault])
}

/// A simulator with these faults.
pub fn with_faults(faults: Vec<FaultSpec>) -> SimulatorSpec {
    SimulatorSpec { faults, ..SimulatorSpec::default() }
}

/// A simulator that refuses prompts with a text in them, so many times each.
pub fn refusing(text: &str, times: Option<u32>) -> SimulatorSpec {
    faulty(FaultSpec { status: Some(400), contains: Some(text.into()), times, ..fault() })
}

/// A fault of which nothing is set: the start of every other.
pub fn fault() -> FaultSpec {
    toml::from_str("").unwrap()
}

/// A fault that answers with something other than what was asked for.
pub fn wrong(wrong: WrongForm, share: f64, times: Option<u32>) -> FaultSpec {
    FaultSpec { wrong: Some(wrong), share, times, ..fault() }
}

/// Faults that refuse the prompts of these rows.
pub fn refusals(ids: impl IntoIterator<Item = i64>, status: u16, code: &str) -> Vec<FaultSpec> {
    let refusal = |id| FaultSpec {
        contains: Some(text_of(id)),
        status: Some(status),
        code: Some(code.to_owned()),
        ..fault()
    };
    ids.into_iter().map(refusal).collect()
}
