//! What a target demands of its rows: CHECK constraints, invariants of columns, columns that are never null.
//!
//! A row whose answers break one becomes an error row. A row that breaks one as an error row too cannot be written
//! at all: that is told before anything is asked about its batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::columns::outputs;
use super::settled::{FilledBatch, Outcome, Settled};
use super::target::TargetError;
use crate::config::Job;
use crate::fault::{Class, Failure};
use crate::source::Chunk;
use crate::store::Location;
use crate::table::{Condition, Table};

/// What the rows of a target must meet.
#[derive(Debug)]
pub struct Constraints {
    checks: Vec<Check>,
    /// The target's columns, none of which need have a value.
    schema: SchemaRef,
    outputs: Vec<String>,
    at: Location,
}

#[derive(Debug)]
struct Check {
    /// The demand in words.
    demand: String,
    condition: Condition,
}

/// Outcomes that became errors because the target does not take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// That were answers.
    pub answers: u64,
    /// For which nothing was asked.
    pub skipped: u64,
}

impl Constraints {
    /// Those of a job's target.
    ///
    /// # Errors
    /// When one of them cannot be checked, or no row of this job could meet it.
    pub fn of(job: &Job, table: &Table) -> Result<Self, TargetError> {
        let schema = table.schema()?;
        let nullable: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let nullable: SchemaRef = Arc::new(Schema::new(nullable));
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let required = schema.fields().iter().filter(|field| !field.is_nullable());
        let demands = required.map(|field| {
            (
                format!("the column {:?} is never null", field.name()),
                format!("{} IS NOT NULL", quoted(field.name())),
            )
        });
        let constraints = table.constraints()?.into_iter().map(|(name, expression)| {
            // Spark quotes names in its own way.
            let expression = expression.replace('`', "\"");
            (format!("the constraint {name} ({expression})"), expression)
        });
        let mut checks = Vec::new();
        for (demand, expression) in demands.chain(constraints) {
            let wrong = |message: String| TargetError::Constraint {
                at: table.at().clone(),
                demand: demand.clone(),
                message,
            };
            let condition = Condition::new(&expression, &nullable)
                .map_err(|message| wrong(format!("it cannot be checked here: {message}")))?;
            let own = |at: &&usize| Some(nullable.field(**at).name()) == job.target.metadata_column.as_ref();
            if condition.columns().iter().any(|at| own(&at)) {
                return Err(wrong("it speaks of the column that this program writes for itself".to_owned()));
            }
            checks.push(Check { demand, condition });
        }
        let outputs = job.steps.iter().map(|step| step.output.clone()).collect();
        Ok(Constraints { checks, schema: nullable, outputs, at: table.at().clone() })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.checks.len()
    }

    /// Whether the target takes any row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// Makes sure that rows can be written if nothing but errors comes of them.
    ///
    /// # Errors
    /// The first row that cannot be, with the demand that it does not meet.
    pub fn admit(&self, chunk: &Chunk) -> Result<(), TargetError> {
        let failed = vec![Settled::unasked(shortest(Class::Constraint)); chunk.physical.len()];
        let outcomes: Vec<&[Settled]> = self.outputs.iter().map(|_| failed.as_slice()).collect();
        for check in &self.checks {
            let met = self.met(check, chunk, &outcomes).map_err(|message| TargetError::Constraint {
                at: self.at.clone(),
                demand: check.demand.clone(),
                message,
            })?;
            if let Some(at) = (0..met.len()).find(|at| !met.value(*at)) {
                return Err(TargetError::Unwritable {
                    at: self.at.clone(),
                    demand: check.demand.clone(),
                    file: chunk.file.to_string(),
                    row: chunk.physical[at],
                });
            }
        }
        Ok(())
    }

    /// Turns outcomes that break a demand into errors.
    ///
    /// # Errors
    /// When a demand cannot be checked.
    pub fn judge(&self, batch: &mut FilledBatch) -> Result<Turned, String> {
        let mut turned = Turned::default();
        let mut first = 0;
        for chunk in 0..batch.chunks.len() {
            let end = first + batch.chunks[chunk].physical.len();
            for check in &self.checks {
                // First with words, then as short as can be.
                for detail in
                    [format!("{} is not met by what was to be written", check.demand), String::new()]
                {
                    let outcomes: Vec<&[Settled]> =
                        batch.outcomes.iter().map(|step| &step[first..end]).collect();
                    let met = self.met(check, &batch.chunks[chunk], &outcomes)?;
                    let broken: Vec<usize> = (0..met.len()).filter(|at| !met.value(*at)).collect();
                    for at in broken {
                        self.turn(check, &detail, &mut batch.outcomes, first + at, &mut turned);
                    }
                }
            }
            first = end;
        }
        Ok(turned)
    }

    /// Makes errors of the outcomes of a row that a check is about.
    fn turn(
        &self,
        check: &Check,
        detail: &str,
        outcomes: &mut [Vec<Settled>],
        row: usize,
        turned: &mut Turned,
    ) {
        for (output, step) in self.outputs.iter().zip(outcomes) {
            let outcome = &mut step[row].outcome;
            if !self.is_about(check, output) {
                continue;
            }
            *outcome = match outcome {
                // A check that a kept outcome has a part in was met with another one.
                Outcome::Kept => continue,
                Outcome::Failed(failure) if failure.class != Class::Constraint => shortest(failure.class),
                Outcome::Failed(_) => shortest(Class::Constraint),
                Outcome::Answer(_) => {
                    turned.answers += 1;
                    Outcome::Failed(Failure::new(Class::Constraint, detail))
                }
                Outcome::Skipped => {
                    turned.skipped += 1;
                    Outcome::Failed(Failure::new(Class::Constraint, detail))
                }
            };
        }
    }

    fn is_about(&self, check: &Check, column: &str) -> bool {
        check.condition.columns().iter().any(|at| self.schema.field(*at).name() == column)
    }

    /// For each row of a chunk whether it meets a demand, with these outcomes by step.
    fn met(&self, check: &Check, chunk: &Chunk, outcomes: &[&[Settled]]) -> Result<BooleanArray, String> {
        let rows = self.rows(check, chunk, outcomes).map_err(|error| error.to_string())?;
        let met = check.condition.holds(&rows)?;
        let is_kept = |at: usize| {
            let of_check =
                self.outputs.iter().zip(outcomes).filter(|(output, _)| self.is_about(check, output));
            of_check.into_iter().any(|(_, step)| step[at].outcome == Outcome::Kept)
        };
        Ok((0..met.len()).map(|at| Some(met.value(at) || is_kept(at))).collect())
    }

    /// The columns that a check reads.
    fn rows(&self, check: &Check, chunk: &Chunk, outcomes: &[&[Settled]]) -> Result<RecordBatch, ArrowError> {
        let schema = Arc::new(self.schema.project(check.condition.columns())?);
        let count = chunk.physical.len();
        let column = |field: &Arc<Field>| -> Result<ArrayRef, ArrowError> {
            let step = self.outputs.iter().position(|output| output == field.name());
            let column = match step {
                Some(step) => outputs(outcomes[step].iter()),
                None => match chunk.rows.column_by_name(field.name()) {
                    Some(column) => Arc::clone(column),
                    None => new_null_array(field.data_type(), count),
                },
            };
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(&column, field.data_type(), &options)
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let count = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(schema, columns, &count)
    }
}

fn shortest(class: Class) -> Outcome {
    Outcome::Failed(Failure::new(class, ""))
}
