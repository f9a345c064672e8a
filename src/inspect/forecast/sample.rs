//! A random sample of the source's rows, and the requests that a run would send for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::figures::ShownPrompt;
use crate::checkpoint::{FileRange, PlannedBatch};
use crate::config::{Job, Shape};
use crate::enricher::{CompiledStep, Prepared};
use crate::panics;
use crate::plan::Planner;
use crate::prompt::{Question, Rendered, Rows};
use crate::rows::Chunk;
use crate::run::RunError;
use crate::source::{RowMask, RowReader};
use crate::tokens::tokenizer::Encoding;

/// Returns `count` of the numbers below `all`, in order; each set of them is as likely as any other (Floyd's
/// algorithm; Bentley, *Programming Pearls: A Sample of Brilliance*, 1987).
pub(super) fn choose(all: u64, count: u64, random: &mut fastrand::Rng) -> Vec<u64> {
    let mut chosen = BTreeSet::new();
    for last in all - count.min(all)..all {
        let drawn = random.u64(..=last);
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

/// Reads rows of planned batches. `chosen` holds their indices, counted over all batches.
pub(super) async fn read(
    planner: &mut Planner,
    reader: &mut RowReader,
    batches: &[PlannedBatch],
    chosen: &[u64],
) -> Result<Vec<Chunk>, RunError> {
    let mut files: BTreeMap<String, (FileRange, BTreeSet<u64>)> = BTreeMap::new();
    let mut first = 0;
    let mut left = chosen;
    for batch in batches {
        let end = first + batch.rows();
        let (own, rest) = left.split_at(left.partition_point(|row| *row < end));
        left = rest;
        let mut indices: BTreeSet<u64> = own.iter().map(|row| row - first).collect();
        first = end;
        for part in &batch.parts {
            if indices.is_empty() {
                break;
            }
            let kept = planner.source_mut().kept(part, batch.condition.as_deref()).await?;
            let rows: Vec<u64> = kept.rows(part.rows()).collect();
            let later = indices.split_off(&(rows.len() as u64));
            let found = indices.iter().filter_map(|at| rows.get(usize::try_from(*at).ok()?));
            let (whole, physical) =
                files.entry(part.file.clone()).or_insert_with(|| (part.clone(), BTreeSet::new()));
            whole.start = whole.start.min(part.start);
            whole.end = whole.end.max(part.end);
            physical.extend(found);
            indices = later.into_iter().map(|at| at - rows.len() as u64).collect();
        }
    }
    let mut chunks = Vec::new();
    for (part, physical) in files.into_values().filter(|(_, physical)| !physical.is_empty()) {
        let end = usize::try_from(part.end).unwrap_or(usize::MAX);
        let mut list = vec![false; end];
        for row in &physical {
            list[usize::try_from(*row).unwrap_or(usize::MAX)] = true;
        }
        let kept = RowMask::undeleted(Some(Arc::from(list)));
        let mut own = std::mem::replace(reader, planner.source().reader());
        let task = tokio::task::spawn_blocking(move || {
            let read = own.read(&part, &kept);
            (own, read)
        });
        let (own, read) = task.await.map_err(|error| RunError::Task(error.to_string()))?;
        *reader = own;
        chunks.extend(read?);
    }
    Ok(chunks)
}

/// A sampled row, and the requests that a run would send for it.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) file: Arc<str>,
    pub(super) row: u64,
    /// The request of each step.
    pub(super) requests: Vec<SampleRequest>,
}

/// The request of a step for a sampled row.
#[derive(Debug)]
pub(super) enum SampleRequest {
    /// This question.
    Of {
        /// Index of the provider that gets it first.
        provider: usize,
        question: Question,
        /// Number of its tokens, as counted here.
        tokens: usize,
    },
    /// No request.
    Nothing,
    /// It depends on the answers of earlier steps.
    Unknown,
}

/// Renders the requests for each row of the chunks, in their order.
pub(super) fn look(job: &Job, prepared: &Prepared, chunks: &[Chunk]) -> Vec<Looked> {
    let encodings: Vec<Encoding> = job
        .providers
        .iter()
        .map(|provider| Encoding::of(&provider.model).unwrap_or_else(Encoding::usual))
        .collect();
    let mut looked = Vec::new();
    for chunk in chunks {
        let rows = Rows::new(chunk.rows.clone());
        for (at, row) in chunk.physical.iter().enumerate() {
            let steps = prepared.steps.iter().enumerate();
            let request = |(nth, step)| {
                panics::catch(|| request_of(job, step, nth, &rows, at, &encodings))
                    .unwrap_or(SampleRequest::Nothing)
            };
            let requests = steps.map(request).collect();
            looked.push(Looked { file: Arc::clone(&chunk.file), row: *row, requests });
        }
    }
    looked
}

fn request_of(
    job: &Job,
    step: &CompiledStep,
    nth: usize,
    rows: &Rows,
    at: usize,
    encodings: &[Encoding],
) -> SampleRequest {
    if !step.needs.is_empty() {
        return SampleRequest::Unknown;
    }
    if step.when.as_ref().is_some_and(|when| !when.holds_in(rows, at)) {
        return SampleRequest::Nothing;
    }
    let Ok(Rendered::Ask(question)) = step.prompt.render(rows, at, Vec::new()) else {
        return SampleRequest::Nothing;
    };
    let route = step.routes.iter().position(|route| route.holds_in(rows, at));
    let providers = match route {
        Some(route) => &step.spec.routes[route].providers,
        None => &step.spec.providers,
    };
    // With `balance` each provider of the list gets the same number of rows.
    let place = if step.spec.balance { (at + nth) % providers.len() } else { 0 };
    let is_urgent = step.urgent.as_ref().is_some_and(|urgent| urgent.holds_in(rows, at));
    let mut online =
        providers.iter().filter(|provider| is_urgent && job.providers[**provider].batch.is_none());
    let provider = *online.next().unwrap_or(&providers[place]);
    let texts = question.messages().iter().map(|message| message.content.as_str());
    let schema = step.spec.params.shape.as_ref().map(Shape::text);
    let tokens = encodings[provider].count_conversation(texts.chain(schema));
    SampleRequest::Of { provider, question, tokens }
}

/// Returns the prompts of the first `most` rows, for the steps where they are known.
pub(super) fn prompts(job: &Job, looked: &[Looked], most: usize) -> Vec<ShownPrompt> {
    let shown = looked.iter().take(most).flat_map(|row| {
        row.requests.iter().zip(&job.steps).filter_map(|(request, step)| {
            let SampleRequest::Of { question, tokens, .. } = request else { return None };
            let texts: Vec<&str> =
                question.messages().iter().map(|message| message.content.as_str()).collect();
            let (step, file) = (step.output.clone(), row.file.to_string());
            Some(ShownPrompt { step, file, row: row.row, text: texts.join("\n\n"), tokens: *tokens as u64 })
        })
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_rows_is_chosen_alike() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen: BTreeMap<Vec<u64>, u32> = BTreeMap::new();
        for _ in 0..10_000 {
            *seen.entry(choose(5, 2, &mut random)).or_default() += 1;
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.values().all(|times| (850..1_150).contains(times)), "{seen:?}");
        assert_eq!(choose(3, 9, &mut random), [0, 1, 2]);
        assert!(choose(0, 9, &mut random).is_empty());
    }
}
