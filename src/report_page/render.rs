//! Renders the page.

use super::charts;
use super::data::{PageSubject, Report};
use super::figure::Figure;
use super::format;
use super::plot::DrawingError;
use super::tables::{self, PageTable, SampleOrder, Section, Tile};
use super::work::Work;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// Reason why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A chart could not be drawn.
    #[error(transparent)]
    Drawing(#[from] DrawingError),
    /// The template does not match its data.
    #[error("the page could not be put together")]
    Template(#[from] minijinja::Error),
}

/// Renders the page as HTML.
///
/// # Errors
/// When a chart cannot be drawn or the template cannot be filled. Both are faults of this program, not of the report.
pub fn render(report: &Report) -> Result<String, PageError> {
    let work = Work::of(&report.metrics);
    let lists = [&report.slowest, &report.dearest, &report.samples].map(Vec::as_slice);
    let bytes = tables::text_bytes(lists);
    let sections = [SampleOrder::Slowest, SampleOrder::Dearest, SampleOrder::Sampled].into_iter().zip(lists);
    let sections = sections.map(|(order, samples)| Section::new(order, samples, bytes));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("page", TEMPLATE)?;
    let page = environment.get_template("page")?.render(Serde(PageTemplate {
        style: STYLE,
        head: PageTitle::of(&report.header),
        work: work.as_ref().map(PageBody::of).transpose()?,
        sections: sections.collect(),
    }))?;
    Ok(page)
}

/// Data of the template.
#[derive(Serialize)]
struct PageTemplate {
    style: &'static str,
    head: PageTitle,
    work: Option<PageBody>,
    sections: Vec<Section>,
}

/// The subject of the page, as text.
#[derive(Serialize)]
struct PageTitle {
    app_id: String,
    source: String,
    target: String,
    made_at: String,
    last_run: Option<String>,
    without_commit: Vec<String>,
    providers: Vec<[String; 3]>,
}

impl PageTitle {
    fn of(header: &PageSubject) -> PageTitle {
        let line = |text: &str| format::in_line(text, 200);
        let providers = header.providers.iter().map(|provider| {
            let price = provider.price.as_deref().unwrap_or("price unknown");
            [line(&provider.name), line(&provider.model), line(price)]
        });
        PageTitle {
            app_id: line(&header.app_id),
            source: line(&header.source),
            target: line(&header.target),
            made_at: format::moment(header.made_at),
            last_run: header.last_run.as_deref().map(|message| format::in_line(message, 1_000)),
            without_commit: header
                .without_commit
                .iter()
                .map(|message| format::in_line(message, 300))
                .collect(),
            providers: providers.collect(),
        }
    }
}

/// The part of the page that the metrics fill.
#[derive(Serialize)]
struct PageBody {
    tiles: Vec<Tile>,
    note: String,
    figures: Vec<Figure>,
    tables: [PageTable; 2],
}

impl PageBody {
    fn of(work: &Work<'_>) -> Result<PageBody, DrawingError> {
        Ok(PageBody {
            tiles: tables::tiles(work),
            note: note(work),
            figures: vec![
                charts::throughput_figure(work)?,
                charts::latency_figure(work)?,
                charts::requests_figure(work)?,
                charts::error_rate_figure(work)?,
                charts::error_classes_figure(work)?,
                charts::waiting_figure(work)?,
                charts::tokens_figure(work)?,
                charts::cost_figure(work)?,
                charts::quota_figure(work)?,
            ],
            tables: [tables::steps_table(work), tables::runs_table(work)],
        })
    }
}

/// Returns a note on how to read the charts.
fn note(work: &Work<'_>) -> String {
    let mut note = match work.buckets.number() {
        1 => "The curves are level, because they tell of one batch.".to_owned(),
        _ => format!("Each step of a curve is {} long.", format::seconds(work.buckets.seconds())),
    };
    note.push_str(" Times are UTC.");
    if work.buckets.timeline().cuts().next().is_some() {
        note.push_str(" Idle time between runs is cut out where a dashed line stands.");
    }
    note
}
