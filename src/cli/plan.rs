//! The command `enrich plan`: estimates what a run would take.

use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};

use super::exit::Exit;
use super::job::JobArguments;
use super::output::{self, Console};
use super::signals;
use crate::config::Keys;
use crate::event::Voice;
use crate::fault::is_format_control;
use crate::ident::Money;
use crate::inspect::{BatchForecast, Estimate, Forecast, ForecastOptions, PartForecast};
use crate::progress::Log;
use crate::run::Pilot;
use crate::simulator::Simulator;
use crate::wording::counted;

/// Half the width of an interval, as a share of the expected value, from which on the interval is shown.
const NO_WIDTH: f64 = 0.005;
/// Maximum number of characters shown of a prompt or an answer.
const SHOWN_CHARS: usize = 400;

#[derive(Debug, Args)]
pub(super) struct PlanArguments {
    #[command(flatten)]
    job: JobArguments,
    /// Really send this many rows, and keep the answers for the run
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pilot: Option<u64>,
    /// Number of rows whose prompt tokens are counted
    #[arg(long, value_name = "ROWS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    sample: u64,
    /// Number of prompts to show
    #[arg(long, value_name = "N", default_value_t = 2)]
    prompts: usize,
    /// Seed for choosing rows; the same number chooses the same rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Output format
    #[arg(long, value_enum, default_value_t = PlanFormat::Text, value_name = "FORMAT")]
    format: PlanFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    Text,
    Json,
}

pub(super) async fn plan(arguments: PlanArguments) -> anyhow::Result<Exit> {
    let console = Console::default();
    console.start_log("off,enrich=warn");
    let keys = if arguments.pilot.is_some() { Keys::Read } else { Keys::Unneeded };
    let job = arguments.job.load(keys)?;
    let stop = signals::watch_signals(&console)?;
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    let PlanArguments { pilot, sample, prompts, seed, .. } = arguments;
    let options = ForecastOptions { sample, pilot, seed, prompts };
    let url = simulator.as_ref().map(Simulator::url);
    let voice = Voice::new(vec![Box::new(Log::default())]);
    let forecast = crate::inspect::forecast(&job, options, stop, url, voice).await?;
    match arguments.format {
        PlanFormat::Json => output::data(serde_json::to_string(&forecast)?)?,
        PlanFormat::Text => output::data(text(&forecast, &arguments.job.typed()))?,
    };
    Ok(Exit::Done)
}

fn older(forecast: &Forecast) -> impl Iterator<Item = String> + '_ {
    let hint = "enrich run --restart sends all rows again";
    forecast.older.iter().map(move |older| format!("note         {older}: {hint}"))
}

fn text(forecast: &Forecast, typed: &str) -> String {
    let Forecast { rows, bytes, batches, sampled, .. } = forecast;
    let mut lines = vec![
        format!("job          {}", forecast.app_id),
        format!(
            "outstanding  {}, {} in {}",
            counted(*rows, "row"),
            HumanBytes(*bytes),
            counted(*batches, "batch")
        ),
    ];
    if *rows == 0 {
        lines.push("nothing to do: the source has no new rows".to_owned());
        lines.extend(older(forecast));
        return lines.join("\n");
    }
    let pilot = forecast.pilot.as_ref().map_or_else(String::new, |pilot| {
        let cost = match (pilot.cost_usd, pilot.paid_usd.unwrap_or_default()) {
            (Some(cost), paid) if paid < cost * 0.999 => {
                format!(" for {}, of which {} was paid now", dollars(cost), dollars(paid))
            }
            (Some(cost), _) => format!(" for {}", dollars(cost)),
            (None, _) => String::new(),
        };
        format!(", {} of them sent{cost}", HumanCount(pilot.rows))
    });
    lines.push(format!("sampled      {}{pilot}", counted(*sampled, "row")));
    for part in &forecast.parts {
        lines.extend(lines_of(part));
    }
    lines.push(String::new());
    let cost = forecast.cost_usd.as_ref();
    lines.push(format!(
        "cost         {}",
        cost.map_or_else(|| "unknown".to_owned(), |cost| in_words(cost, dollars))
    ));
    lines.extend(forecast.batch.iter().map(by_batch));
    let time = forecast.seconds.as_ref().map(|seconds| in_words(seconds, span));
    let by = forecast.bound_by.as_ref().map_or_else(String::new, |what| format!(", by {what}"));
    let time =
        time.unwrap_or_else(|| "unknown: no limit is configured, and --pilot was not given".to_owned());
    lines.push(format!("time         {time}{by}"));
    for note in &forecast.notes {
        lines.push(format!("note         {note}"));
    }
    lines.extend(older(forecast));
    for prompt in &forecast.prompts {
        lines.push(String::new());
        let (step, tokens) = (&prompt.step, counted(prompt.tokens, "token"));
        lines.push(format!("prompt of step {step}, row {} of {}, {tokens}:", prompt.row, prompt.file));
        lines.push(indented(&prompt.text));
    }
    if let Some(pilot) = &forecast.pilot {
        lines.extend(answers(pilot));
        lines.push(String::new());
        lines.push(format!("the answers are kept: enrich run {typed} does not request them again"));
    }
    lines.join("\n")
}

fn lines_of(part: &PartForecast) -> Vec<String> {
    let PartForecast { step, provider, model, .. } = part;
    let mut lines = vec![
        String::new(),
        format!("step {step} at {provider} ({model})"),
        format!("  rows       {}", in_words(&part.rows, count)),
        format!("  input      {}", tokens(&part.input_tokens)),
        format!("  output     {}", tokens(&part.output_tokens)),
    ];
    if let Some(cost) = &part.cost_usd {
        lines.push(format!("  cost       {}", in_words(cost, dollars)));
    }
    if let Some(seconds) = &part.seconds {
        lines.push(format!("  time       {}", in_words(seconds, span)));
    }
    lines
}

/// Describes what goes through a Batch API.
fn by_batch(batch: &BatchForecast) -> String {
    let BatchForecast { provider, cost_usd, online_cost_usd, files, steps, window } = batch;
    let figure = |estimate: &Estimate| estimate.expected.or(estimate.high);
    let known = cost_usd.as_ref().filter(|cost| figure(cost).is_some());
    let cost = known.map_or_else(|| "at an unknown cost".to_owned(), |cost| shortly(cost, dollars));
    let online = online_cost_usd.as_ref().and_then(figure);
    let share = known.and_then(figure).zip(online).map(|(cost, online)| (cost / online, online));
    let saving = match share {
        Some((share, online)) if (share - 0.5).abs() < NO_WIDTH => format!(" (half of {})", dollars(online)),
        Some((share, online)) if share < 1.0 - NO_WIDTH => format!(" (instead of {})", dollars(online)),
        _ => String::new(),
    };
    let number = shortly(files, count);
    let files = if number.rsplit(' ').next() == Some("1") { "file" } else { "files" };
    let time = match steps {
        1 => format!("within {window}"),
        _ => format!("up to {steps} x {window}"),
    };
    format!("by batch     {cost}{saving}, {number} {files} at {provider}, {time}")
}

/// Formats an estimate without its interval: `1,234`, `up to 5,000`.
fn shortly(estimate: &Estimate, show: fn(f64) -> String) -> String {
    match (estimate.expected, estimate.high) {
        (Some(expected), _) => show(expected),
        (None, Some(high)) => format!("up to {}", show(high)),
        (None, None) => "unknown".to_owned(),
    }
}

fn tokens(estimate: &Estimate) -> String {
    let words = in_words(estimate, |tokens| format!("{} tokens", count(tokens)));
    // The unit is written once.
    let nothing_after = words.split_once(" tokens (");
    nothing_after
        .map_or(words.clone(), |(first, rest)| format!("{first} tokens ({}", rest.replace(" tokens", "")))
}

/// Formats the rows that were sent, each with its inputs and outcomes.
pub(super) fn answers(pilot: &Pilot) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "sent         {}: {}, {}",
            counted(pilot.rows, "row"),
            counted(pilot.answers, "answer"),
            counted(pilot.errors, "error")
        ),
    ];
    for sample in &pilot.samples {
        lines.push(String::new());
        lines.push(format!("row {} of {}", sample.row, sample.file));
        for (name, text) in &sample.inputs {
            lines.push(format!("  {name}:"));
            lines.push(indented(text));
        }
        for (name, text) in &sample.outputs {
            lines.push(format!("  → {name}:"));
            lines.push(indented(text));
        }
    }
    lines
}

/// Formats an estimate: `1,234`, `1,234 (90 %: 1,100 to 1,400, ±12 %)`, `up to 5,000`.
fn in_words(estimate: &Estimate, show: fn(f64) -> String) -> String {
    let Estimate { low, expected, high } = *estimate;
    match (expected, high) {
        (Some(expected), Some(high)) if low >= expected && high <= expected => show(expected),
        // These are bounds of what is possible, not of what is likely.
        (Some(expected), Some(high)) if low <= 0.0 => {
            format!("{} perhaps, up to {}", show(expected), show(high))
        }
        (Some(expected), Some(high)) => {
            let width = if expected > 0.0 { (high - low) / 2.0 / expected } else { 0.0 };
            if width < NO_WIDTH {
                // So narrow an interval would state more precision than the estimate has.
                return format!("{}, about", show(expected));
            }
            format!("{} (90 %: {} to {}, ±{:.0} %)", show(expected), show(low), show(high), width * 100.0)
        }
        (Some(expected), None) => format!("{} perhaps, with no upper bound", show(expected)),
        (None, Some(high)) if low > 0.0 => format!("{} to {}", show(low), show(high)),
        (None, Some(high)) => format!("up to {}", show(high)),
        (None, None) if low > 0.0 => format!("{} at least", show(low)),
        (None, None) => "unknown".to_owned(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "estimates are not negative")]
fn count(value: f64) -> String {
    HumanCount(value.round() as u64).to_string()
}

fn dollars(value: f64) -> String {
    match Money::from_dollars(value) {
        Some(_) if value >= 0.1 => format!("${value:.2}"),
        Some(_) if value >= 0.01 => format!("${value:.3}"),
        Some(money) => money.to_string(),
        None => format!("${value:.0}"),
    }
}

fn span(seconds: f64) -> String {
    let Ok(span) = Duration::try_from_secs_f64(seconds) else { return "very long".to_owned() };
    // Two units are enough.
    let coarse = match span.as_secs() {
        0 => Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or_default()),
        seconds @ 1..3_600 => Duration::from_secs(seconds),
        seconds @ 3_600..86_400 => Duration::from_secs(seconds / 60 * 60),
        seconds => Duration::from_secs(seconds / 3_600 * 3_600),
    };
    humantime::format_duration(coarse).to_string()
}

fn indented(text: &str) -> String {
    // Text from a table may contain sequences that a terminal would execute.
    let is_shown = |c: &char| (!c.is_control() && !is_format_control(*c)) || matches!(c, '\n' | '\t');
    let mut shown: String = text.chars().filter(is_shown).take(SHOWN_CHARS).collect();
    if text.chars().filter(is_shown).count() > SHOWN_CHARS {
        shown.push('…');
    }
    let shown: Vec<String> = shown.lines().map(|line| format!("    {line}")).collect();
    shown.join("\n")
}
