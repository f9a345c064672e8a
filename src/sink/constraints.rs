//! Constraints that a target puts on its rows: CHECK constraints, column invariants, non-nullable columns.
//!
//! A row whose answers break a constraint becomes an error row. A row that breaks one even as an error row cannot be
//! written at all: this is reported before any request is sent for its batch.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::columns::place;
use super::error::TargetError;
use crate::fault::{Class, Failure};
use crate::rows::Chunk;
use crate::rows::OutputColumns;
use crate::rows::{ConstraintErrors, FilledBatch, LoadedOutcomes, Outcome, RowResult};
use crate::store::Location;
use crate::table::{Condition, Table, TableError};

/// The constraints that rows of a target must meet.
#[derive(Debug)]
pub struct Constraints {
    checks: Vec<Check>,
    /// The target's columns, all of them nullable.
    schema: SchemaRef,
    outputs: Vec<OutputColumns>,
    partitions: Vec<String>,
    at: Location,
    /// The columns and constraints of the table from which these checks were built.
    made_of: TableDeclaration,
}

/// The columns and constraints that a table declares.
#[derive(Clone, Debug, PartialEq)]
struct TableDeclaration {
    schema: SchemaRef,
    /// Pairs of a constraint's name and its SQL expression.
    expressions: Vec<(String, String)>,
    partitions: Vec<String>,
}

impl TableDeclaration {
    fn of(table: &Table) -> Result<Self, TableError> {
        Ok(TableDeclaration {
            schema: table.schema()?,
            expressions: table.constraints()?,
            partitions: table.partition_columns()?,
        })
    }
}

#[derive(Debug)]
struct Check {
    /// The constraint in words, for messages.
    demand: String,
    condition: Condition,
}

/// Maximum length of a folder name on common file systems, in bytes.
const FOLDER_BYTES: usize = 255;

impl Constraints {
    /// Builds the constraints of a version of the target, to which these outputs and this metadata column are
    /// written.
    ///
    /// # Errors
    /// When a constraint cannot be checked.
    pub(super) fn of(
        outputs: &[OutputColumns],
        metadata_column: Option<&str>,
        table: &Table,
    ) -> Result<Self, TargetError> {
        let made_of = TableDeclaration::of(table)?;
        let schema = Arc::clone(&made_of.schema);
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
        let constraints = made_of.expressions.iter().map(|(name, expression)| {
            // Spark quotes names with backticks.
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
            let is_own = |at: &usize| Some(nullable.field(*at).name().as_str()) == metadata_column;
            if condition.columns().iter().any(is_own) {
                return Err(wrong("it speaks of the column that this program writes for itself".to_owned()));
            }
            checks.push(Check { demand, condition });
        }
        Ok(Constraints {
            checks,
            schema: nullable,
            outputs: outputs.to_vec(),
            partitions: made_of.partitions.clone(),
            at: table.at().clone(),
            made_of,
        })
    }

    /// Whether a version of the target has the columns and constraints from which these checks were built.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn are_of(&self, table: &Table) -> Result<bool, TableError> {
        Ok(self.made_of == TableDeclaration::of(table)?)
    }

    /// Builds the constraints for a retry, which has only the new outcomes of a row.
    ///
    /// # Errors
    /// As [`Constraints::of`], and when a constraint reads more than one output.
    pub(super) fn of_retry(
        outputs: &[OutputColumns],
        metadata_column: &str,
        table: &Table,
    ) -> Result<Self, TargetError> {
        let constraints = Self::of(outputs, Some(metadata_column), table)?;
        let outputs = |check: &Check| {
            constraints.outputs.iter().filter(|output| constraints.is_about(check, output)).count()
        };
        match constraints.checks.iter().find(|check| outputs(check) > 1) {
            None => Ok(constraints),
            Some(check) => Err(TargetError::Constraint {
                at: constraints.at.clone(),
                demand: check.demand.clone(),
                message: "it is about several outputs, of which a retry may write one: enrich run --restart sends whole rows".to_owned(),
            }),
        }
    }

    /// Returns the number of constraints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.checks.len()
    }

    /// Whether the target has no constraints.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// Checks that rows can be written even if every outcome is an error.
    ///
    /// # Errors
    /// For the first row that cannot be written, with the constraint that it breaks.
    pub fn admit(&self, chunk: &Chunk) -> Result<(), TargetError> {
        let failed = vec![
            RowResult::without_request(Outcome::Failed(Failure::new(Class::Constraint, "")));
            chunk.physical.len()
        ];
        let outcomes: Vec<&[RowResult]> = self.outputs.iter().map(|_| failed.as_slice()).collect();
        let unwritable = |demand: &str, at: usize| self.unwritable(demand, chunk, at);
        self.all_met(chunk, &outcomes)?;
        for column in &self.partitions {
            let Some(values) = chunk.rows.column_by_name(column) else { continue };
            let values = cast_with_options(values, &DataType::Utf8, &CastOptions::default());
            let values = values.map_err(|error| self.unchecked(column, &error))?;
            let values = values.as_string::<i32>();
            let room = FOLDER_BYTES.saturating_sub(encoded(column) + 1);
            let is_long = |at: &usize| values.is_valid(*at) && encoded(values.value(*at)) > room;
            if let Some(at) = (0..values.len()).find(is_long) {
                let demand =
                    format!("a folder can be named {column}=<value> in at most {FOLDER_BYTES} bytes");
                return Err(unwritable(&demand, at));
            }
        }
        Ok(())
    }

    /// Checks that the rows of a chunk with these outcomes meet every constraint.
    fn all_met(&self, chunk: &Chunk, outcomes: &[&[RowResult]]) -> Result<(), TargetError> {
        for check in &self.checks {
            let met = self.met(check, chunk, outcomes)?;
            if let Some(at) = met.iter().position(|met| !met) {
                return Err(self.unwritable(&check.demand, chunk, at));
            }
        }
        Ok(())
    }

    fn unwritable(&self, demand: &str, chunk: &Chunk, at: usize) -> TargetError {
        TargetError::Unwritable {
            at: self.at.clone(),
            demand: demand.to_owned(),
            file: chunk.file.to_string(),
            row: chunk.physical[at],
        }
    }

    /// Turns outcomes that break a constraint into errors, and returns counts of them for each step.
    ///
    /// # Errors
    /// When a column of the source does not fit that of the target, or a row breaks a constraint even as an error.
    /// The latter happens only to constraints that were added after [`admit`](Constraints::admit).
    pub fn apply_constraints(&self, batch: &mut FilledBatch) -> Result<Vec<ConstraintErrors>, TargetError> {
        let mut turned = vec![ConstraintErrors::default(); self.outputs.len()];
        if self.checks.is_empty() {
            return Ok(turned);
        }
        for (first, chunk) in batch.pieces() {
            let rows = first..first + chunk.physical.len();
            // The error that one constraint made of a row may break another constraint. So all are checked again
            // after each measure, and each measure writes less than the one before, down to the row that `admit`
            // found to meet them all.
            for measure in [Measure::Tell, Measure::Shorten, Measure::Least] {
                let mut broken = false;
                for check in &self.checks {
                    let outcomes = self.loaded(batch, rows.clone())?;
                    let outcomes: Vec<&[RowResult]> = outcomes.iter().map(AsRef::as_ref).collect();
                    let met = self.met(check, &chunk, &outcomes)?;
                    for at in (0..met.len()).filter(|at| !met[*at]) {
                        broken = true;
                        self.turn(check, measure, &mut batch.outcomes, first + at, &mut turned);
                    }
                }
                if !broken {
                    break;
                }
                if measure == Measure::Least {
                    let outcomes = self.loaded(batch, rows.clone())?;
                    let outcomes: Vec<&[RowResult]> = outcomes.iter().map(AsRef::as_ref).collect();
                    self.all_met(&chunk, &outcomes)?;
                }
            }
        }
        Ok(turned)
    }

    fn loaded<'a>(
        &self,
        batch: &'a FilledBatch,
        rows: Range<usize>,
    ) -> Result<LoadedOutcomes<'a>, TargetError> {
        let error = |source| TableError { action: "write to", at: self.at.clone(), source: Box::new(source) };
        batch.load(rows).map_err(|source| error(source).into())
    }

    /// Turns the outcomes of a row that a check reads into errors; with [`Measure::Least`] all outcomes of the row.
    fn turn(
        &self,
        check: &Check,
        measure: Measure,
        outcomes: &mut [Vec<RowResult>],
        row: usize,
        turned: &mut [ConstraintErrors],
    ) {
        let steps = self.outputs.iter().zip(outcomes).zip(turned);
        for ((output, step), turned) in steps {
            let outcome = &mut step[row].outcome;
            let is_concerned = measure == Measure::Least || self.is_about(check, output);
            if !is_concerned || *outcome == Outcome::Unchanged {
                continue;
            }
            match outcome {
                Outcome::Answer(_) => turned.answers += 1,
                Outcome::Skipped => turned.skipped += 1,
                Outcome::Failed(_) | Outcome::Unchanged => {}
            }
            let failure = match (measure, &*outcome) {
                (Measure::Least, _) => Failure::new(Class::Constraint, ""),
                (_, Outcome::Failed(failure)) => Failure::new(failure.class, ""),
                _ => Failure::new(
                    Class::Constraint,
                    format!("{} is not met by what was to be written", check.demand),
                ),
            };
            if failure.class == Class::Constraint {
                turned.example.get_or_insert_with(|| failure.clone());
            }
            *outcome = Outcome::Failed(failure);
        }
    }

    fn is_about(&self, check: &Check, output: &OutputColumns) -> bool {
        check.condition.columns().iter().any(|at| output.has(self.schema.field(*at).name()))
    }

    /// Returns for each row of a chunk, with these outcomes by step, whether it meets a constraint. A constraint that
    /// cannot be evaluated for a row counts as broken.
    fn met(&self, check: &Check, chunk: &Chunk, outcomes: &[&[RowResult]]) -> Result<Vec<bool>, TargetError> {
        let rows = self.rows(check, chunk, outcomes);
        let rows = rows.map_err(|error| self.unchecked(&check.demand, &error))?;
        let about = self.outputs.iter().zip(outcomes).filter(|(output, _)| self.is_about(check, output));
        let about: Vec<&[RowResult]> = about.map(|(_, step)| *step).collect();
        // An unchanged outcome met the constraint when it was written.
        let is_unchanged = |at: usize| about.iter().any(|step| step[at].outcome == Outcome::Unchanged);
        let met = check.condition.of_rows(&rows).into_iter().enumerate();
        Ok(met.map(|(at, met)| met.unwrap_or(false) || is_unchanged(at)).collect())
    }

    fn unchecked(&self, demand: &str, error: &ArrowError) -> TargetError {
        TargetError::Constraint { at: self.at.clone(), demand: demand.to_owned(), message: error.to_string() }
    }

    /// Builds the columns that a check reads.
    fn rows(
        &self,
        check: &Check,
        chunk: &Chunk,
        outcomes: &[&[RowResult]],
    ) -> Result<RecordBatch, ArrowError> {
        let schema = Arc::new(self.schema.project(check.condition.columns())?);
        let count = chunk.physical.len();
        let column = |field: &Arc<Field>| -> Result<ArrayRef, ArrowError> {
            let column = match place(&self.outputs, field.name()) {
                Some((step, at)) => self.outputs[step].arrays(&outcomes[step].iter())?.swap_remove(at),
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

/// How an outcome that breaks a constraint is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// An answer becomes an error with a message; an error loses its message.
    Tell,
    /// Errors lose their message.
    Shorten,
    /// Every outcome of the row becomes the shortest possible error.
    Least,
}

/// Upper bound of a text's bytes in a folder name, where all but ASCII letters and digits may be percent-encoded.
fn encoded(text: &str) -> usize {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { 1 } else { 3 }).sum()
}
